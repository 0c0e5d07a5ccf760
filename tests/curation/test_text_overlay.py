"""Text counts by the area that it covers, in the worst of the three frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from video_alchemist.curation.clip import Clip, Pixels, Rejected, Source
from video_alchemist.curation.codes import CODES
from video_alchemist.curation.text_overlay import keep_textless, text_area


def line(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float32)


def test_overlapping_lines_count_once() -> None:
    """Guards against x and y swapped, shares above 1, and lines that reach out of the frame."""
    frame = np.zeros((40, 100, 3), np.uint8)
    assert text_area([], frame) == 0
    assert text_area([line(0, 30, 99, 39), line(20, 30, 60, 39)], frame) == pytest.approx(0.25)
    assert text_area([line(-50, -50, 200, 200)], frame) == 1


@pytest.mark.parametrize(("share", "kept"), [(0.25, True), (0.24, False)])
def test_the_worst_frame_counts(share: float, kept: bool) -> None:
    """Guards against a title card that is only in the first frame, and against a measure that gets lost."""
    frames = np.zeros((3, 40, 100, 3), np.uint8)

    def detector(pictures: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
        return [[line(0, 30, 99, 39)], [], [line(0, 0, 3, 3)]]

    clip = Clip("a", Source("a", "a.mp4"), measures={"motion": 1.0}, pixels=Pixels(frames, frames, frames))
    outcome = keep_textless(clip, detector, share)
    assert isinstance(outcome, Rejected) is not kept
    found = outcome.clip if isinstance(outcome, Rejected) else outcome
    assert found.measures == {"motion": 1.0, "text_area": pytest.approx(0.25)}
    if isinstance(outcome, Rejected):
        assert outcome.code in CODES and outcome.detail == "text on 25% of a frame; accepted up to 24%"
