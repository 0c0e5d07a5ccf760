"""Faces made unrecognisable, where they may not be shown (an option of ours, no part of §3.1). H,W pixels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import cv2
import numpy as np

from video_alchemist.curation.clip import Box

if TYPE_CHECKING:
    from video_alchemist.pretrained.face_detector import FaceDetector

GROWTH = 0.2  # of the box's sides, all around: detectors leave ears and chins out
CELLS = 4  # all that remains of a face: so many squares across and down
FRAMES = 8  # that are looked at together; no more wait in memory


def hide_faces(frames: Iterable[np.ndarray], detector: FaceDetector, score: float) -> Iterator[np.ndarray]:
    """The same frames (H, W, 3) uint8, each face in them pixelated that is detected with at least this score."""
    frames = iter(frames)
    while batch := list(islice(frames, FRAMES)):
        for frame, faces in zip(batch, detector(batch), strict=True):
            yield _pixelated(frame, [face.box for face in faces if face.score >= score])


def _pixelated(frame: np.ndarray, boxes: Sequence[Box]) -> np.ndarray:
    """A copy without what lies in the boxes, grown."""
    frame = frame.copy()
    for x0, y0, x1, y1 in boxes:
        across, down = GROWTH * (x1 - x0), GROWTH * (y1 - y0)
        rows = slice(max(math.floor(y0 - down), 0), max(math.ceil(y1 + down), 0))
        columns = slice(max(math.floor(x0 - across), 0), max(math.ceil(x1 + across), 0))
        part = frame[rows, columns]
        if part.size:
            cells = cv2.resize(part, (CELLS, CELLS), interpolation=cv2.INTER_AREA)
            part[:] = cv2.resize(cells, part.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return frame
