"""Role: where text is in a frame, so that clips with writing laid over them can be left out (an option of ours).

H,W pixels · S pixels of the square that the network sees
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

# ImageNet's statistics of R, G, B, which PP-OCR applies to B, G, R.
MEAN, DEVIATION = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
MIN_SIDE = 3.0  # of the square's pixels; what is smaller is noise
UNCLIP = 2.0  # the network draws lines thinner than they are, by area / perimeter times about this


class TextDetector(Protocol):
    def __call__(self, frames: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
        """Frames (H, W, 3) uint8 RGB of any sizes => each one's lines of text: corners (4, 2) float32, x and y."""
        ...


class DBTextDetector:
    """A network of the kind DB (differentiable binarisation) as an ONNX file: PP-OCR's detectors of any version, such
    as `text_detection_en_ppocrv3_2023may.onnx` of OpenCV's model zoo (Apache 2.0).

    It answers with the probability of text in every pixel. OpenCV's own reader of it, `TextDetectionModel_DB`, takes
    answers of shape (S, S) only; those files have (1, 1, S, S).
    """

    def __init__(self, path: str | Path, size: int = 736, min_pixel: float = 0.3, min_line: float = 0.5) -> None:
        """size: of the square, a multiple of 32. min_pixel, min_line: probabilities from which a pixel, and on average
        a line, is text."""
        if not Path(path).is_file():
            raise ValueError(f"no such text detector: {str(path)!r}; expected an ONNX file")
        self.size, self.min_pixel, self.min_line = size, min_pixel, min_line
        try:
            self.network = cv2.dnn.readNetFromONNX(str(path))
        except cv2.error as error:
            raise ValueError(f"{str(path)!r} is not an ONNX file that OpenCV can read: {error.err}") from error
        try:
            answer = self._forward(np.zeros((size, size, 3), np.float32)).shape
        except cv2.error as error:
            raise ValueError(f"{str(path)!r} does not take pictures of {size} x {size}; give its own size") from error
        if answer not in ((size, size), (1, size, size), (1, 1, size, size)):
            raise ValueError(f"{str(path)!r} answers {answer}; expected (1, 1, {size}, {size})")

    def __call__(self, frames: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
        return [self._lines(frame) for frame in frames]

    def _forward(self, picture: np.ndarray) -> np.ndarray:
        self.network.setInput(picture.transpose(2, 0, 1)[None])
        return self.network.forward()

    def _lines(self, frame: np.ndarray) -> list[np.ndarray]:
        """Like OpenCV's model zoo, and unlike PP-OCR, the frame is stretched."""
        seen = cv2.cvtColor(cv2.resize(frame, (self.size, self.size), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR)
        text = self._forward(((seen - MEAN) / DEVIATION).astype(np.float32)).reshape(self.size, self.size)
        scale = np.array(frame.shape[1::-1]) / self.size
        likely = (text > self.min_pixel).astype(np.uint8)
        contours, _ = cv2.findContours(likely, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        corners = [_grown(contour) for contour in contours if _mean_inside(text, contour) >= self.min_line]
        return [(one * scale).astype(np.float32) for one in corners if one is not None]


def _mean_inside(text: np.ndarray, contour: np.ndarray) -> float:
    x, y, width, height = cv2.boundingRect(contour)
    inside = np.zeros((height, width), np.uint8)
    cv2.fillPoly(inside, [contour - (x, y)], 1)
    return float(cv2.mean(text[y : y + height, x : x + width], inside)[0])


def _grown(contour: np.ndarray) -> np.ndarray | None:
    """The line that a contour is the middle of: its corners (4, 2), or None where that is too small."""
    centre, (width, height), angle = cv2.minAreaRect(contour)
    if min(width, height) < MIN_SIDE:
        return None
    growth = UNCLIP * width * height / (width + height)  # on both sides together
    return cv2.boxPoints((centre, (width + growth, height + growth), angle))
