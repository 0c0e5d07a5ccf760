"""Small pictures of a video and of a sample's references, for the report's gallery."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from video_alchemist.benchmark.samples import Sample

HEIGHT = 96  # pixels
GAP = 3
FRAMES = 4  # of a video, from the first to the last
MOST = 7  # references in a strip


def frame_strip(frames: np.ndarray) -> bytes:
    """Frames (F, H, W, 3) uint8 => a JPEG of some of them, side by side."""
    shown = np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).round().astype(int)
    return _strip([Image.fromarray(frames[i]) for i in shown])


def reference_strip(sample: Sample) -> bytes:
    """The pictures of a sample's subjects and objects, in the prompt's order, and its background; a JPEG."""
    cut_outs = [Image.fromarray(picture) for target in sample.targets for picture in target.pictures]
    pictures = [Image.alpha_composite(Image.new("RGBA", one.size, "white"), one) for one in cut_outs]
    if sample.background is not None:
        pictures = [*pictures[: MOST - 1], Image.fromarray(sample.background)]
    return _strip(pictures[:MOST] or [Image.fromarray(sample.frames[len(sample.frames) // 2])])


def _strip(pictures: Sequence[Image.Image]) -> bytes:
    scaled = [
        one.convert("RGB").resize((min(max(round(one.width * HEIGHT / one.height), 8), 3 * HEIGHT), HEIGHT))
        for one in pictures
    ]
    sheet = Image.new("RGB", (sum(one.width for one in scaled) + GAP * (len(scaled) - 1), HEIGHT), "white")
    left = 0
    for one in scaled:
        sheet.paste(one, (left, 0))
        left += one.width + GAP
    contents = io.BytesIO()
    sheet.save(contents, "JPEG", quality=80)
    return contents.getvalue()
