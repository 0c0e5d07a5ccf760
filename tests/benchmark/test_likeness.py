"""What counts as copied: known changes of one picture."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from video_alchemist.benchmark.likeness import copied, copied_share

BLOCKS = np.random.default_rng(0).integers(0, 256, size=(8, 8, 3)).astype(np.uint8)
DISC = (np.hypot(*(np.mgrid[:48, :48] - 23.5)) < 23).astype(np.uint8) * 255
SUBJECT = np.dstack([cv2.resize(BLOCKS, (48, 48), interpolation=cv2.INTER_CUBIC), DISC])


def turned(degrees: float) -> np.ndarray:
    return cv2.warpAffine(SUBJECT, cv2.getRotationMatrix2D((23.5, 23.5), degrees, 1), (48, 48))


def test_a_paste_is_one_at_any_size_and_under_loose_boxes() -> None:
    """Guards against losing copies to the detector's box, the scale, or what lies behind the mask."""
    assert copied(SUBJECT, SUBJECT) == pytest.approx(1)
    smaller = cv2.resize(SUBJECT, (30, 30), interpolation=cv2.INTER_AREA)
    assert copied(smaller, SUBJECT) > 0.9
    loose = np.pad(SUBJECT, ((3, 9), (5, 1), (0, 0)))
    loose[loose[..., 3] == 0] = (250, 10, 10, 0)
    assert copied(loose, SUBJECT) > 0.99


def test_pose_and_lighting_each_cost() -> None:
    """Guards against calling a new pose a copy, as correlation of whole colours does, and against blindness to light.
    Margins: 0.3 from paste to 15 degrees, below 0.2 from 45 degrees on; half the light costs 0.3 to 0.6."""
    assert copied(turned(15), SUBJECT) < 0.7
    assert max(copied(turned(degrees), SUBJECT) for degrees in (45, 90, 180)) < 0.2
    dark = SUBJECT.copy()
    dark[..., :3] //= 2
    assert 0.4 < copied(dark, SUBJECT) < 0.7


def test_the_picture_most_like_it_counts() -> None:
    """Guards against averaging over pictures, by which a copy of one of three would pass."""
    assert copied_share(SUBJECT, [turned(90), SUBJECT, turned(45)]) == pytest.approx(1)


def test_nothing_to_copy_is_zero() -> None:
    """Guards against 0 / 0 for flat colours and empty masks."""
    flat = np.full((20, 20, 4), 255, np.uint8)
    empty = np.zeros((20, 20, 4), np.uint8)
    assert copied(flat, flat) == pytest.approx(0, abs=0.01)
    assert copied(empty, SUBJECT) == copied(empty, empty) == 0
