"""Frames as video files leave them: colour at half the size, rounded block frequencies, a little blur.

B frames or clips · F frames · H,W pixels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 8
SIZES = (64, 96, 128)  # pixels of the height that clips are rendered at
SIZE_SHARES = (0.75, 0.15, 0.1)
TO_YCC = torch.tensor(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)  # JPEG's; video's differs by an offset and a range that do not matter here


def compress(frames: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 3, H, W) or (B, F, 3, H, W) in [0, 1] => the same, each of the B lossy to a degree of its own."""
    flat = frames.flatten(0, -4)
    repeats = len(flat) // len(frames)
    strength = torch.rand(len(frames), 1, 1, 1, generator=generator).square().repeat_interleave(repeats, dim=0)
    strength = strength.to(flat)
    luma, chroma = torch.einsum("dc,bchw->bdhw", TO_YCC.to(flat), flat).split([1, 2], dim=1)
    small = F.avg_pool2d(chroma, 2, ceil_mode=True, count_include_pad=False)
    chroma = F.interpolate(small, size=flat.shape[-2:], mode="bilinear")
    luma = _rounded(luma, 0.005 + 0.06 * strength)
    lossy = torch.einsum("cd,bdhw->bchw", torch.linalg.inv(TO_YCC).to(flat), torch.cat([luma, chroma], dim=1))
    blurred = F.avg_pool2d(F.pad(lossy, [1, 1, 1, 1], mode="replicate"), 3, stride=1)
    return torch.lerp(lossy, blurred, 0.5 * strength).clamp(0, 1).view_as(frames)


def _rounded(planes: Tensor, step: Tensor) -> Tensor:
    """(B, 1, H, W) with its block frequencies rounded to multiples of `step`, coarser for finer detail."""
    height, width = planes.shape[-2:]
    padded = F.pad(planes, [0, -width % BLOCK, 0, -height % BLOCK], mode="replicate")
    blocks = padded.unfold(2, BLOCK, BLOCK).unfold(3, BLOCK, BLOCK)  # (B, 1, h, w, 8, 8)
    cosines = _cosines().to(planes)
    order = torch.arange(BLOCK, device=planes.device)
    steps = step[..., None, None] * (1 + 0.5 * (order[:, None] + order))
    frequencies = cosines @ blocks @ cosines.T
    blocks = cosines.T @ ((frequencies / steps).round() * steps) @ cosines
    return blocks.transpose(3, 4).reshape_as(padded)[..., :height, :width]


def _cosines() -> Tensor:
    """The orthonormal cosine transform of a block's side, (8, 8)."""
    order = torch.arange(BLOCK)
    waves = torch.cos(math.pi / BLOCK * (order + 0.5) * order[:, None]) * math.sqrt(2 / BLOCK)
    waves[0] /= math.sqrt(2)
    return waves


def random_size(generator: torch.Generator) -> tuple[int, int]:
    """(height, width) that a batch is rendered at: mostly square, sometimes wide as films are."""
    height = SIZES[int(torch.multinomial(torch.tensor(SIZE_SHARES), 1, generator=generator))]
    wide = bool(torch.rand((), generator=generator) < 0.2)
    return height, height * 16 // 9 // 2 * 2 if wide else height
