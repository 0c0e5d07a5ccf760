"""One pass over a clip's frames, from which everything else is made (§3.1: frames at 5 %, 50 % and 95 %).

The packets are read first (no decoding, some 6 us each): they tell how many frames there are and when each is shown,
so that nothing depends on a header, a constant rate or a second decode. Full frames are kept three, small ones 16,
tiny ones all.

F frames · H,W pixels · times in seconds since the start of the video
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from video_alchemist.curation.clip import FRAME_TIMES, Clip, Outcome, Pixels, Probe
from video_alchemist.curation.probe import (
    MAX_FPS,
    Limits,
    VideoError,
    check_length,
    check_size,
    header_seconds,
    opened,
    reject,
)

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

TINY = (48, 27)  # width, height: what TransNetV2 sees
NUM_SMALL = 16  # frames that VideoMAE sees
MAX_HIDDEN = 0.1  # share of packets that may show no frame: VP8 has such
MAX_LOST = 0.01  # share of the promised frames that may be missing: AVI's header is not exact
EPSILON = 1e-4  # seconds; time bases round
MILLISECOND = 1e-3  # Matroska's
MARGIN = 0.5  # seconds to jump ahead of a part: key frames are found by when they are decoded, which is earlier


@dataclass(frozen=True)
class Timing:
    """times: (F,), when each frame of the part is shown; duration: of them all; num_packets: read on the way."""

    times: np.ndarray
    duration: float
    num_packets: int


def decode_clip(clip: Clip, limits: Limits, small_side: int, longest: float | None = None) -> Outcome:
    """The clip with its `Pixels`, and what of its probe only decoding tells. Clips that have pixels pass.

    small_side: pixels of the clip filter's frames; longest: seconds, the limits' max_seconds where it is None.
    """
    if clip.pixels is not None:
        return clip
    assert clip.probe is not None, "probe a clip before decoding it"
    to_the_end = clip.source.end is None and clip.id == clip.source.id
    try:
        with opened(clip.source.path) as (container, stream):
            end = float("inf") if to_the_end else clip.end
            timing = read_timing(container, stream, clip.start, end, limits.max_frames)
            if to_the_end and clip.start == 0:
                _check_whole(container, stream, timing)
            pixels = _decode(container, stream, timing, clip.probe.rotation, small_side)
        height, width = pixels.frames.shape[1:3]
        check_size(width, height, limits)
    except VideoError as error:
        return reject(clip, error.code, error.detail)
    probe = _completed(clip.probe, width, height, len(pixels.tiny), timing.duration)
    end = float(timing.times[0]) + timing.duration if to_the_end else clip.end
    done = replace(clip, probe=probe, pixels=pixels, end=end)
    # The frames count, not what was asked for: the video may end before the part that was asked for.
    return check_length(done, timing.duration, limits, limits.max_seconds if longest is None else longest)


def frames_between(path: str, start: float, end: float, rotation: int = 0) -> Iterator[tuple[float, np.ndarray]]:
    """The frames shown from `start` to before `end`, one at a time: when, and (H, W, 3) uint8, upright."""
    with opened(path) as (container, stream):
        timing = read_timing(container, stream, start, end)
        picture = _scaler(rotation)
        for time, frame in _shown(container, stream, timing.times):
            yield time, picture(frame, None)


def read_timing(
    container: InputContainer, stream: VideoStream, start: float, end: float, max_frames: int | None = None
) -> Timing:
    """When the frames of [start, end) are shown, from their packets alone."""
    _rewind(container, stream, start)
    origin, base = _clock(stream)
    rate = float(stream.average_rate or 25)
    times: list[float] = []
    step = 0.0
    count = 0
    for packet in container.demux(stream):
        if not packet.size:  # the flush at the end
            continue
        stamp = packet.pts if packet.pts is not None else packet.dts
        time = stamp * base - origin if stamp is not None else count / rate
        count += 1
        if packet.dts is not None and packet.dts * base - origin >= end:
            break
        if packet.is_discard or not start - EPSILON <= time < end - EPSILON:
            continue
        if not times or time > times[-1]:
            step = (packet.duration or 0) * base
        times.append(time)
        if max_frames is not None and len(times) > max_frames:
            raise VideoError("too_long", f"more than {max_frames} frames")
    if not times:
        raise VideoError("truncated", f"no frames from {start:g} s to {end:g} s")
    shown = np.sort(np.array(times))
    step = step or (float(np.median(np.diff(shown))) if len(shown) > 1 else 1 / rate)
    return Timing(shown, min(float(shown[-1]) + step, end) - float(shown[0]), count)


def _decode(container: InputContainer, stream: VideoStream, timing: Timing, rotation: int, small_side: int) -> Pixels:
    tiny_picture = _scaler(rotation)
    small = _Chosen(timing, (np.arange(NUM_SMALL) + 0.5) / NUM_SMALL, _scaler(rotation), (small_side, small_side))
    full = _Chosen(timing, np.array(FRAME_TIMES), _scaler(rotation), None)
    tiny, times = [], []
    for time, frame in _shown(container, stream, timing.times):
        tiny.append(tiny_picture(frame, TINY))
        times.append(time)
        small.take(time, frame)
        full.take(time, frame)
    if len(tiny) < (1 - MAX_HIDDEN) * len(timing.times):
        raise VideoError("corrupt_frames", f"{len(tiny)} of {len(timing.times)} frames could be decoded")
    for chosen in (small, full):  # where the last packets hide their frames, the last one shown stands in
        chosen.take(float("inf"), frame)
    if len({picture.shape for picture in full.pictures}) > 1:
        raise VideoError("corrupt_frames", "the frames change their size")
    return Pixels(np.stack(tiny), np.stack(small.pictures), np.stack(full.pictures), times=np.array(times))


class _Chosen:
    """The frames that are on the screen at certain shares of a clip's duration, as they come by."""

    def __init__(self, timing: Timing, shares: np.ndarray, picture: Scaler, size: tuple[int, int] | None) -> None:
        moments = timing.times[0] + shares * timing.duration
        shown = timing.times[np.searchsorted(timing.times, moments + MILLISECOND, side="right") - 1]
        self.wanted = (shown - EPSILON).tolist()
        self.picture, self.size = picture, size
        self.pictures: list[np.ndarray] = []

    def take(self, time: float, frame: VideoFrame) -> None:
        """Keeps the frame once for every wanted time that it reaches."""
        due = 0
        while len(self.wanted) > len(self.pictures) + due and time >= self.wanted[len(self.pictures) + due]:
            due += 1
        if due:
            self.pictures.extend([self.picture(frame, self.size)] * due)


