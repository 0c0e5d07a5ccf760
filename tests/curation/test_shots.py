"""Only single shots go on; several are told, or cut exactly where they end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from video_alchemist.curation.clip import Clip, Pixels, Probe, Rejected, Source
from video_alchemist.curation.decode import decode_clip
from video_alchemist.curation.probe import Limits, probe_clip
from video_alchemist.curation.shots import keep_single_shots, shot_spans


def jumps(tiny: np.ndarray) -> np.ndarray:
    """A shot detector for tests: a shot ends where the next frame is quite another."""
    change = np.abs(np.diff(tiny.astype(float).mean(axis=(1, 2, 3))))
    return np.append(change > 50, False).astype(np.float32)


@pytest.mark.parametrize(
    ("ends", "spans"),
    [
        ([0, 0, 0, 0], [(0, 4)]),
        ([0, 1, 0, 0], [(0, 2), (2, 4)]),  # a cut: the marked frame is its shot's last
        ([0, 1, 1, 1, 0, 0], [(0, 2), (4, 6)]),  # a fade belongs to nobody but for its first frame
        ([0, 0, 0, 1], [(0, 4)]),  # the end of the video is no cut
        ([1, 0, 1, 0], [(0, 1), (1, 3), (3, 4)]),
        ([0], [(0, 1)]),
    ],
)
def test_spans(ends: list[float], spans: list[tuple[int, int]]) -> None:
    """Guards against frames of the next shot at the end of a clip."""
    assert shot_spans(np.array(ends, dtype=np.float32), 0.5) == spans


def clip_of(tiny: np.ndarray) -> Clip:
    nothing = np.zeros((16, 8, 8, 3), np.uint8)
    pixels = Pixels(tiny, nothing, nothing[:3], times=np.arange(len(tiny)) / 10 + 2)
    probe = Probe(48, 27, 10.0, len(tiny), len(tiny) / 10, "h264")
    return Clip("v", Source("v", "v.mp4", start=2.0), 2.0, 2.0 + len(tiny) / 10, probe, pixels=pixels)


def test_single_shots_keep_their_pixels() -> None:
    """Guards against decoding twice, and against ids without their part."""
    clip = clip_of(np.zeros((20, 27, 48, 3), np.uint8))
    kept = keep_single_shots(clip, jumps, 0.5)
    assert isinstance(kept, Clip) and kept.pixels is clip.pixels and kept.id == "v-2000-4000"


def test_several_shots() -> None:
    tiny = np.zeros((20, 27, 48, 3), np.uint8)
    tiny[8:] = 200
    outcome = keep_single_shots(clip_of(tiny), jumps, 0.5)
    assert isinstance(outcome, Rejected) and (outcome.code, outcome.detail) == ("not_single_shot", "2 shots")
    parts = keep_single_shots(clip_of(tiny), jumps, 0.5, split=True)
    assert isinstance(parts, tuple)
    assert [part.id for part in parts] == ["v-2000-2800", "v-2800-4000"]
    assert all(part.pixels is None for part in parts), "frames of the whole are not those of a part"


def test_split_parts_hold_their_shot_alone(tmp_path: Path, videos) -> None:
    """Guards against a frame of the neighbour: from the file through the cut to the second decode. A short shot is not
    lost in silence."""
    frames = np.concatenate([np.full((n, 48, 64, 3), grey, np.uint8) for n, grey in ((30, 20), (6, 240), (25, 120))])
    path = videos.write(tmp_path / "a.mp4", frames, fps=10)
    limits = Limits(min_seconds=1.0, max_seconds=4.0, max_source_seconds=10.0, min_side=16)
    probed = probe_clip(Clip("a", Source("a", str(path))), limits, split_shots=True)
    assert isinstance(probed, Clip)
    whole = decode_clip(probed, limits, 16, longest=10.0)
    assert isinstance(whole, Clip)
    parts = keep_single_shots(whole, jumps, 0.5, split=True)
    assert isinstance(parts, tuple)
    assert [part.id for part in parts] == ["a-0-3000", "a-3000-3600", "a-3600-6100"]
    first, short, last = (decode_clip(part, limits, 16) for part in parts)
    assert isinstance(short, Rejected) and short.code == "too_short"
    for part, count, grey in ((first, 30, 20), (last, 25, 120)):
        assert isinstance(part, Clip) and part.pixels is not None and part.probe is not None
        assert (len(part.pixels.tiny), part.probe.num_frames) == (count, count)
        assert np.abs(part.pixels.tiny.astype(int) - grey).max() <= 4
    again = decode_clip(replace(parts[2], probe=whole.probe), limits, 16)
    assert isinstance(again, Clip) and isinstance(last, Clip) and again.end == last.end
