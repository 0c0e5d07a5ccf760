"""Augmentation of reference pictures against copy-and-paste (§3.3, Table 4): one function a row, on batches.

Pictures are (B, 4, H, W) float RGBA in [0, 1]; parameters are (B,), one per picture. The published table has a header
"Apply Probability" but lost that column, so the probabilities are ours. The ranges are the table's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from video_alchemist.dataset.picture import premultiply, unpremultiply


@dataclass(frozen=True)
class Augmentation:
    """Table 4. Probabilities are chosen by us; h, w are the size of the reference picture."""

    downscale_probability: float = 0.5
    min_side: float = 112  # scale in [112 / max(h, w), 1.0]; smaller pictures are left alone
    blur_probability: float = 0.3
    max_kernel: float = 1 / 50  # kernel size in [1, max(h, w) / 50] px
    color_probability: float = 0.5
    color_range: tuple[float, float] = (-0.05, 0.05)
    brightness_probability: float = 0.5
    brightness_range: tuple[float, float] = (0.9, 1.1)
    flip_probability: float = 0.5
    shear_x_probability: float = 0.3
    shear_x_range: tuple[float, float] = (-0.05, 0.05)  # times w px
    shear_y_probability: float = 0.3
    shear_y_range: tuple[float, float] = (-0.05, 0.05)  # times h px
    rotation_probability: float = 0.5
    rotation_range: tuple[float, float] = (-20.0, 20.0)  # degrees
    crop_probability: float = 0.3
    crop_range: tuple[float, float] = (0.67, 1.0)

    @classmethod
    def none(cls) -> Augmentation:
        """No row is ever applied: the ablation "no augmentation" of Table 3."""
        off: dict[str, Any] = dict.fromkeys(cls().probabilities(), 0.0)
        return replace(cls(), **off)

    def __post_init__(self) -> None:
        for name, probability in self.probabilities().items():
            if not 0 <= probability <= 1:
                raise ValueError(f"{name} is {probability}; expected a probability from 0 to 1")

    def probabilities(self) -> dict[str, float]:
        """The apply probability of each row, by field name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name.endswith("_probability")}


TABLE_4 = Augmentation()


def augment(images: Tensor, generator: torch.Generator, config: Augmentation = TABLE_4) -> Tensor:
    """Table 4, row by row, each picture with its own draws; the five geometric rows share one resampling."""
    if images.ndim != 4 or images.shape[1] != 4:
        raise ValueError(f"images have shape {tuple(images.shape)}; expected RGBA pictures (B, 4, H, W)")
    if not any(config.probabilities().values()):
        return images
    height, width = images.shape[2:]
    drawn = sample_parameters(config, len(images), height, width, generator)
    p = {name: value.to(images.device, images.dtype) for name, value in drawn.items()}

    images = downscale(images, p["downscale"])
    images = gaussian_blur(images, p["blur"])
    images = color_jitter(images, p["hue"], p["saturation"])
    images = brightness(images, p["brightness"])
    matrix = horizontal_flip(p["flip"])
    matrix = shear_y(p["shear_y"], width) @ shear_x(p["shear_x"], height) @ matrix
    matrix = crop(p["crop"], p["crop_x"], p["crop_y"], height, width) @ rotation(p["rotation"]) @ matrix
    return warp(images, matrix)


