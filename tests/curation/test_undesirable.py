"""The filter's scores are kept for later thresholds, and the highest one gives the reason."""

from __future__ import annotations

import numpy as np

from video_alchemist.curation.clip import Clip, Pixels, Rejected, Source
from video_alchemist.curation.codes import CODES
from video_alchemist.curation.undesirable import keep_desirable
from video_alchemist.pretrained.clip_filter import UNDESIRABLE


class ByBrightness:
    """A clip filter for tests: grey level 10 k scores kind k at 0.9, anything above 30 nothing."""

    size = 8

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        assert clips.shape[1:] == (16, 8, 8, 3) and clips.dtype == np.uint8
        levels = clips.reshape(len(clips), -1).mean(axis=1).round().astype(int) // 10
        return np.array([[0.9 if level == kind else 0.1 for kind in range(4)] for level in levels], np.float32)


def test_each_kind_has_its_code() -> None:
    """Guards against columns in another order than the codes, and against scores that are lost."""
    clips = []
    for level in (0, 10, 20, 30, 40):
        small = np.full((16, 8, 8, 3), level, np.uint8)
        clips.append(Clip(f"c{level}", Source("c", "c.mp4"), pixels=Pixels(small, small, small[:3])))
    outcomes = keep_desirable(clips, ByBrightness(), 0.5)
    assert [one.code for one in outcomes if isinstance(one, Rejected)] == list(UNDESIRABLE)
    last = outcomes[-1]
    assert isinstance(last, Clip)
    assert {kind: round(last.measures[kind], 3) for kind in UNDESIRABLE} == dict.fromkeys(UNDESIRABLE, 0.1)
    rejected = outcomes[2]
    assert isinstance(rejected, Rejected) and round(rejected.clip.measures["screen_in_screen"], 3) == 0.9
    assert set(UNDESIRABLE) <= CODES.keys()
