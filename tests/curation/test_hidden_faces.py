"""Faces that may not be shown are gone from every frame, and nothing else is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from video_alchemist.curation.hidden_faces import CELLS, FRAMES, hide_faces
from video_alchemist.pretrained.face_detector import Face


def noise(count: int) -> np.ndarray:
    """(F, 40, 60, 3); the first pixel tells the frame's number."""
    frames = np.random.default_rng(0).integers(0, 256, (count, 40, 60, 3), dtype=np.uint8)
    frames[:, 0, 0] = np.arange(count)[:, None]
    return frames


def test_nothing_of_a_face_is_left() -> None:
    """Guards against the face's rim, weak faces hidden too, changed backgrounds, and pictures changed in place."""
    frames = noise(1)
    before = frames.copy()
    faces = [Face((10, 10, 30, 20), 0.3), Face((50, 30, 60, 40), 0.9), Face((0, 30, 5, 35), 0.29)]
    (hidden,) = hide_faces(frames, lambda pictures: [faces], 0.3)
    assert np.array_equal(frames, before)
    changed = (hidden != before[0]).any(axis=-1)
    wanted = np.zeros((40, 60), bool)
    wanted[8:22, 6:34] = wanted[28:, 48:] = True  # grown by a fifth on every side, up to the frame's edge
    assert not changed[~wanted].any() and changed[wanted].mean() > 0.95
    assert len(np.unique(hidden[8:22, 6:34].reshape(-1, 3), axis=0)) <= CELLS**2


def test_every_frame_in_order_few_at_a_time() -> None:
    """Guards against a video that is in memory as a whole, and frames lost or given another's faces."""
    seen: list[int] = []
    frames = noise(2 * FRAMES + 3)

    def detector(pictures: Sequence[np.ndarray]) -> list[list[Face]]:
        seen.append(len(pictures))
        return [[Face((20, 10, 21 + int(frame[0, 0, 0]), 30), 0.9)] for frame in pictures]

    hidden = list(hide_faces(iter(frames), detector, 0.5))
    assert seen == [FRAMES, FRAMES, 3]
    for number, (one, other) in enumerate(zip(hidden, frames, strict=True)):
        columns = np.flatnonzero((one != other).any(axis=(0, 2)))
        assert columns[-1] == int(np.ceil(21 + number + 0.2 * (number + 1))) - 1
