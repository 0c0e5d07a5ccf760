"""What shards hold of a clip's pixels: the frames as they were, and the clip cut exactly."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from video_alchemist.curation.clip import Clip, Rejected, Sighting, Source
from video_alchemist.curation.decode import decode_clip
from video_alchemist.curation.encode import encode_background, encode_clip, thumbnail, video_bytes
from video_alchemist.curation.probe import Limits, probe_clip
from video_alchemist.curation.shots import cut

LIMITS = Limits(min_seconds=0.0, min_side=16)


def decoded(path: Path, start: float | None = None, end: float | None = None) -> Clip:
    clip = Clip("a", Source("a", str(path), start=start, end=end))
    probed = probe_clip(clip, LIMITS)
    assert isinstance(probed, Clip)
    done = decode_clip(probed, LIMITS, 16)
    assert isinstance(done, Clip)
    return done


def read(data: bytes) -> tuple[list[np.ndarray], str, float, list[float]]:
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert len(container.streams) == 1, "no sound, no data"
        frames = list(container.decode(stream))
        times = [frame.time for frame in frames]
        return (
            [f.to_ndarray(format="rgb24") for f in frames],
            stream.codec_context.name,
            float(stream.average_rate),
            times,
        )


def test_whole_h264_files_are_copied(tmp_path: Path, videos) -> None:
    """Guards against losses by encoding again what is good: same packets, hence same frames; twice the same bytes."""
    path = videos.write(tmp_path / "a b;c.mp4", videos.numbered(30))
    clip = encode_clip(decoded(path))
    assert isinstance(clip, Clip) and clip.pixels is None and set(clip.files) == {"f0.jpg", "f1.jpg", "f2.jpg", "mp4"}
    frames, codec, fps, _ = read(clip.files["mp4"])
    with av.open(str(path)) as container:
        before = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert (codec, fps) == ("h264", 12) and np.array_equal(frames, before)
    assert encode_clip(decoded(path)).files == clip.files  # type: ignore[union-attr]
    shown = [videos.number_of(np.asarray(Image.open(io.BytesIO(clip.files[f"f{i}.jpg"])))) for i in range(3)]
    assert shown == [1, 15, 28]


@pytest.mark.parametrize(
    ("name", "codec", "rotation"), [("a.webm", "libvpx", 0), ("a.avi", "mpeg4", 0), ("a.mp4", "libx264", 90)]
)
def test_other_files_are_encoded(tmp_path: Path, videos, name: str, codec: str, rotation: int) -> None:
    """Guards against files that browsers do not play, or that lie on their side: every frame, upright, in H.264."""
    clip = decoded(videos.write(tmp_path / name, videos.numbered(30), codec=codec, rotation=rotation))
    data = video_bytes(clip)
    frames, made, fps, _ = read(data)
    assert (made, len(frames), fps) == ("h264", 30, pytest.approx(12, rel=1e-3))
    assert [videos.number_of(frame) for frame in frames] == list(range(30))
    assert frames[0].shape == ((64, 48, 3) if rotation else (48, 64, 3))
    assert data == video_bytes(clip)


def test_what_is_hidden_is_in_no_file(tmp_path: Path, videos) -> None:
    """Guards against packets of a good file that are copied with the faces in them, and faces left in the record."""
    clip = decoded(videos.write(tmp_path / "a.mp4", videos.numbered(30)))
    face = Sighting(0, 1, (0, 0, 16, 12), 0.9, 0.9, {}, face=(0, 0, 16, 12), face_score=0.8)

    def hide(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Blackens the white corner."""
        for frame in frames:
            yield np.where(frame > 230, 0, frame).astype(np.uint8)

    done = encode_clip(replace(clip, sightings=(face,)), hide)
    assert isinstance(done, Clip) and done.sightings == (replace(face, face=None, face_score=0.0),)
    frames, codec, fps, _ = read(done.files["mp4"])
    assert (codec, fps, len(frames)) == ("h264", 12, 30)
    stored = [*frames, *(np.asarray(Image.open(io.BytesIO(done.files[f"f{i}.jpg"]))) for i in range(3))]
    assert all(frame[:10, :14].max() < 30 for frame in stored)
    assert [videos.number_of(frame) for frame in frames] == list(range(30))


def test_parts_begin_and_end_exactly(tmp_path: Path, videos) -> None:
    """Guards against parts that begin at the key frame before, as copying would have it; also of the first shot."""
    path = videos.write(tmp_path / "a.mp4", videos.numbered(36), gop=25)
    frames, *_ = read(video_bytes(decoded(path, start=0.5, end=2.0)))
    assert [videos.number_of(frame) for frame in frames] == list(range(6, 24))
    whole = decoded(path)
    probed = cut(Clip("a", whole.source, probe=whole.probe), 0.0, 1.0)
    first = decode_clip(probed, LIMITS, 16)
    assert isinstance(first, Clip)
    frames, *_ = read(video_bytes(first))
    assert [videos.number_of(frame) for frame in frames] == list(range(12))


def test_variable_rates_become_steady(tmp_path: Path, videos) -> None:
    """Guards against parts whose motion speeds up: a frame that stays for long is repeated."""
    stamps = [0, 1, 2, *range(9, 18)]
    path = videos.write(tmp_path / "a.webm", videos.numbered(12), codec="libvpx", stamps=stamps)
    frames, _, fps, times = read(video_bytes(decoded(path)))
    assert len(frames) == 12 and len(frames) / fps == pytest.approx(18 / 12, rel=0.1)
    shown = [videos.number_of(frame) for frame in frames]
    assert shown == sorted(shown) and shown.count(2) >= 4
    np.testing.assert_allclose(np.diff(times), 1 / fps, rtol=0.05)


def test_odd_sizes_grow_by_a_pixel(tmp_path: Path, videos) -> None:
    odd = videos.numbered(12, height=49, width=63)
    with av.open(str(tmp_path / "a.avi"), "w") as out:  # mjpeg allows odd sizes
        stream = out.add_stream("mjpeg", rate=12)
        stream.height, stream.width, stream.pix_fmt = 49, 63, "yuvj420p"
        for pixels in odd:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuvj420p")))
        out.mux(stream.encode())
    frames, *_ = read(video_bytes(decoded(tmp_path / "a.avi")))
    assert frames[0].shape == (50, 64, 3)


def test_thumbnails_of_rejects(tmp_path: Path, videos) -> None:
    """Guards against rejects that fill the memory, and against squashed pictures in the report."""
    clip = decoded(videos.write(tmp_path / "a.mp4", videos.numbered(12, height=48, width=96)))
    small = thumbnail(Rejected(clip, "no_motion")).clip
    assert small.pixels is None
    assert Image.open(io.BytesIO(small.files["thumbnail.jpg"])).size == (128, 64)
    assert thumbnail(Rejected(Clip("a", clip.source), "empty_file")).clip.files == {}


def test_backgrounds(tmp_path: Path, videos) -> None:
    clip = decoded(videos.write(tmp_path / "a.mp4", videos.numbered(12)))
    assert clip.pixels is not None
    done = encode_background(replace(clip, pixels=replace(clip.pixels, background=clip.pixels.frames[1])))
    assert isinstance(done, Clip) and done.pixels is None
    assert videos.number_of(np.asarray(Image.open(io.BytesIO(done.files["bg.jpg"])))) == 6
