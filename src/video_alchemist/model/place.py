"""Where in the frame a token is. The paper has RoPE alone, which tells tokens how far apart they are.

T video tokens · D model width · f, h, w latent grid
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

SIZE = 0.3  # of the waves in the beginning; patches are embedded at about 0.5


class PlaceEmbedding(nn.Module):
    """Adds to every token a learned vector of its row and column, the same in all frames."""

    def __init__(self, rows: int, columns: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, columns, hidden_size))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        self.weight.copy_(SIZE * place_waves(*self.weight.shape))

    def forward(self, x: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """x (..., T, D) of a grid (f, h, w), which may have more or fewer rows and columns than were learned."""
        places = F.interpolate(rearrange(self.weight, "h w D -> 1 D h w"), grid[1:], mode="bilinear")
        return x + repeat(places, "1 D h w -> (f h w) D", f=grid[0]).to(x.dtype)           # (..., T, D)


def place_waves(rows: int, columns: int, width: int) -> Tensor:
    """Sines and cosines of every place's row and column, from four places a wave to forty: (rows, columns, width)."""
    if width % 4:
        raise ValueError(f"{width} channels of places; expected a multiple of 4, nearest: {max(4, width // 4 * 4)}")
    frequencies = 1.5 * 10 ** -(torch.arange(width // 4) / (width // 4))
    places = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")      # 2 x (rows, columns)
    angles = [place[..., None] * frequencies for place in places]                          # 2 x (rows, columns, D / 4)
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=-1)