def sample_parameters(
    config: Augmentation, num_images: int, height: int, width: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Every row's parameter, (num_images,) each, on the generator's device; neutral where the row is not applied."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(num_images, generator=generator, device=generator.device)

    def maybe(probability: float, low: float, high: float, neutral: float) -> Tensor:
        return torch.where(uniform(0, 1) < probability, uniform(low, high), neutral)

    longer = max(height, width)
    low_x, high_x = config.shear_x_range
    low_y, high_y = config.shear_y_range
    hue = maybe(config.color_probability, *config.color_range, 0.0)
    return {
        "downscale": maybe(config.downscale_probability, min(1.0, config.min_side / longer), 1.0, 1.0),
        "blur": maybe(config.blur_probability, 1.0, max(1.0, longer * config.max_kernel), 1.0),
        "hue": hue,
        "saturation": torch.where(hue == 0, 0.0, uniform(*config.color_range)),  # one row: both or neither
        "brightness": maybe(config.brightness_probability, *config.brightness_range, 1.0),
        "flip": maybe(config.flip_probability, 1.0, 1.0, 0.0),
        "shear_x": maybe(config.shear_x_probability, low_x * width, high_x * width, 0.0),
        "shear_y": maybe(config.shear_y_probability, low_y * height, high_y * height, 0.0),
        "rotation": maybe(config.rotation_probability, *config.rotation_range, 0.0),
        "crop": maybe(config.crop_probability, *config.crop_range, 1.0),
        "crop_x": uniform(0, 1),
        "crop_y": uniform(0, 1),
    }


# Rows that filter. Both are separable and linear, so each is one matrix per side: rows @ picture @ columns.


def downscale(images: Tensor, scale: Tensor) -> Tensor:
    """Table 4 "Downscale": each picture shrunk to `scale` of its side and brought back, losing the detail between."""
    return _filter(images, _downscale_matrix(images.shape[2], scale), _downscale_matrix(images.shape[3], scale))


def gaussian_blur(images: Tensor, kernel_size: Tensor) -> Tensor:
    """Table 4 "Gaussian blur": kernel size in px, rounded to odd; sigma from the kernel size as OpenCV does."""
    return _filter(images, _blur_matrix(images.shape[2], kernel_size), _blur_matrix(images.shape[3], kernel_size))


def _filter(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return unpremultiply(rows[:, None] @ premultiply(images) @ columns[:, None].transpose(-1, -2))


def _downscale_matrix(side: int, scale: Tensor) -> Tensor:
    """(B, side, side): antialiased triangle filter down to round(side * scale) pixels, then linear interpolation up."""
    pixel = torch.arange(side, device=scale.device, dtype=scale.dtype)
    small = (side * scale).round().clamp(min=1)[:, None, None]  # (B, 1, 1) pixels when small
    ratio = small / side
    centre = (pixel[:, None] + 0.5) / ratio  # (B, side, 1) of small pixels, in large ones
    down = (1 - ((pixel + 0.5 - centre) * ratio).abs()).clamp(min=0)  # (B, small, large)
    down = down / down.sum(dim=-1, keepdim=True).clamp(min=1e-6)
    source = ((pixel[:, None] + 0.5) * ratio - 0.5).clamp(min=0).minimum(small - 1)  # (B, side, 1)
    up = (1 - (pixel - source).abs()).clamp(min=0)  # (B, large, small)
    return up @ down


def _blur_matrix(side: int, kernel_size: Tensor) -> Tensor:
    """(B, side, side) banded; rows sum to 1, so that a plain picture stays plain up to its edge."""
    pixel = torch.arange(side, device=kernel_size.device, dtype=kernel_size.dtype)
    radius = ((kernel_size - 1) / 2).round()[:, None, None]
    sigma = 0.3 * (radius - 1) + 0.8  # OpenCV's getGaussianKernel, with (kernel size - 1) / 2 = radius
    distance = (pixel[:, None] - pixel).abs()
    weights = torch.exp(-0.5 * (distance / sigma) ** 2) * (distance <= radius)
    return weights / weights.sum(dim=-1, keepdim=True)


# Rows that change colours; alpha stays.


def color_jitter(images: Tensor, hue: Tensor, saturation: Tensor) -> Tensor:
    """Table 4 "Color jitter": colours turned about the grey axis by `hue` of a full turn, and moved away from it by
    1 + `saturation`. That the table's one scale means these two is our reading."""
    grey = images.new_full((3, 3), 1 / 3)  # projects a colour on the grey axis
    cross = images.new_tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    angle = (2 * math.pi * hue)[:, None, None]
    turn = angle.cos() * (torch.eye(3, device=images.device, dtype=images.dtype) - grey) + angle.sin() * cross
    matrix = grey + (1 + saturation)[:, None, None] * turn  # (B, 3, 3)
    rgb, alpha = images.split([3, 1], dim=1)
    return torch.cat([torch.einsum("bij,bjhw->bihw", matrix, rgb).clamp(0, 1), alpha], dim=1)


def brightness(images: Tensor, scale: Tensor) -> Tensor:
    """Table 4 "Brightness": colours times `scale`."""
    rgb, alpha = images.split([3, 1], dim=1)
    return torch.cat([(rgb * scale[:, None, None, None]).clamp(0, 1), alpha], dim=1)


# Rows that move pixels: (B, 3, 3) matrices on (x, y, 1) in pixels, origin at the picture's centre, y downwards.


def horizontal_flip(flip: Tensor) -> Tensor:
    """Table 4 "Horizontal flip", where `flip` is 1."""
    matrix = _identity(flip)
    matrix[:, 0, 0] = 1 - 2 * flip
    return matrix


def shear_x(pixels: Tensor, height: int) -> Tensor:
    """Table 4 "Shearing (x-axis)": the bottom edge moves right by `pixels`, the top edge left by as many."""
    matrix = _identity(pixels)
    matrix[:, 0, 1] = pixels / (height / 2)
    return matrix


def shear_y(pixels: Tensor, width: int) -> Tensor:
    """Table 4 "Shearing (y-axis)": the right edge moves down by `pixels`, the left edge up by as many."""
    matrix = _identity(pixels)
    matrix[:, 1, 0] = pixels / (width / 2)
    return matrix


def rotation(degrees: Tensor) -> Tensor:
    """Table 4 "Rotation": about the centre, clockwise as seen."""
    matrix = _identity(degrees)
    cos, sin = torch.deg2rad(degrees).cos(), torch.deg2rad(degrees).sin()
    matrix[:, 0, 0], matrix[:, 0, 1], matrix[:, 1, 0], matrix[:, 1, 1] = cos, -sin, sin, cos
    return matrix


def crop(scale: Tensor, x: Tensor, y: Tensor, height: int, width: int) -> Tensor:
    """Table 4 "Random crop": a window of `scale` times both sides, enlarged to the whole picture. `x`, `y` in [0, 1]
    say where it lies: 0 = at the left (top) edge, 1 = at the right (bottom) edge."""
    matrix = _identity(scale)
    matrix[:, 0, 0] = matrix[:, 1, 1] = 1 / scale
    matrix[:, 0, 2] = -(x - 0.5) * (1 - scale) * width / scale
    matrix[:, 1, 2] = -(y - 0.5) * (1 - scale) * height / scale
    return matrix


def warp(images: Tensor, matrix: Tensor) -> Tensor:
    """Moves every pixel to matrix @ (x, y, 1); what comes from outside the picture is transparent."""
    height, width = images.shape[2:]
    # affine_grid wants the way back, from output to input, in half sides instead of pixels.
    half = images.new_tensor([width / 2, height / 2, 1.0])
    back = torch.linalg.inv(matrix) * half / half[:, None]
    grid = F.affine_grid(back[:, :2], list(images.shape), align_corners=False)
    moved = F.grid_sample(premultiply(images), grid, mode="bilinear", padding_mode="border", align_corners=False)
    # Zero padding would fade the outermost pixels of every enlarged picture; this cuts exactly at its edge.
    inside = (grid.abs() <= 1).all(dim=-1)  # (B, H, W)
    return unpremultiply(moved * inside[:, None])


def _identity(like: Tensor) -> Tensor:
    return torch.eye(3, device=like.device, dtype=like.dtype).repeat(len(like), 1, 1)
