"""Files that are no good are told by what is wrong with them, before they cost anything."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from video_alchemist.curation.clip import Clip, Rejected, Source
from video_alchemist.curation.codes import CODES
from video_alchemist.curation.probe import Limits, VideoError, probe_clip, probe_file, reject

LIMITS = Limits(min_seconds=1.0, max_seconds=5.0, min_side=32, max_side=256)


def clip_of(path: Path, start: float | None = None, end: float | None = None) -> Clip:
    return Clip("a", Source("a", str(path), start=start, end=end))


def code(path: Path, limits: Limits = LIMITS, **part: float) -> str:
    outcome = probe_clip(clip_of(path, **part), limits)
    return outcome.code if isinstance(outcome, Rejected) else "kept"


def test_a_good_file(tmp_path: Path, videos) -> None:
    path = videos.write(tmp_path / "a b;c 🐈's.mp4", videos.numbered(24))
    probe = probe_file(str(path), LIMITS)
    assert (probe.width, probe.height, probe.fps, probe.num_frames, probe.codec) == (64, 48, 12.0, 24, "h264")
    assert probe.duration == pytest.approx(2.0)


@pytest.mark.parametrize(("flag", "clockwise"), [(90, 270), (-90, 90), (180, 180)])
def test_rotation(tmp_path: Path, videos, flag: int, clockwise: int) -> None:
    """Guards against lying portraits: the size is that after the rotation."""
    probe = probe_file(str(videos.write(tmp_path / "a.mp4", videos.numbered(24), rotation=flag)), LIMITS)
    assert probe.rotation == clockwise
    assert (probe.width, probe.height) == ((64, 48) if clockwise == 180 else (48, 64))


def test_broken_files(tmp_path: Path, videos) -> None:
    """Guards against one code for all: each damage has its own, and none of them raises."""
    good = videos.write(tmp_path / "good.mp4", videos.numbered(24))
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "junk.mp4").write_bytes(b"not a video at all" * 99)
    (tmp_path / "cut.mp4").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    with av.open(str(tmp_path / "sound.mp4"), "w") as out:
        stream = out.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    names = ["none", "empty", "junk", "cut", "sound"]
    assert [code(tmp_path / f"{name}.mp4") for name in names] == [
        "no_such_file", "empty_file", "not_a_video", "truncated", "no_video_stream",
    ]  # fmt: skip
    (tmp_path / "folder.mp4").mkdir()
    assert code(tmp_path / "folder.mp4") == "unreadable"


def test_ten_hours_in_few_bytes(tmp_path: Path, videos) -> None:
    """Guards against loops and memory by a number in a header. (An mp4 is measured by its index, whatever it says.)"""
    mkv = videos.patch_duration(videos.write(tmp_path / "a.mkv", videos.numbered(24)), 36_000)
    assert code(mkv) == "absurd_header"
    mp4 = videos.patch_duration(videos.write(tmp_path / "a.mp4", videos.numbered(24)), 36_000)
    assert probe_file(str(mp4), LIMITS).duration == pytest.approx(2.0)


def test_playlists_are_no_videos(tmp_path: Path, videos) -> None:
    """Guards against a list that calls itself a video and opens other files."""
    videos.write(tmp_path / "good.mp4", videos.numbered(24))
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\ngood.mp4\n#EXT-X-ENDLIST\n")
    (tmp_path / "concat.mp4").write_text("ffconcat version 1.0\nfile good.mp4\n")
    assert [code(tmp_path / name) for name in ("list.mp4", "concat.mp4")] == ["not_a_video"] * 2


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (Limits(min_seconds=3.0, min_side=32), "too_short"),
        (Limits(max_seconds=1.5, min_side=32), "too_long"),
        (Limits(min_side=50), "too_small"),
        (Limits(min_side=32, max_side=60), "too_large"),
        (Limits(min_side=48, max_side=64), "kept"),  # exactly 2.0 s, too
    ],
)
def test_limits(tmp_path: Path, videos, limits: Limits, expected: str) -> None:
    assert code(videos.write(tmp_path / "a.mp4", videos.numbered(24)), limits) == expected


def test_a_part_counts_alone(tmp_path: Path, videos) -> None:
    path = videos.write(tmp_path / "a.mp4", videos.numbered(60))
    short = Limits(min_seconds=1.0, max_seconds=2.0, min_side=32)
    assert code(path, short) == "too_long"
    assert code(path, short, start=1.0, end=3.0) == "kept"
    assert code(path, short, start=1.0, end=1.5) == "too_short"
    assert not isinstance(probe_clip(clip_of(path), short, split_shots=True), Rejected)


def test_reject_knows_what_may_pass(tmp_path: Path) -> None:
    """Guards against good videos lost for ever to a disk that was away, and against codes that no page explains."""
    clip = clip_of(tmp_path / "a.mp4")
    assert reject(clip, "no_such_file").transient and not reject(clip, "empty_file").transient
    with pytest.raises(ValueError, match="'tired' is unknown"):
        reject(clip, "tired")
    assert all(entry.meaning for entry in CODES.values())
    assert VideoError("truncated", "why").detail == "why"
