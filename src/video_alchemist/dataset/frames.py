"""Pixels of a clip as a bucket wants them (App. B.2: "fixed framerate of 24"): only the frames that are asked for.

F frames · H,W pixels · times in seconds
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import Image

MILLISECOND = 1e-3  # time bases round
_EXACT = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT  # without, pictures are too dark by 1 to 3 of 255


def read_frames(contents: bytes, moments: np.ndarray, clip_fps: float, size: tuple[int, int]) -> np.ndarray:
    """What an mp4 shows at some moments (F,), ascending from its start: (F, H, W, 3) uint8 of size (width, height).

    Resized to cover the size, of which the middle is kept. What cannot be decoded is a ValueError.
    """
    picture = _fitted(size)
    taken: list[np.ndarray] = []
    shown: VideoFrame | None = None
    time = origin = 0.0
    try:
        with av.open(io.BytesIO(contents), "r") as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1  # a loader's workers are many already
            for number, frame in enumerate(container.decode(stream)):
                if frame.is_corrupt:
                    raise ValueError(f"frame {number} is damaged")
                time = number / clip_fps if frame.time is None else frame.time
                origin = time if shown is None else origin
                due = int(np.searchsorted(moments, time - origin - MILLISECOND))  # moments before this frame
                if shown is not None and due > len(taken):
                    taken += [picture(shown)] * (due - len(taken))
                if len(taken) == len(moments):
                    return np.stack(taken)
                shown = frame
    except (av.error.FFmpegError, IndexError) as error:
        raise ValueError(f"not a video that can be decoded: {error}") from error
    end = time - origin + 1 / clip_fps
    if shown is None or moments[-1] > end + MILLISECOND:
        raise ValueError(f"the video ends at {end if shown is not None else 0:.2f} s; expected {moments[-1]:.2f} s")
    return np.stack(taken + [picture(shown)] * (len(moments) - len(taken)))


def clip_moments(clip_id: str, num_frames: int, fps: float, duration: float) -> np.ndarray:
    """When a clip's frames are taken: from its start at a constant rate; a single one anywhere, as its id falls."""
    if num_frames == 1:
        share = int.from_bytes(hashlib.sha256(clip_id.encode()).digest()[:4]) / 2**32
        return np.array([share * max(0.0, duration - MILLISECOND)])
    return np.arange(num_frames) / fps


def _fitted(size: tuple[int, int]) -> Callable[[VideoFrame], np.ndarray]:
    """frame -> (H, W, 3) uint8; set up once for all frames of a clip."""
    reformatter = VideoReformatter()

    def picture(frame: VideoFrame) -> np.ndarray:
        scale = max(size[0] / frame.width, size[1] / frame.height)
        width, height = max(size[0], round(frame.width * scale)), max(size[1], round(frame.height * scale))
        # Means over areas do not alias, however small the picture; but they would enlarge in blocks.
        way = (Interpolation.AREA if scale < 1 else Interpolation.BILINEAR) | _EXACT
        scaled = reformatter.reformat(frame, width, height, "rgb24", interpolation=way, threads=1).to_ndarray()
        left, top = (width - size[0]) // 2, (height - size[1]) // 2
        return scaled[top : top + size[1], left : left + size[0]]

    return picture


def middle(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w, 3) uint8 => (H, W, 3) uint8 of size (width, height): the middle of it, in the wanted proportions."""
    height, width = picture.shape[:2]
    scale = min(width / size[0], height / size[1])
    box_width, box_height = size[0] * scale, size[1] * scale
    left, top = (width - box_width) / 2, (height - box_height) / 2
    box = (left, top, left + box_width, top + box_height)
    return np.array(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR, box=box))
