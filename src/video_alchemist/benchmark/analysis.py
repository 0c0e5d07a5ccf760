"""A generated video as the metrics of §4.2 see it: what several of them share is computed once, when first asked for.

Roles cut their work to what their device holds; `batch` bounds what lies between them: masks, crops and flows.

F frames · H,W pixels · d channels of an embedding
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from video_alchemist.benchmark.motion import interval
from video_alchemist.benchmark.rows import Row
from video_alchemist.dataset.shards import did_you_mean
from video_alchemist.pretrained.detector import Detection, Reading
from video_alchemist.pretrained.image_text import on_square

if TYPE_CHECKING:
    from video_alchemist.benchmark.models import EvaluationModels
    from video_alchemist.benchmark.protocol import Protocol
    from video_alchemist.benchmark.samples import Sample

FOREHEAD, CHIN = 0.17, 0.03  # shares of a face's box by which it grows, as the references' did
PixelBox = tuple[int, int, int, int]  # x0, y0, x1, y1
WHITE = 255


@dataclass(frozen=True)
class Video:
    """frames: (F, H, W, 3) uint8, at least one."""

    frames: np.ndarray
    fps: float


@dataclass(frozen=True)
class Sighting:
    """A word in a frame. mask: (h, w) bool, the part of the box that lies in the frame. Scores in [0, 1]."""

    box: PixelBox
    mask: np.ndarray
    detection_score: float
    mask_score: float

    def cut_out(self, frame: np.ndarray) -> np.ndarray:
        """(h, w, 3) uint8, white where the mask is not."""
        x0, y0, x1, y1 = self.box
        return np.where(self.mask[..., None], frame[y0:y1, x0:x1], np.uint8(WHITE))


class Analysis:
    def __init__(
        self,
        video: Video,
        sample: Sample,
        models: EvaluationModels,
        protocol: Protocol,
        batch: int = 8,
        conditioned: Sequence[str] | None = None,
    ) -> None:
        """conditioned: words whose pictures the method was given; None = the subjects'. TooShort where the protocol
        has no use for the video."""
        self.video = video
        self.sample = sample
        self.models = models
        self.protocol = protocol
        self.batch = batch
        self.frames = protocol.frames(video.frames)
        # All words with pictures, in the caption's order: what the detector is asked for at once.
        self.words = tuple(dict.fromkeys(target.word for target in sample.targets if target.pictures))
        known = [target.word for target in sample.targets]
        for word in conditioned or ():
            if word not in known:
                near = did_you_mean(word, known)
                raise ValueError(f"{sample.id} has no target {word!r}; expected one of {known}{near}")
        given = [target.word for target in sample.subjects] if conditioned is None else conditioned
        judged = known if protocol.subject_words == "all" else given
        # Those whose similarity counts: by their pictures, and by their faces.
        self.judged_words = tuple(word for word in self.words if word in judged)
        self.people = tuple(target for target in sample.subjects if target.faces and target.word in judged)

    def row(self, metric: str, value: float | None, word: str = "", frames: int = 0, note: str = "") -> Row:
        return Row(self.sample.id, metric, None if value is None else float(value), word, frames, note)

    # --------------------------------------------------------------------------------------------------------------
    # Whole frames

    @cached_property
    def frame_embeddings(self) -> np.ndarray:
        """(F, d), by the image and text encoder."""
        return self.embed_frames(self.frames)

    def embed_frames(self, frames: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """Frames (H, W, 3) uint8 => (n, d), by the image and text encoder."""
        whole = self.protocol.crop_type == "long"
        parts = [
            self.models.image_text.images([on_square(one, 0) if whole else one for one in frames[part]])
            for part in self._parts(len(frames), 4 * self.batch)
        ]
        return np.concatenate(parts)

    @cached_property
    def flows(self) -> list[np.ndarray]:
        """Of each pair of consecutive frames, of those that are compared, (h, w, 2) float32: some 8 a second, so that
        they take no more room than the frames. None of one frame, or where the protocol compares none."""
        step = interval(self.video.fps, self.protocol)
        seen = self.frames[::step] if step else self.frames[:1]
        found: list[np.ndarray] = []
        for part in self._parts(len(seen) - 1):
            first, second = seen[:-1][part], seen[1:][part]
            found.extend(self.models.optical_flow(first, second, padded=self.protocol.padded_flow))
        return found

    # --------------------------------------------------------------------------------------------------------------
    # Subjects and objects

    @cached_property
    def detections(self) -> list[dict[str, list[Detection]]]:
        """Per frame and word, the best box and the best elsewhere, whatever their scores."""
        return self.detect(self.frames)

    def detect(self, frames: Sequence[np.ndarray] | np.ndarray) -> list[dict[str, list[Detection]]]:
        """All words in frames (H, W, 3) uint8."""
        protocol = self.protocol
        reading = Reading(protocol.joined_prompt, protocol.runs_inside_words, protocol.clamp_boxes)
        # Only Grounding DINO can be asked as the released code asks it; in the ordinary way, any detector.
        options = {} if reading == Reading() else {"reading": reading}
        if not self.words:
            return [{} for _ in frames]
        found = self.models.detector(list(frames), [self.words] * len(frames), **options)
        return [dict(zip(self.words, row, strict=True)) for row in found]

    @cached_property
    def sightings(self) -> dict[str, list[Sighting | None]]:
        """By word, per frame; None where the word is missing."""
        found: dict[str, list[Sighting | None]] = {word: [None] * len(self.frames) for word in self.words}
        boxes = [self._boxes(row) for row in self.detections]
        for part in self._parts(len(self.frames)):
            arrays = [np.array([box for box, _ in row.values()], np.float32).reshape(-1, 4) for row in boxes[part]]
            answers = self.models.segmenter(list(self.frames[part]), arrays)
            for i, (masks, scores) in zip(range(*part.indices(len(boxes))), answers, strict=True):
                for (word, (box, score)), mask, mask_score in zip(boxes[i].items(), masks, scores, strict=True):
                    if mask_score > self.protocol.mask_score:
                        x0, y0, x1, y1 = box
                        inside = mask[y0:y1, x0:x1].copy()  # a view would keep the whole frame's mask
                        found[word][i] = Sighting(box, inside, score, float(mask_score))
        return found

    def _boxes(self, detections: dict[str, list[Detection]]) -> dict[str, tuple[PixelBox, float]]:
        """Of the words that are seen well enough in a frame, box and score."""
        best = {word: row[0] for word, row in detections.items() if row}
        found = {
            word: (pixel_box(one.box, self.protocol), one.score)
            for word, one in best.items()
            if one.score > self.protocol.detection_score
        }
        size = self.frames.shape[1:3]
        return {word: one for word, one in found.items() if fits(one[0], size, self.protocol.max_overhang)}

    @cached_property
    def subject_embeddings(self) -> dict[str, list[np.ndarray | None]]:
        """By word, per frame (d,), by the subject encoder; None where the word is missing."""
        found: dict[str, list[np.ndarray | None]] = {word: [None] * len(self.frames) for word in self.words}
        seen = [(word, i) for word in self.words for i, one in enumerate(self.sightings[word]) if one]
        for part in self._parts(len(seen), 4 * self.batch):
            pictures = []
            for word, i in seen[part]:
                sighting = self.sightings[word][i]
                assert sighting is not None
                pictures.append(sighting.cut_out(self.frames[i]))
            for (word, i), embedding in zip(seen[part], self.models.subject_encoder(pictures), strict=True):
                found[word][i] = embedding
        return found

    @cached_property
    def reference_embeddings(self) -> dict[str, np.ndarray]:
        """By word, all its pictures (n, d), by the subject encoder."""
        return {
            target.word: self.models.subject_encoder([on_white(one) for one in target.pictures])
            for target in self.sample.targets
            if target.pictures
        }

    # --------------------------------------------------------------------------------------------------------------
    # Faces

    @cached_property
    def faces(self) -> list[list[PixelBox]]:
        """Per frame, the faces' boxes with hair and chin, best first."""
        found = []
        for part in self._parts(len(self.frames)):
            frames = self.frames[part]
            shown = np.ascontiguousarray(frames[..., ::-1]) if self.protocol.flip_face_colours else frames
            for faces in self.models.face_detector(list(shown)):
                likely = [one for one in faces if one.score > self.protocol.face_score]
                if self.protocol.first_face_only:
                    likely = likely[:1]
                boxes = [face_box(one.box, frames.shape[1:3], self.protocol) for one in likely]
                found.append([box for box in boxes if box[2] > box[0] and box[3] > box[1]])
        return found

    @cached_property
    def face_embeddings(self) -> list[np.ndarray]:
        """Per frame (n, d), by the face embedder."""
        seen = [(i, box) for i, boxes in enumerate(self.faces) for box in boxes]
        found: list[list[np.ndarray]] = [[] for _ in self.faces]
        for part in self._parts(len(seen), 4 * self.batch):
            crops = [self.frames[i][y0:y1, x0:x1] for i, (x0, y0, x1, y1) in seen[part]]
            for (i, _), embedding in zip(seen[part], self.models.face_embedder(crops), strict=True):
                found[i].append(embedding)
        return [np.array(some) for some in found]

    def _parts(self, length: int, size: int | None = None) -> Iterator[slice]:
        step = size or self.batch
        return (slice(first, min(first + step, length)) for first in range(0, length, step))


