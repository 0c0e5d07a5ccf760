"""What a video file says of itself, before anything is decoded but one frame; and the files that say nonsense.

The header is never believed where it costs: nothing is allocated, and no loop runs, by a number that it states.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from video_alchemist.curation.clip import Clip, Outcome, Probe, Rejected
from video_alchemist.curation.codes import rejection

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

# Playlists and image lists, which name further files to open, are not among them.
FORMATS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg"
MIN_FRAME_BYTES = 4  # an entry of the container's own index takes as much
MIN_SECOND_BYTES = 16
MAX_FPS = 240.0
MAX_BOXES = 1000  # of an mp4's top level; fragmented ones have many


@dataclass(frozen=True)
class Limits:
    """Which clips are worth decoding. Seconds, and pixels of the shorter (min) and longer (max) side.

    max_source_seconds: of a video that is going to be split into its shots.
    max_frames: the memory of one clip, since every frame leaves a tiny picture.
    """

    min_seconds: float = 2.0
    max_seconds: float = 60.0
    max_source_seconds: float = 1200.0
    min_side: int = 144
    max_side: int = 4096
    max_frames: int = 75_000


class VideoError(Exception):
    """A video that cannot be used. code: one of `curation.codes`."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail


def reject(clip: Clip, code: str, detail: str = "") -> Rejected:
    """The clip with why it left; whether that may pass is the code's to say."""
    return Rejected(clip, code, detail, rejection(code).transient)


@contextmanager
def opened(path: str, threads: int = 1) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A container and its first video stream; whatever is wrong with the file becomes a `VideoError`."""
    import av

    try:
        # Absolute, since "a:b.mp4" would name a protocol.
        container = av.open(os.path.abspath(path), options={"format_whitelist": FORMATS})
    except FileNotFoundError as error:
        raise VideoError("no_such_file", f"no such file: {path!r}") from error
    except OSError as error:
        raise VideoError("unreadable", str(error)) from error
    except av.error.FFmpegError as error:
        raise VideoError("truncated" if is_cut_off(path) else "not_a_video", str(error)) from error
    with container:
        if not container.streams.video:
            code = "truncated" if is_cut_off(path) else "no_video_stream"
            raise VideoError(code, f"{container.format.name} without a video stream")
        stream = container.streams.video[0]
        stream.codec_context.thread_count = threads
        try:
            yield container, stream
        except av.error.FFmpegError as error:
            raise VideoError("corrupt_frames", str(error)) from error


def probe_clip(clip: Clip, limits: Limits, split_shots: bool = False) -> Outcome:
    """The clip with its `Probe` and the part of the source it covers."""
    try:
        probe = probe_file(clip.source.path, limits)
    except VideoError as error:
        return reject(clip, error.code, error.detail)
    start = clip.source.start or 0.0
    end = clip.source.end if clip.source.end is not None else probe.duration
    clip = replace(clip, probe=probe, start=start, end=end)
    if end <= start:  # a header without a duration; decoding will tell
        return clip
    return check_length(clip, end - start, limits, limits.max_source_seconds if split_shots else limits.max_seconds)


def check_length(clip: Clip, seconds: float, limits: Limits, longest: float) -> Outcome:
    # A container's time base rounds, so that 2 s may be 1.99998.
    if seconds < limits.min_seconds - 1e-3:
        return reject(clip, "too_short", f"{seconds:.2f} s; expected at least {limits.min_seconds:g}")
    if seconds > longest + 1e-3:
        return reject(clip, "too_long", f"{seconds:.2f} s; expected at most {longest:g}")
    return clip


def probe_file(path: str, limits: Limits) -> Probe:
    """Codec, size, rate and length of a file; num_frames and duration are 0 where its header does not tell."""
    size = _file_size(path)
    with opened(path) as (container, stream):
        duration = header_seconds(container, stream)
        if duration * MIN_SECOND_BYTES > size or stream.frames * MIN_FRAME_BYTES > size:
            raise VideoError("absurd_header", f"{duration:.0f} s and {stream.frames} frames in {size} bytes")
        check_size(stream.width, stream.height, limits)
        rotation = _first_rotation(container, stream)
        width, height = (stream.height, stream.width) if rotation % 180 else (stream.width, stream.height)
        fps = float(stream.average_rate or stream.base_rate or 0)
        codec = stream.codec_context.name
        return Probe(width, height, fps if fps <= MAX_FPS else 0.0, stream.frames, duration, codec, rotation)


def check_size(width: int, height: int, limits: Limits) -> None:
    if min(width, height) < limits.min_side:
        raise VideoError("too_small", f"{width}x{height}; expected at least {limits.min_side} pixels a side")
    if max(width, height) > limits.max_side:
        raise VideoError("too_large", f"{width}x{height}; expected at most {limits.max_side} pixels a side")


def header_seconds(container: InputContainer, stream: VideoStream) -> float:
    """The length of the video stream, else of the container (whose sound may be longer); 0 where none is given."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return max(container.duration or 0, 0) / 1_000_000


def _file_size(path: str) -> int:
    try:
        size = os.stat(path).st_size
    except FileNotFoundError as error:
        raise VideoError("no_such_file", f"no such file: {path!r}") from error
    except OSError as error:
        raise VideoError("unreadable", str(error)) from error
    if size == 0:
        raise VideoError("empty_file", "0 bytes")
    return size


def _first_rotation(container: InputContainer, stream: VideoStream) -> int:
    """Degrees clockwise that players turn the pictures by, a multiple of 90; only decoded frames tell."""
    for frame in container.decode(stream):
        return -90 * round(frame.rotation / 90) % 360
    raise VideoError("corrupt_frames", "no frame could be decoded")


def is_cut_off(path: str) -> bool:
    """Whether an mp4 or mov lacks its end: a box of its top level reaches beyond it, or the index is not there."""
    size, at = os.path.getsize(path), 0
    kinds: list[bytes] = []
    with open(path, "rb") as file:
        while at + 8 <= size and len(kinds) < MAX_BOXES:
            file.seek(at)
            header = file.read(16)
            length, kind = int.from_bytes(header[:4], "big"), header[4:8]
            if length == 1:  # the length follows, in 8 bytes
                length = int.from_bytes(header[8:], "big")
            kinds.append(kind)
            at = size if length == 0 else at + max(length, 8)
    return kinds[:1] == [b"ftyp"] and (at != size or b"moov" not in kinds)
