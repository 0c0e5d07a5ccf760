"""How the time reaches every layer: adaptive layer norm (App. B.1, "adaLN-Zero"), and Wan 2.1's cheaper form of it.

B batch · G branches of guidance · T video tokens · D model width
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MODULATIONS = ("per_block", "shared_table")  # a projection in every block (DiT); one for all and tables (Wan 2.1)


def norm(x: Tensor) -> Tensor:
    """LayerNorm without parameters."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Adaptive layer norm (DiT): x (G, B, T, D) already normalised; shift, scale (B, 1, D)."""
    return (x * (1 + scale) + shift).to(x.dtype)


class TimeEmbedding(nn.Module):
    """Time (B,) in [0, 1], 1 = noise -> (B, D)."""

    def __init__(self, hidden_size: int, channels: int = 256) -> None:
        """channels: sines and cosines together."""
        super().__init__()
        self.num_frequencies = channels // 2
        self.mlp = nn.Sequential(nn.Linear(channels, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size))

    def forward(self, t: Tensor, dtype: torch.dtype) -> Tensor:
        half = torch.arange(self.num_frequencies, dtype=torch.float32, device=t.device) / self.num_frequencies
        angle = 1000 * t.float()[:, None] * torch.exp(-math.log(10_000) * half)            # (B, num_frequencies)
        waves = torch.cat([angle.cos(), angle.sin()], dim=-1)                              # (B, channels)
        weights = cast(nn.Linear, self.mlp[0]).weight  # may be kept in float32 in a half-precision transformer
        return self.mlp(waves.to(weights.dtype)).to(dtype)                                 # (B, D)


class ModulationTable(nn.Module):
    """Wan 2.1's adaLN of one layer: a table of its own added to what all layers get; both stay float32."""

    def __init__(self, hidden_size: int, parts: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(parts, hidden_size))

    def forward(self, time: Tensor) -> Tensor:
        time = time.unflatten(-1, (-1, self.table.shape[1]))                               # (B, parts or 1, D)
        return (self.table + time.float()).flatten(1)                                      # (B, parts * D)


def adaptive(hidden_size: int, parts: int, modulation: str) -> nn.Module:
    """Time -> shifts, scales and gates, (B, parts * D)."""
    if modulation == "shared_table":
        return ModulationTable(hidden_size, parts)
    return nn.Linear(hidden_size, parts * hidden_size)
