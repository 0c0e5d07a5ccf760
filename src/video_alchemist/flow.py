"""Rectified flow (§3.2, App. B.2, B.3). Pure functions; nothing else in the project writes these formulas.

t = 1 is noise, t = 0 is data: `zt = (1 - t) * z0 + t * noise`, `velocity = noise - z0`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _like(t: Tensor, z: Tensor) -> Tensor:
    return t.view(-1, *[1] * (z.ndim - 1)).to(z.dtype)  # (B,) -> (B, 1, 1, 1, 1)


def interpolate(z0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """The straight path from data to noise at time t (B,)."""
    return z0 + _like(t, z0) * (noise - z0)


def velocity_target(z0: Tensor, noise: Tensor) -> Tensor:
    """d zt / dt, what the network learns."""
    return noise - z0


def estimate_z0(zt: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
    """The clean latents that a velocity at time t (B,) points to."""
    return zt - _like(t, zt) * velocity


def time_shift(t: Tensor, shift: float) -> Tensor:
    """App. B.3: moves times towards noise, where more pixels hide the same signal. shift = 1 is the identity."""
    return shift * t / (1 + (shift - 1) * t)


def resolution_shift(width: int, height: int, base: tuple[int, int], base_shift: float = 1.0) -> float:
    """Shift that keeps the signal-to-noise ratio of the `base` (width, height): the root of the ratio of pixels."""
    return base_shift * math.sqrt(width * height / (base[0] * base[1]))


def schedule(num_steps: int, shift: float = 1.0, device: torch.device | str | None = None) -> Tensor:
    """Times from 1 to 0, (num_steps + 1,)."""
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}; expected at least 1")
    return time_shift(torch.linspace(1, 0, num_steps + 1, dtype=torch.float64, device=device), shift).float()


def sample_times(
    batch: int, shift: float = 1.0, generator: torch.Generator | None = None, device: torch.device | str | None = None
) -> Tensor:
    """Training times (batch,): logit-normal, then shifted like the sampling schedule."""
    return time_shift(torch.sigmoid(torch.randn(batch, generator=generator, device=device)), shift)
