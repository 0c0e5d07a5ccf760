"""Clips that writing covers: subtitles, title cards, watermarks (an option of ours, no part of App. A.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from video_alchemist.curation.clip import Clip, Outcome
from video_alchemist.curation.probe import reject

if TYPE_CHECKING:
    from video_alchemist.pretrained.text_detector import TextDetector


def keep_textless(clip: Clip, detector: TextDetector, max_text: float) -> Outcome:
    """The clip with measure "text_area": the share of the frame that is text, in that of the three with most."""
    assert clip.pixels is not None, "decode a clip before looking for text"
    frames = list(clip.pixels.frames)
    area = max(text_area(lines, frame) for lines, frame in zip(detector(frames), frames, strict=True))
    clip = replace(clip, measures={**clip.measures, "text_area": area})
    if area > max_text:
        return reject(clip, "text_overlay", f"text on {area:.0%} of a frame; accepted up to {max_text:.0%}")
    return clip


def text_area(lines: Sequence[np.ndarray], frame: np.ndarray) -> float:
    """Share of the frame (H, W, 3) in lines of text, each given by its corners (4, 2); overlaps count once."""
    covered = np.zeros(frame.shape[:2], np.uint8)
    for line in lines:
        cv2.fillPoly(covered, [line.round().astype(np.int32)], 1)
    return float(covered.mean())
