"""What a shard will hold of a clip's pixels, as bytes: three frames, the background, and the clip itself, cut."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from video_alchemist.curation.clip import Clip, Outcome, Rejected
from video_alchemist.curation.decode import frames_between
from video_alchemist.curation.probe import VideoError, opened, reject

if TYPE_CHECKING:
    from av.container import OutputContainer

JPEG_QUALITY = 95
CRF = 16  # of what has to be encoded again: hardly to be told from the source
THUMBNAIL = 128  # pixels: the longer side of what the report shows of rejects
FPS_LIMIT = 1001  # largest denominator: 24000/1001 and its kin
Hide = Callable[[Iterable[np.ndarray]], Iterable[np.ndarray]]  # frames => the same, without what nobody may see


def encode_clip(clip: Clip, hide: Hide | None = None) -> Outcome:
    """The clip with its files in place of its pixels: "f0.jpg", "f1.jpg", "f2.jpg" and "mp4".

    hide: takes the faces out of every frame that is stored; a face that is hidden is no reference.
    """
    assert clip.pixels is not None, "decode a clip before encoding it"
    frames: Iterable[np.ndarray] = clip.pixels.frames
    sightings = clip.sightings
    if hide is not None:
        frames = hide(frames)
        sightings = tuple(replace(one, face=None, face_score=0.0) for one in sightings)
    files = {f"f{i}.jpg": jpeg(frame) for i, frame in enumerate(frames)}
    try:
        files["mp4"] = video_bytes(clip, hide)
    except VideoError as error:
        return reject(clip, error.code, error.detail)
    return replace(clip, pixels=None, sightings=sightings, files=files)


def encode_background(clip: Clip) -> Outcome:
    """The clip with its background picture's file in place of its pixels: "bg.jpg"."""
    assert clip.pixels is not None and clip.pixels.background is not None, "paint a background before encoding it"
    return replace(clip, pixels=None, files={"bg.jpg": jpeg(clip.pixels.background)})


def thumbnail(rejected: Rejected) -> Rejected:
    """A reject without its pixels, but with a small picture of it where it was decoded."""
    clip, files = rejected.clip, {}
    if clip.pixels is not None and clip.probe is not None:
        small = clip.pixels.small[len(clip.pixels.small) // 2]  # square; the clip is not
        scale = THUMBNAIL / max(clip.probe.width, clip.probe.height)
        size = (max(1, round(scale * clip.probe.width)), max(1, round(scale * clip.probe.height)))
        files = {"thumbnail.jpg": jpeg(small, 75, size)}
    return replace(rejected, clip=replace(clip, pixels=None, files=files))


def jpeg(picture: np.ndarray, quality: int = JPEG_QUALITY, size: tuple[int, int] | None = None) -> bytes:
    """(H, W, 3) uint8 as JPEG, of another size (width, height) if one is given."""
    from PIL import Image

    image = Image.fromarray(picture)
    stream = io.BytesIO()
    (image.resize(size) if size else image).save(stream, "JPEG", quality=quality, subsampling=0)
    return stream.getvalue()


def video_bytes(clip: Clip, hide: Hide | None = None) -> bytes:
    """The clip as mp4 in H.264 without sound: packets of a whole file are copied, parts of one are encoded again, and
    so is what has something to hide."""
    with tempfile.TemporaryDirectory(prefix="alchemist-") as folder:
        path = Path(folder, "clip.mp4")
        if hide is not None or not _copy(clip, path):
            _encode(clip, path, hide)
        return path.read_bytes()


def _copy(clip: Clip, path: Path) -> bool:
    """Copies the packets, where they are those of the clip and every player shows them upright; else False."""
    import av

    probe, source = clip.probe, clip.source
    if probe is None or source.start is not None or source.end is not None or clip.start > 0:
        return False
    if probe.codec != "h264" or probe.rotation:
        return False
    with opened(clip.source.path) as (container, stream):
        if stream.codec_context.pix_fmt not in ("yuv420p", "yuvj420p") or "mp4" not in container.format.name:
            return False
        with av.open(str(path), "w", format="mp4", options=_OPTIONS) as out:
            copied, count = out.add_stream_from_template(stream), 0
            for packet in container.demux(stream):
                if packet.is_discard:  # hidden by an edit list, which would not be copied
                    return False
                if packet.size:
                    packet.stream, count = copied, count + 1
                    out.mux(packet)
    return count == probe.num_frames  # or the clip is the first of several shots


def _encode(clip: Clip, path: Path, hide: Hide | None) -> None:
    """One frame at a time, at a constant rate; the same bytes on one machine, since there is one thread."""
    import av

    assert clip.probe is not None
    fps = Fraction(clip.probe.fps).limit_denominator(FPS_LIMIT)
    frames = _steady(clip, float(fps))
    with av.open(str(path), "w", format="mp4", options=_OPTIONS) as out:
        for frame in frames if hide is None else hide(frames):
            even = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")
            stream = out.streams.video[0] if out.streams.video else _stream(out, fps, even)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")))
        out.mux(out.streams.video[0].encode())


# The muxer's own name would change the bytes with every release of the library.
_OPTIONS = {"movflags": "faststart", "fflags": "bitexact"}
_ENCODER = {"crf": str(CRF), "threads": "1"}


def _stream(out: OutputContainer, fps: Fraction, frame: np.ndarray):  # type: ignore[no-untyped-def]
    stream = out.add_stream("libx264", rate=fps, options=_ENCODER)
    stream.height, stream.width, stream.pix_fmt = *frame.shape[:2], "yuv420p"
    return stream


def _steady(clip: Clip, fps: float) -> Iterator[np.ndarray]:
    """The frame that is on the screen at every tick of a constant rate: as many as the clip has frames."""
    assert clip.probe is not None
    shown: np.ndarray | None = None
    ticks = clip.probe.num_frames
    count = 0
    origin = None
    for time, frame in frames_between(clip.source.path, clip.start, clip.end, clip.probe.rotation):
        origin = time if origin is None else origin
        while shown is not None and count < ticks and origin + (count + 0.5) / fps < time:
            yield shown
            count += 1
        shown = frame
    while shown is not None and count < ticks:
        yield shown
        count += 1
