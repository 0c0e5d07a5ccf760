"""What costs next to nothing to know of a clip's motion, before any model looks (App. A.1), and its perceptual hash.

F frames; all from the tiny frames (F, 27, 48, 3) uint8
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from video_alchemist.curation.clip import Clip, Outcome
from video_alchemist.curation.probe import reject

NUM_MOMENTS = 16  # evenly spread, so that slow motion shows at any frame rate
GREY = np.array([0.299, 0.587, 0.114], np.float32)


def measure_motion(clip: Clip, min_motion: float) -> Outcome:
    """The clip with measures "motion" and "residual_motion" (grey levels of 255) and its hash; still ones leave."""
    assert clip.pixels is not None, "decode a clip before measuring it"
    tiny = clip.pixels.tiny
    motion, residual = motion_of(tiny)
    measures = {**clip.measures, "motion": motion, "residual_motion": residual}
    clip = replace(clip, measures=measures, perceptual_hash=difference_hash(tiny[len(tiny) // 2]))
    if motion < min_motion:
        return reject(clip, "no_motion", f"motion {motion:.3f}; expected at least {min_motion:g}")
    return clip


def motion_of(tiny: np.ndarray) -> tuple[float, float]:
    """Mean absolute change from moment to moment, and what of it no pan or zoom of the whole picture explains."""
    moments = np.linspace(0, len(tiny) - 1, min(NUM_MOMENTS, len(tiny))).round().astype(int)
    grey = tiny[moments].astype(np.float32) @ GREY  # (n, 27, 48)
    if len(grey) < 2:
        return 0.0, 0.0
    change = grey[1:] - grey[:-1]
    down, right = np.gradient((grey[1:] + grey[:-1]) / 2, axis=(1, 2))
    y, x = np.meshgrid(np.linspace(-1, 1, grey.shape[1]), np.linspace(-1, 1, grey.shape[2]), indexing="ij")
    # A small pan (u, v) and zoom s change a picture by u dx + v dy + s (x dx + y dy): least squares, per pair.
    ways = np.stack([right, down, x * right + y * down], axis=-1).reshape(len(change), -1, 3)
    flat = change.reshape(len(change), -1, 1)
    explained = ways @ (np.linalg.pinv(ways.transpose(0, 2, 1) @ ways) @ (ways.transpose(0, 2, 1) @ flat))
    return float(np.abs(change).mean()), float(np.abs(flat - explained).mean())


def difference_hash(picture: np.ndarray) -> str:
    """(27, 48, 3) uint8 -> 64 bits as 16 hex digits: whether it grows brighter to the right, on a grid of 8 x 9."""
    from PIL import Image

    grid = np.asarray(Image.fromarray(picture).convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    return np.packbits(grid[:, 1:] > grid[:, :-1]).tobytes().hex()
