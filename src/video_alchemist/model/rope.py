"""Rotary position embedding on three axes (§3.2, "RoPE [63]"): the angle between two tokens tells their offset.

B batch · T video tokens · K heads · f, h, w latent frames, height, width in patches
"""

from __future__ import annotations

import torch
from einops import repeat
from torch import Tensor


def axis_pairs(head_dim: int) -> tuple[int, int, int]:
    """How many of the head_dim / 2 rotated pairs tell frame, row and column; frames take what thirds leave over."""
    if head_dim % 2 or head_dim < 6:
        raise ValueError(
            f"a head of {head_dim} channels cannot be rotated on three axes; expected an even number of at least 6, "
            f"nearest: {max(6, head_dim - head_dim % 2)}"
        )
    third = head_dim // 2 // 3
    return head_dim // 2 - 2 * third, third, third


def rope(grid: tuple[int, int, int], head_dim: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines (T, head_dim / 2), float32, of the patches of a grid (f, h, w) in raster order."""
    angles = []
    for length, pairs in zip(grid, axis_pairs(head_dim), strict=True):
        frequencies = theta ** -(torch.arange(pairs, dtype=torch.float32, device=device) / pairs)
        angles.append(torch.outer(torch.arange(length, dtype=torch.float32, device=device), frequencies))
    f, h, w = grid
    angle = torch.cat(
        [
            repeat(angles[0], "f d -> (f h w) d", h=h, w=w),
            repeat(angles[1], "h d -> (f h w) d", f=f, w=w),
            repeat(angles[2], "w d -> (f h w) d", f=f, h=h),
        ],
        dim=-1,
    )
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates queries or keys (B, K, T, d); channel i pairs with channel i + d / 2."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)
