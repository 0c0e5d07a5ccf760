"""Videos that are made on the spot, good ones and broken ones."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `tiny_stage`, which worker processes import, too


def write(
    path: Path,
    frames: np.ndarray,
    fps: int = 12,
    codec: str = "libx264",
    rotation: int = 0,
    stamps: Sequence[int] | None = None,
    faststart: bool = False,
    gop: int = 12,
) -> Path:
    """frames (F, H, W, 3) uint8. stamps: when each is shown, in 1/fps s. rotation: counter-clockwise, as in libav."""
    options = {"movflags": "faststart"} if faststart else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options) as out:
        stream = out.add_stream(
            codec, rate=fps, options={"crf": "10"} if codec == "libx264" else {"qmax": "3"} if codec == "mpeg4" else {}
        )
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.bit_rate = gop, 4_000_000
        if rotation:
            stream.set_display_rotation(rotation)
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts = stamps[i] if stamps is not None else i
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def numbered(count: int, height: int = 48, width: int = 64, shift: int = 0) -> np.ndarray:
    """(F, H, W, 3): frame i is of grey level 8 + 5 * (i modulo 40), but for a white corner at the top left, so that one
    can tell which frame one has, and which way up."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[:] = (8 + 5 * ((np.arange(count) + shift) % 40))[:, None, None, None]
    frames[:, : height // 4, : width // 4] = 255
    return frames


def number_of(picture: np.ndarray) -> int:
    """Which of the `numbered` frames this is, modulo 40; read in the middle."""
    height, width = picture.shape[:2]
    return round((float(picture[height // 2 - 2 : height // 2 + 2, width // 2 - 2 : width // 2 + 2].mean()) - 8) / 5)


def patch_duration(path: Path, seconds: int) -> Path:
    """A file whose header promises so many seconds: an mp4 or an mkv of `write`'s making."""
    data = bytearray(path.read_bytes())
    if path.suffix == ".mkv":
        # Duration: id, size, float64 in ms. Without the size, now and then found in the random id of the file.
        at = data.index(b"\x44\x89\x88") + 3
        data[at : at + 8] = struct.pack(">d", 1000.0 * seconds)
    else:
        for box, place in ((b"mvhd", 16), (b"tkhd", 20), (b"mdhd", 16)):  # of version 0
            at = data.index(box) + 4 + place
            data[at : at + 4] = (seconds * (12288 if box == b"mdhd" else 1000)).to_bytes(4, "big")
    path.write_bytes(data)
    return path


@pytest.fixture
def videos() -> type:
    """The functions above, since test files cannot import each other."""

    class Videos:
        write: Callable[..., Path] = staticmethod(write)
        numbered: Callable[..., np.ndarray] = staticmethod(numbered)
        number_of: Callable[..., int] = staticmethod(number_of)
        patch_duration: Callable[..., Path] = staticmethod(patch_duration)

    return Videos
