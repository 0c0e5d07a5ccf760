"""Named places as pictures: skies, grounds, water, mountains and rooms by formula, scenery by placed sprites.

Every seed is another place of the same name. Resolution independent: the same place at any size.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from video_alchemist.emojiworld.assets import load_assets, recolour
from video_alchemist.emojiworld.scenes import Scene

OVERSCAN = 1.5  # pictures are larger than the frame, so that the camera can move inside
NATIVE = 96  # pixels of the painted picture; frames sample from it

# name -> (sky top, sky bottom, ground near, ground far, horizon, feature)
PALETTES: dict[str, tuple[str, str, str, str, float, str]] = {
    "beach": ("3f9be8", "bfe6ff", "e8cf8f", "f6e7b8", 0.55, "sea"),
    "sea": ("5aa9e6", "d8f0ff", "0b4f8a", "2f8fd0", 0.40, "waves"),
    "snowy mountain": ("7fb2e5", "e9f4ff", "ffffff", "d5e3f0", 0.60, "peaks"),
    "desert": ("f2b24c", "ffe7b0", "d9903d", "eebb6a", 0.55, "dunes"),
    "night sky": ("05071f", "1b1f4f", "10123a", "1b1f4f", 0.92, "stars"),
    "moon": ("000005", "10101c", "8d8d95", "b9b9c0", 0.55, "craters"),
    "kitchen": ("f4e6c8", "f7eedd", "b98a58", "cfa373", 0.66, "tiles"),
    "bedroom": ("c9b4e0", "ddcdee", "8a6242", "a57b58", 0.68, "window"),
    "lake": ("6db7ee", "e2f4ff", "2c7fb0", "63b5d6", 0.50, "lake"),
    "hill": ("69b6f2", "d9f1ff", "3f9c3a", "86cf63", 0.60, "hills"),
    "forest": ("8fc7a0", "d6efd2", "3c6b2c", "5f9444", 0.58, "sprites"),
    "meadow": ("7cc4f5", "e3f6ff", "57b03e", "9bdc72", 0.50, "sprites"),
    "city": ("9ab4d0", "e0e8f0", "5d6068", "8a8d95", 0.70, "sprites"),
    "village": ("8cc6ee", "f0f7e8", "b9a06a", "90b862", 0.62, "sprites"),
    "jungle": ("4f9f7a", "b7e0a8", "24551f", "3e7d2e", 0.55, "sprites"),
    "garden": ("8ed0f5", "eefaf0", "4f9a3e", "82c45c", 0.55, "sprites"),
}
# What stands in the drawn places, as far as the pack has it.
SCENERY: dict[str, tuple[str, ...]] = {
    "forest": ("pine tree", "tree"),
    "meadow": ("tree", "hut", "rock"),
    "city": ("office building", "department store", "hotel", "bank", "hospital", "tower", "convenience store"),
    "village": ("house", "church", "hut", "tree", "castle"),
    "jungle": ("palm tree", "tree", "rock"),
    "garden": ("tree", "fountain", "statue", "slide"),
}


def backgrounds(scenes: Sequence[Scene], device: torch.device | str = "cpu") -> Tensor:
    """(B, 3, NATIVE, NATIVE) float in [0, 1]: the clean places of some scenes, by day."""
    return torch.stack([_paint(scene.background.name, scene.background.seed) for scene in scenes]).to(device)


def _colour(code: str) -> Tensor:
    return torch.tensor([int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)]).view(3, 1, 1)


@functools.cache
def _coordinates() -> tuple[Tensor, Tensor]:
    """Columns and rows of the picture, each (NATIVE, NATIVE) in [0, 1]."""
    axis = (torch.arange(NATIVE) + 0.5) / NATIVE
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    return columns, rows


@functools.lru_cache(maxsize=512)  # a clip and its reference pictures show the same place
def _paint(name: str, seed: int) -> Tensor:
    """One place: sky and ground gradients, its feature, then its own change of colours."""
    rng = np.random.default_rng((seed, 5))
    top, bottom, near, far, horizon, feature = PALETTES[name]
    x, y = _coordinates()
    edge = horizon + float(rng.uniform(-0.07, 0.07)) + _waves(rng, x, 0.02 if feature != "tiles" else 0.0)
    sky = _colour(top) + (_colour(bottom) - _colour(top)) * (y / edge).clamp(0, 1)
    depth = ((y - edge) / (1 - edge).clamp(min=0.05)).clamp(0, 1)
    ground = _colour(far) + (_colour(near) - _colour(far)) * depth
    picture = torch.where(y < edge, sky, ground)
    picture = _feature(feature, picture, x, y, edge, depth, rng)
    if feature == "sprites":
        picture = _place_scenery(picture, name, float(edge.mean()), rng)
    hue, saturation, value = rng.normal(0, 0.25), rng.uniform(0.7, 1.2), rng.uniform(0.85, 1.08)
    changed = recolour(picture[None], *(torch.tensor([v], dtype=torch.float32) for v in (hue, saturation, value)))
    return changed[0].clamp(0, 1)


def _waves(rng: np.random.Generator, x: Tensor, height: float, count: int = 3) -> Tensor:
    """A sum of sines over the width, of some height."""
    total = torch.zeros_like(x)
    for k in range(count):
        total += torch.sin(x * float(rng.uniform(4, 14)) * (k + 1) + float(rng.uniform(0, 6.3))) / (k + 1)
    return total * height


def _ridge(rng: np.random.Generator, x: Tensor, peaks: int) -> Tensor:
    """The highest of some triangles at every column."""
    line = torch.full_like(x, 1.0)
    for _ in range(peaks):
        centre, steep = float(rng.uniform(0, 1)), float(rng.uniform(0.9, 1.8))
        line = torch.minimum(line, float(rng.uniform(0.12, 0.35)) + steep * (x - centre).abs())
    return line


def _feature(
    kind: str, picture: Tensor, x: Tensor, y: Tensor, edge: Tensor, depth: Tensor, rng: np.random.Generator
) -> Tensor:
    """What makes the place that place."""
    white = torch.ones(3, 1, 1)
    if kind == "peaks":
        line = _ridge(rng, x, 4)
        mountain = torch.where(y < line + 0.14, white, _colour("6f7f93"))
        return torch.where((y > line) & (y < edge), mountain, picture)
    if kind in ("hills", "dunes"):
        shade = 0.85 if kind == "hills" else 0.9
        for k in range(3):
            line = edge - 0.14 + 0.12 * k + _waves(rng, x, 0.04, 2)
            picture = torch.where((y > line) & (y < line + 0.5), picture * 0 + _tone(picture, edge, k, shade), picture)
        return picture
    if kind in ("sea", "lake", "waves"):
        ripple = torch.sin(y * 90 + 3 * torch.sin(x * float(rng.uniform(6, 12)))) > 0.75
        if kind == "sea":
            band = (y > edge - 0.16) & (y < edge)
            water = _colour("1f86c8") + 0.1 * ripple
            return torch.where(band, water, picture)
        shore = _colour("4f9a3e")
        picture = torch.where((y > edge) & ripple, picture + 0.12, picture)
        return torch.where((y > edge - 0.05) & (y < edge), shore, picture) if kind == "lake" else picture
    if kind in ("stars", "craters"):
        points = torch.from_numpy(rng.random((40, 2))).float()
        for px, py in points:
            if kind == "craters" and py > edge.mean():
                hole = ((x - px) / 2) ** 2 + (y - py) ** 2 < float(rng.uniform(0.0002, 0.0012))
                picture = torch.where(hole, picture * 0.75, picture)
            else:
                picture = torch.where((x - px) ** 2 + (y - py) ** 2 < float(rng.uniform(2e-5, 1.2e-4)), white, picture)
        if kind == "stars":
            cx, cy = rng.uniform(0.25, 0.75), rng.uniform(0.2, 0.4)
            picture = torch.where((x - cx) ** 2 + (y - cy) ** 2 < 0.006, _colour("fff3c4"), picture)
        return picture
    if kind == "tiles":
        size = float(rng.uniform(0.07, 0.12))
        lines = ((x % size) < 0.008) | ((y % size) < 0.008)
        picture = torch.where(lines & (y < edge), picture * 0.85, picture)
        counter = (y > edge - 0.12) & (y < edge) & ((x < 0.35) | (x > 0.6))
        return torch.where(counter, _colour("a8703f"), picture)
    if kind == "window":
        left, upper = rng.uniform(0.2, 0.55), rng.uniform(0.17, 0.25)
        inside = (x > left) & (x < left + 0.26) & (y > upper) & (y < upper + 0.26)
        frame = (x > left - 0.02) & (x < left + 0.28) & (y > upper - 0.02) & (y < upper + 0.28)
        cross = ((x - left - 0.13).abs() < 0.01) | ((y - upper - 0.13).abs() < 0.01)
        picture = torch.where(frame, white, picture)
        return torch.where(inside & ~cross, _colour("8fd0ff"), picture)
    return picture


def _tone(picture: Tensor, edge: Tensor, k: int, shade: float) -> Tensor:
    """The ground's colour, darker the nearer the ridge."""
    row = min(NATIVE - 1, int(float(edge.mean()) * NATIVE) + 12 + 6 * k)
    return (picture[:, row, NATIVE // 2] * shade ** (2 - k)).view(3, 1, 1)


def _place_scenery(picture: Tensor, name: str, edge: float, rng: np.random.Generator) -> Tensor:
    """Sprites along the horizon, the lower the larger."""
    pool = _scenery(name)
    if not pool:
        return picture
    style = str(rng.choice(sorted({artist for _, artist in pool})))
    choices = [index for index, artist in pool if artist == style]
    for foot in np.sort(rng.uniform(edge + 0.02, edge + 0.16, size=int(rng.integers(4, 8)))):
        size = int((0.2 + 0.8 * (foot - edge)) * NATIVE * rng.uniform(0.8, 1.2))
        sprite = load_assets().sprites[choices[rng.integers(len(choices))]].float()[None] / 255
        sprite = torch.cat([sprite[:, :3] * sprite[:, 3:], sprite[:, 3:]], dim=1)
        sprite = F.interpolate(sprite, size=(size, size), mode="bilinear", antialias=True)[0]
        left, top = int(rng.uniform(-0.1, 0.95) * NATIVE), int(foot * NATIVE) - size
        x0, x1, y0, y1 = max(left, 0), min(left + size, NATIVE), max(top, 0), min(top + size, NATIVE)
        if x1 <= x0 or y1 <= y0:
            continue
        part = sprite[:, y0 - top : y1 - top, x0 - left : x1 - left]
        picture[:, y0:y1, x0:x1] = part[:3] + (1 - part[3:]) * picture[:, y0:y1, x0:x1]
    return picture


@functools.cache
def _scenery(name: str) -> list[tuple[int, str]]:
    """(sprite, artist) of what may stand in a place."""
    words = SCENERY[name]
    known = load_assets().identities
    return [(i.index, i.artist) for i in known if i.split == "train" and i.concept in words and i.kind == "scenery"]