def _shown(container: InputContainer, stream: VideoStream, times: np.ndarray) -> Iterator[tuple[float, VideoFrame]]:
    """The decoded frames of [times[0], times[-1]], with the seconds at which they appear."""
    _rewind(container, stream, float(times[0]))
    origin, _ = _clock(stream)
    count = 0
    for frame in container.decode(stream):
        time = float(times[count]) if frame.time is None else frame.time - origin
        if time < times[0] - EPSILON:
            continue
        if time > times[-1] + EPSILON:
            return
        if frame.is_corrupt:
            raise VideoError("corrupt_frames", f"the frame at {time:.2f} s is damaged")
        count += 1
        yield time, frame
        if count == len(times):
            return


def _clock(stream: VideoStream) -> tuple[float, float]:
    """Seconds of the stream's first time stamp, and seconds a tick."""
    base = float(stream.time_base or 1)
    return (stream.start_time or 0) * base, base


def _rewind(container: InputContainer, stream: VideoStream, seconds: float) -> None:
    """To a key frame at or before a time."""
    _, base = _clock(stream)
    container.seek((stream.start_time or 0) + int(max(seconds - MARGIN, 0) / base), stream=stream)


Scaler = Callable[["VideoFrame", "tuple[int, int] | None"], np.ndarray]


def _scaler(rotation: int) -> Scaler:
    """(frame, (width, height) or None) -> (H, W, 3) uint8, upright; set up once for all frames of one size."""
    from av.video.reformatter import Interpolation, VideoReformatter

    reformatter = VideoReformatter()
    exact = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT  # without, pictures are too dark by 1 to 3 of 255
    # Means over areas do not alias, however small the picture; but they would enlarge in blocks.
    shrink, other = Interpolation.AREA | exact, Interpolation.BILINEAR | exact

    def picture(frame: VideoFrame, size: tuple[int, int] | None) -> np.ndarray:
        width, height = size or (None, None)
        if rotation % 180:
            width, height = height, width
        way = shrink if width is not None and width <= frame.width else other
        scaled = reformatter.reformat(frame, width, height, "rgb24", interpolation=way, threads=1)
        pixels = scaled.to_ndarray()
        return np.ascontiguousarray(np.rot90(pixels, -rotation // 90)) if rotation else pixels

    return picture


def _check_whole(container: InputContainer, stream: VideoStream, timing: Timing) -> None:
    """A file that was cut off holds fewer frames than its header says."""
    if stream.frames:
        whole, detail = (1 - MAX_LOST) * stream.frames, f"{timing.num_packets} of {stream.frames} frames"
        missing = timing.num_packets < whole
    else:
        promised = header_seconds(container, stream)
        detail = f"{timing.duration:.2f} of {promised:.2f} s"
        missing = timing.duration < 0.9 * promised - 1.0  # sound may go on for a while
    if missing:
        raise VideoError("truncated", detail)


def _completed(probe: Probe, width: int, height: int, num_frames: int, duration: float) -> Probe:
    """What the header says of the rate, unless it contradicts the frames themselves."""
    measured = num_frames / duration if duration > 0 else 0.0
    agrees = probe.fps > 0 and abs(measured - probe.fps) < 0.01 * probe.fps
    fps = probe.fps if agrees else min(measured, MAX_FPS)
    return replace(probe, width=width, height=height, num_frames=num_frames, duration=duration, fps=fps)
