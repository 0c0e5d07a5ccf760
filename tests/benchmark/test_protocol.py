"""The protocols' own rules: which videos and frames count, and what tells the released code from the paper."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from video_alchemist.benchmark.protocol import TooShort, official, paper

FRAMES = np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1)


@pytest.mark.parametrize(
    ("world_size", "subject", "face", "every"),
    [(1, 1736, 1285, 2130), (2, 1736, 1284, 2130), (4, 1736, 1284, 2128), (8, 1736, 1280, 2128)],
)
def test_dropped_tail(world_size: int, subject: int, face: int, every: int) -> None:
    """Guards against a score of videos that the released code never saw on so many GPUs."""
    for count, expected in ((1736, subject), (1285, face), (2130, every)):
        ids = [f"{i:04}" for i in range(count)]
        assert official(49, world_size).kept(ids[::-1]) == ids[:expected]
        assert paper().kept(ids[::-1]) == ids


def test_fewer_videos_than_processes() -> None:
    """Guards against a mean over nothing: the released code fails here, too."""
    with pytest.raises(ValueError, match="3 videos for 8 processes.*expected at most world_size=3"):
        official(49, 8).kept(["c", "a", "b"])
    assert official(49, 8).kept([]) == []


def test_frames() -> None:
    """Guards against frames spread over the video, and against a short video that is scored as if it were whole."""
    protocol = official(49)
    assert protocol.frames(FRAMES).ravel().tolist() == list(range(49))
    assert protocol.frames(FRAMES[:49]).ravel().tolist() == list(range(49))
    assert protocol.frames(FRAMES[:48]).ravel().tolist() == [*range(48), 47]
    with pytest.raises(TooShort, match="47 frames; expected at least 49, or one less"):
        protocol.frames(FRAMES[:47])
    assert len(paper().frames(FRAMES)) == 50
    for one in (protocol, paper(), official(1)):
        with pytest.raises(TooShort, match="no frames"):
            one.frames(FRAMES[:0])


def test_quirks_are_the_released_codes_alone() -> None:
    """Guards against a quirk that slips into the paper's protocol, or is lost from the official one."""
    shared = {"crop_type", "detection_score", "mask_score", "face_score"}
    names = {field.name for field in fields(paper())}
    assert {name for name in names if getattr(paper(), name) == getattr(official(49, 8), name)} == shared
    assert (paper().detection_score, paper().mask_score, paper().face_score) == (0.4, 0.9, 0.2)
    assert official(49, crop_type="long").crop_type == "long"


def test_errors() -> None:
    with pytest.raises(ValueError, match="num_frames is 0; expected 1 or more"):
        official(0)
    with pytest.raises(ValueError, match="world_size is -1; expected 1 or more"):
        official(49, -1)
