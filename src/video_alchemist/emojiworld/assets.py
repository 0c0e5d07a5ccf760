"""The EmojiWorld asset pack: sprites of one concept drawn by many artists, and how to recolour them.

An identity is (concept, artist, recolouring): many identities of one entity word are what open-set personalisation
trains on (section 3.1), and concepts and an artist kept out of training are what "open-set" is tested on.

Shapes: M sprites of the pack, B batch, 4 = RGB + straight alpha, H = W = 64.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

ASSET_DIR = Path(__file__).parent / "assets"
SPRITE_SIZE = 64
ATLAS_COLUMNS = 32

HUES: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.10, 0.10),
    "orange": (1.00, 0.50, 0.05),
    "yellow": (1.00, 0.88, 0.10),
    "green": (0.10, 0.70, 0.20),
    "blue": (0.10, 0.35, 0.95),
    "purple": (0.55, 0.15, 0.85),
    "pink": (1.00, 0.45, 0.75),
    "brown": (0.50, 0.28, 0.10),
    "white": (0.97, 0.97, 0.97),
    "grey": (0.50, 0.50, 0.50),
    "black": (0.12, 0.12, 0.12),
}

LUMA = (0.299, 0.587, 0.114)
TO_YIQ = torch.tensor([LUMA, (0.596, -0.274, -0.322), (0.211, -0.523, 0.312)])
FROM_YIQ = torch.linalg.inv(TO_YIQ)


@dataclass(frozen=True)
class Identity:
    """One sprite of the pack and what is known about it; face_box is (x0, y0, x1, y1) as fractions of the sprite."""

    index: int
    concept: str
    artist: str
    variant: str
    kind: str  # "subject", "object" or "scenery"
    broader: str  # "animal", "creature", "person", "toy", "vehicle", "thing", "plant" or "food"
    has_face: bool
    face_box: tuple[float, float, float, float] | None
    split: str  # "train", "test_concept" or "test_artist"


@dataclass(frozen=True)
class Assets:
    """All sprites (M,4,64,64) uint8 with straight alpha, and the identity of each."""

    sprites: Tensor
    identities: tuple[Identity, ...]


@functools.cache
def load_assets() -> Assets:
    """Read the pack that ships with the package."""
    rows = json.loads((ASSET_DIR / "identities.json").read_text())
    identities = tuple(
        Identity(index, concept, artist, variant, kind, broader, has_face, tuple(box) if box else None, split)
        for index, (concept, artist, variant, kind, broader, has_face, box, split) in enumerate(rows)
    )
    artists = list(dict.fromkeys(i.artist for i in identities))
    counts = [sum(i.artist == artist for i in identities) for artist in artists]
    tiles = [read_atlas(ASSET_DIR / f"{a}.webp", n) for a, n in zip(artists, counts, strict=True)]
    return Assets(torch.from_numpy(np.concatenate(tiles)), identities)


def read_atlas(path: Path, count: int) -> np.ndarray:
    """Cut an atlas into its first `count` tiles (count,4,64,64) uint8."""
    with Image.open(path) as picture:
        atlas = np.asarray(picture.convert("RGBA"))
    rows = atlas.shape[0] // SPRITE_SIZE
    grid = atlas.reshape(rows, SPRITE_SIZE, ATLAS_COLUMNS, SPRITE_SIZE, 4)
    return np.ascontiguousarray(grid.transpose(0, 2, 4, 1, 3).reshape(-1, 4, SPRITE_SIZE, SPRITE_SIZE)[:count])


def recolour(sprites: Tensor, hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Rotate hue (radians), scale saturation and value of (B,4,H,W) sprites in [0,1]; hue, ... (B,); alpha stays."""
    cos, sin = torch.cos(hue) * saturation, torch.sin(hue) * saturation
    zero, one = torch.zeros_like(cos), torch.ones_like(cos)
    turn = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], dim=-1).view(-1, 3, 3)
    matrix = value.view(-1, 1, 1) * (FROM_YIQ.to(sprites) @ turn @ TO_YIQ.to(sprites))  # (B,3,3)
    rgb = torch.einsum("bij,bjhw->bihw", matrix, sprites[:, :3]).clamp(0, 1)
    return torch.cat([rgb, sprites[:, 3:]], dim=1)


def tint(sprites: Tensor, colour_rgb: Tensor, strength: Tensor | float = 0.8) -> Tensor:
    """Colourise (B,4,H,W) sprites in [0,1] with colour_rgb (B,3), keeping their light and dark parts; alpha stays.

    A sprite's own mean lightness maps to the colour itself, so that a dark bear and a pale ghost both become
    visibly blue, while eyes stay dark and highlights stay light. `strength` (B,) or one number: 0 changes nothing.
    """
    rgb, alpha = sprites[:, :3], sprites[:, 3:]
    weights = torch.tensor(LUMA).to(sprites).view(1, 3, 1, 1)
    luma = (rgb * weights).sum(1, keepdim=True)  # (B,1,H,W)
    mean = (luma * alpha).sum((2, 3), keepdim=True) / alpha.sum((2, 3), keepdim=True).clamp_min(1e-6)
    mean = mean.clamp(0.05, 0.95)
    colour = colour_rgb.view(-1, 3, 1, 1)
    shade = colour * (luma / mean)
    light = colour + (1 - colour) * ((luma - mean) / (1 - mean))
    tinted = torch.where(luma < mean, shade, light)
    amount = strength.view(-1, 1, 1, 1) if isinstance(strength, Tensor) else strength
    return torch.cat([(rgb + amount * (tinted - rgb)).clamp(0, 1), alpha], dim=1)
