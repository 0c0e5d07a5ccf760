"""One pass gives the right frames, whatever the container says; what cannot be decoded has its code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from video_alchemist.curation.clip import Clip, Rejected, Source
from video_alchemist.curation.decode import decode_clip, frames_between
from video_alchemist.curation.probe import Limits, probe_clip

LIMITS = Limits(min_seconds=0.0, max_seconds=60.0, min_side=16)


def decode(path: Path, start: float | None = None, end: float | None = None, limits: Limits = LIMITS) -> Clip:
    probed = probe_clip(Clip("a", Source("a", str(path), start=start, end=end)), limits)
    assert isinstance(probed, Clip), probed
    done = decode_clip(probed, limits, small_side=32)
    assert isinstance(done, Clip), done
    return done


def code(path: Path, limits: Limits = LIMITS) -> str:
    probed = probe_clip(Clip("a", Source("a", str(path))), limits)
    done = decode_clip(probed, limits, small_side=32) if isinstance(probed, Clip) else probed
    return done.code if isinstance(done, Rejected) else "kept"


def numbers(clip: Clip, videos) -> tuple[list[int], list[int], list[int]]:
    assert clip.pixels is not None
    found = clip.pixels
    return tuple([videos.number_of(one) for one in part] for part in (found.tiny, found.small, found.frames))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm", "a.avi", "a.mov"])
def test_every_container(tmp_path: Path, videos, name: str) -> None:
    """Guards against a frame too many or too few, and against wrong moments: 5, 50 and 95 % of 40 frames."""
    codec = {"a.webm": "libvpx", "a.avi": "mpeg4"}.get(name, "libx264")
    clip = decode(videos.write(tmp_path / name, videos.numbered(40), codec=codec))
    assert clip.probe is not None and clip.pixels is not None and clip.pixels.times is not None
    tiny, small, full = numbers(clip, videos)
    assert tiny == list(range(40))
    assert full == [2, 20, 38]
    assert small == [int((i + 0.5) / 16 * 40) for i in range(16)]
    assert clip.pixels.tiny.shape == (40, 27, 48, 3)
    assert clip.pixels.small.shape == (16, 32, 32, 3)
    assert clip.pixels.frames.shape == (3, 48, 64, 3)
    assert (clip.probe.num_frames, clip.probe.fps) == (40, pytest.approx(12, rel=1e-3))
    assert clip.end == pytest.approx(40 / 12, abs=2e-3)
    np.testing.assert_allclose(clip.pixels.times, np.arange(40) / 12, atol=1e-3)


@pytest.mark.parametrize(("flag", "corner"), [(0, (0, 0)), (90, (1, 0)), (-90, (0, 1)), (180, (1, 1))])
def test_frames_stand_upright(tmp_path: Path, videos, flag: int, corner: tuple[int, int]) -> None:
    """Guards against lying portraits. The flag turns counter-clockwise: 90 brings the top left corner bottom left."""
    clip = decode(videos.write(tmp_path / "a.mp4", videos.numbered(24), rotation=flag))
    assert clip.pixels is not None and clip.probe is not None
    for part in (clip.pixels.tiny, clip.pixels.small, clip.pixels.frames):
        rows, columns = np.nonzero(part[-1].mean(axis=-1) > 180)
        centre = rows.mean() / part.shape[1] > 0.5, columns.mean() / part.shape[2] > 0.5
        assert centre == corner
    assert clip.pixels.frames.shape[1:3] == (clip.probe.height, clip.probe.width)
    assert clip.pixels.tiny.shape[1:3] == (27, 48)


def test_part_of_a_video(tmp_path: Path, videos) -> None:
    """Guards against parts that begin at a key frame before, and against frames beyond the end."""
    path = videos.write(tmp_path / "a.mp4", videos.numbered(60), gop=25)
    clip = decode(path, start=2.5, end=4.0)  # frames 30 to 47
    assert numbers(clip, videos)[0] == [n % 40 for n in range(30, 48)]
    assert clip.probe is not None
    assert (clip.start, clip.end, clip.probe.num_frames) == (2.5, 4.0, 18)
    assert numbers(clip, videos)[2] == [30, 39, 47 % 40]
    shown = [(round(time * 12), videos.number_of(frame)) for time, frame in frames_between(str(path), 2.5, 4.0)]
    assert shown == [(n, n % 40) for n in range(30, 48)]


def test_variable_frame_rate(tmp_path: Path, videos) -> None:
    """Guards against percentiles by count: of a clip whose first frame stays for 3 of 4 seconds, 50 % is that frame."""
    stamps = [0, *range(36, 48)]
    clip = decode(videos.write(tmp_path / "a.mp4", videos.numbered(13), stamps=stamps))
    assert clip.probe is not None
    assert numbers(clip, videos)[2] == [0, 0, 10]
    assert clip.probe.duration == pytest.approx(4.0, abs=0.1)
    assert clip.probe.fps == pytest.approx(13 / 4, rel=0.05)


def test_one_frame(tmp_path: Path, videos) -> None:
    """Guards against empty arrays and division by nothing: a video may be one picture."""
    clip = decode(videos.write(tmp_path / "a.mp4", videos.numbered(1, shift=7)))
    assert numbers(clip, videos) == ([7], [7] * 16, [7] * 3)


def test_small_frames_of_smaller_videos(tmp_path: Path, videos) -> None:
    """Guards against enlarging in blocks, or not at all: the filter may want more pixels than the video has."""
    probed = probe_clip(Clip("a", Source("a", str(videos.write(tmp_path / "a.mp4", videos.numbered(12))))), LIMITS)
    assert isinstance(probed, Clip)
    done = decode_clip(probed, LIMITS, small_side=224)
    assert isinstance(done, Clip) and done.pixels is not None
    assert done.pixels.small.shape == (16, 224, 224, 3)
    assert decode_clip(done, LIMITS, small_side=8) is done, "what is decoded is not decoded again"


def test_truncated_mp4(tmp_path: Path, videos) -> None:
    """Guards against half a clip taken for a whole one, where the index is whole and the frames are not."""
    good = videos.write(tmp_path / "a.mp4", videos.numbered(60) + np.random.default_rng(0).integers(
        0, 40, (60, 48, 64, 3), dtype=np.uint8), faststart=True)  # fmt: skip
    (tmp_path / "cut.mp4").write_bytes(good.read_bytes()[: good.stat().st_size * 2 // 3])
    assert (code(good), code(tmp_path / "cut.mp4")) == ("kept", "truncated")


def test_truncated_mkv(tmp_path: Path, videos) -> None:
    good = videos.write(tmp_path / "a.mkv", videos.numbered(120))
    (tmp_path / "cut.mkv").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    assert (code(good), code(tmp_path / "cut.mkv")) == ("kept", "truncated")


def test_damaged_frames(tmp_path: Path, videos) -> None:
    """Guards against grey smears in the training data: bytes in the middle of the frames are overwritten."""
    noise = np.random.default_rng(0).integers(0, 255, (24, 48, 64, 3), dtype=np.uint8)
    path = videos.write(tmp_path / "a.mp4", noise, faststart=True)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : -2000] = bytes(len(data) - 2000 - len(data) // 2)
    path.write_bytes(data)
    assert code(path) == "corrupt_frames"


def test_long_ones_stop_early(tmp_path: Path, videos) -> None:
    """Guards against memory without a bound: every frame of a clip leaves a tiny picture."""
    path = videos.write(tmp_path / "a.mp4", videos.numbered(40))
    assert code(path, Limits(min_seconds=0, min_side=16, max_frames=39)) == "too_long"
    assert code(path, Limits(min_seconds=0, min_side=16, max_frames=40)) == "kept"


def test_a_part_behind_the_end(tmp_path: Path, videos) -> None:
    path = videos.write(tmp_path / "a.mp4", videos.numbered(24))
    clip = Clip("a", Source("a", str(path), start=5.0, end=9.0))
    probed = probe_clip(clip, LIMITS)
    assert isinstance(probed, Clip)
    done = decode_clip(probed, LIMITS, small_side=32)
    assert isinstance(done, Rejected) and done.code == "truncated"
    beyond = decode(path, start=1.0, end=9.0)
    assert beyond.probe is not None and beyond.probe.num_frames == 12
