"""A profile for tests whose roles need no network: a dog is red, a robot blue, a green clip a screen recording."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from video_alchemist.curation.faces import FaceRules
from video_alchemist.curation.grounding import Grounding
from video_alchemist.curation.probe import Limits
from video_alchemist.curation.profile import CurationProfile, Models
from video_alchemist.curation.roles import Roles

PROFILE = CurationProfile(
    name="squares",
    models=Models(),
    limits=Limits(min_seconds=1.0, max_seconds=4.0, min_side=32),
    grounding=Grounding(min_side=4.0),
    faces=FaceRules(min_side=4.0),
    batch=4,
)
COLOURS = {"dog": (255, 0, 0), "robot": (0, 0, 255)}


class Found(NamedTuple):
    """A detection, or a face; those of `pretrained` would bring torch into every worker."""

    box: tuple[float, ...]
    score: float


def where(frame: np.ndarray, word: str) -> np.ndarray:
    """(H, W) bool: pixels of a word's colour."""
    return np.abs(frame.astype(int) - COLOURS[word]).max(axis=-1) < 70


class Squares(Roles):
    """A jump of light is a cut; masks fill their boxes."""

    @property
    def shot_detector(self):  # type: ignore[override]
        return lambda tiny: np.append(np.abs(np.diff(tiny.astype(float).mean(axis=(1, 2, 3)))) > 60, 0).astype(
            np.float32
        )

    @property
    def clip_filter(self):  # type: ignore[override]
        class Greens:
            size = 16

            def __call__(self, clips: np.ndarray) -> np.ndarray:
                green = (clips[..., 1].astype(int) - clips[..., 0] > 100).mean(axis=(1, 2, 3)) > 0.8
                return np.stack([0 * green, 0 * green, 0 * green, 0.9 * green], axis=1).astype(np.float32)

        return Greens()

    @property
    def detector(self):  # type: ignore[override]
        def detect(frames: Sequence[np.ndarray], words: Sequence[Sequence[str]]) -> list:
            return [[self._found(frame, word) for word in row] for frame, row in zip(frames, words, strict=True)]

        return detect

    @staticmethod
    def _found(frame: np.ndarray, word: str) -> list[Found]:
        rows, columns = np.nonzero(where(frame, word)) if word in COLOURS else ([], [])
        if len(rows) < 9:
            return []
        return [Found((columns.min(), rows.min(), columns.max() + 1.0, rows.max() + 1.0), 0.9)]

    @property
    def segmenter(self):  # type: ignore[override]
        def segment(frames: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> list:
            answers = []
            for frame, rows in zip(frames, boxes, strict=True):
                masks = np.zeros((len(rows), *frame.shape[:2]), bool)
                for mask, (x0, y0, x1, y1) in zip(masks, rows.astype(int), strict=True):
                    mask[y0:y1, x0:x1] = True
                answers.append((masks, np.full(len(rows), 0.97, np.float32)))
            return answers

        return segment

    @property
    def face_detector(self):  # type: ignore[override]
        def detect(frames: Sequence[np.ndarray]) -> list[list[Found]]:
            left = [float(where(frame, "dog").any(axis=0).argmax()) for frame in frames]
            return [[Found((x + 4, 20.0, x + 28, 40.0), 0.9)] for x in left]

        return detect
