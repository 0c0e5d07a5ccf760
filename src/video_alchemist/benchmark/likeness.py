"""How pixel-like two cut-outs of a subject are: what the measure of the copy-and-paste effect (§3.3) stands on.

The same subject in a new pose has the same colours, and these lie about alike (hair above, clothes below). So plain
correlation, or an encoder, calls a new pose a copy. What a paste has and a new pose has not, is detail that falls on
detail. Hence, on both cut-outs brought to one size,

    copied = max(0, 2 <x, y> / (<x, x> + <y, y>)) * 2 <m, n> / (<m, m> + <n, n>)

where x, y are their detail (without what is coarser than 1/8 of the size) and m, n their mean colours: SSIM's structure
and contrast, and its lighting (Wang et al. 2004), over the whole cut-out. 1 = the same picture, at any place and size.
Drawn subjects, 120 of them, at another size: pasted 0.88; tilted by 10 degrees 0.39, by 20 degrees 0.16, by 45
degrees 0.05; at half the light 0.57; another subject 0.03. (Without the detail step: 0.57, 0.35 and 0.16 when tilted.)

h,w pixels of a cut-out
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

SIZE = 32  # both cut-outs are brought to SIZE x SIZE, so that a pixel more or less at the edge is nothing
COARSE = SIZE / 8  # standard deviation of the blur that is taken off


def copied_share(shown: np.ndarray, pictures: Sequence[np.ndarray]) -> float:
    """A cut-out (h, w, 4) uint8 and a subject's pictures alike => in [0, 1], of the picture most like it."""
    return max(copied(shown, picture) for picture in pictures)


def copied(first: np.ndarray, second: np.ndarray) -> float:
    """Two cut-outs (h, w, 4) uint8 => in [0, 1]. One without detail has nothing to copy: 0."""
    (x, mean_x), (y, mean_y) = _detail(first), _detail(second)
    return max(0.0, _agreement(x, y)) * _agreement(mean_x, mean_y)


def _agreement(x: np.ndarray, y: np.ndarray) -> float:
    """In [-1, 1]: 1 only where both are the same, in size as well as in direction."""
    return float(2 * np.vdot(x, y) / max(np.vdot(x, x) + np.vdot(y, y), 1e-6))


def _detail(cut_out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(h, w, 4) uint8 => detail (SIZE, SIZE, 3), 0 outside of the mask; mean colour (3,) in [0, 1]."""
    seen = cut_out[..., 3] > 127
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    if not len(rows):
        return np.zeros((SIZE, SIZE, 3), np.float32), np.zeros(3, np.float32)
    # To the mask's own edges: detectors' boxes are looser than each other.
    tight = cut_out[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32) / 255
    colour = cv2.resize(tight[..., :3] * tight[..., 3:], (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    weight = cv2.resize(tight[..., 3], (SIZE, SIZE), interpolation=cv2.INTER_AREA)[..., None]
    coarse = cv2.GaussianBlur(colour, (0, 0), COARSE)
    spread = cv2.GaussianBlur(weight, (0, 0), COARSE)[..., None]
    return colour - coarse / np.maximum(spread, 1e-3) * weight, colour.sum(axis=(0, 1)) / weight.sum()