def on_white(picture: np.ndarray) -> np.ndarray:
    """A cut-out (h, w, 4) uint8 => (h, w, 3), white where alpha is 0."""
    return np.where(picture[..., 3:] == 0, np.uint8(WHITE), picture[..., :3])


def pixel_box(box: Sequence[float], protocol: Protocol) -> PixelBox:
    x0, y0, x1, y1 = (int(side) if protocol.truncate_boxes else round(side) for side in box)
    return x0, y0, x1, y1


def fits(box: PixelBox, size: Sequence[int], max_overhang: int) -> bool:
    """Whether a box has pixels, and lies in a frame of size (H, W), but for what may reach over one edge."""
    x0, y0, x1, y1 = box
    right, below = max(x1 - size[1], 0), max(y1 - size[0], 0)
    has_pixels = x0 < min(x1, size[1]) and y0 < min(y1, size[0])
    # Left and above nothing may: there, the released code cuts its masks from the wrong end.
    return has_pixels and x0 >= 0 and y0 >= 0 and min(right, below) == 0 and max(right, below) <= max_overhang


def face_box(box: Sequence[float], size: Sequence[int], protocol: Protocol) -> PixelBox:
    """A detected face => with hair and chin, inside a frame of size (H, W)."""
    x0, y0, x1, y1 = map(round, box)
    top = max(int(y0 - FOREHEAD * (y1 - y0)), 0)
    if protocol.chained_face_box:
        return x0, top, x1, min(int(y1 + CHIN * (y1 - top)), size[0] - 1)
    return x0, top, x1, min(int(y1 + CHIN * (y1 - y0)), size[0])
