"""Frames <-> mp4 (PyAV), and sheets of references and frames to look at.

F frames · H,W pixels; frames are (F, H, W, 3) uint8 throughout.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when all went well, and vanishes when not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    try:
        yield Path(name)
        umask = os.umask(0)  # mkstemp hides its file from others, whom an ordinary file is open to
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, path)
    except OSError as error:
        if error.filename not in (None, name):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk does not say which it is
    finally:
        Path(name).unlink(missing_ok=True)


def write_video(path: str | Path, frames: np.ndarray, fps: float, crf: int = 16) -> None:
    """H.264 in yuv420p, which every browser plays; so odd sizes grow by a repeated row or column. Atomic."""
    import av

    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or not frames.size:
        raise ValueError(f"frames are {frames.shape} of {frames.dtype}; expected (F, H, W, 3) of uint8")
    frames = np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")
    options = {"movflags": "faststart"}
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4", options=options) as out:
        stream = out.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": str(crf)})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        out.mux(stream.encode())


def read_video(path: str | Path | BinaryIO) -> tuple[np.ndarray, float]:
    """All frames (F, H, W, 3) uint8 of a video, a path or an open file, and its frames per second."""
    import av

    if isinstance(path, (str, Path)) and not Path(path).is_file():
        raise FileNotFoundError(f"no such video: {str(path)!r}")
    try:
        with av.open(str(path) if isinstance(path, Path) else path, "r") as container:
            stream = container.streams.video[0]
            frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
            return frames, float(stream.average_rate or 0)
    except (av.error.FFmpegError, IndexError, ValueError) as error:
        raise ValueError(f"{str(path)!r} is not a video that can be read: {error}") from error


def contact_sheet(rows: Sequence[Sequence[Image]], labels: Sequence[str] = (), cell: int = 128) -> Image:
    """A picture of rows of pictures (references left, frames right), each row under its label."""
    from PIL import Image as Images
    from PIL import ImageDraw, ImageFont, ImageOps

    gap, line = 4, 14 if labels else 0
    height = cell + line + gap
    sheet = Images.new("RGB", (gap + max(map(len, rows)) * (cell + gap), gap + len(rows) * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for i, row in enumerate(rows):
        top = gap + i * height
        if i < len(labels):
            draw.text((gap, top - 1), labels[i], fill="black", font=font)
        for k, picture in enumerate(row):
            shown = ImageOps.pad(picture.convert("RGB"), (cell, cell), color="white")
            sheet.paste(shown, (gap + k * (cell + gap), top + line))
    return sheet
