"""Reference pictures: from what a user gives to what the image encoder sees (§3.2: segments on a plain ground).

RGBA in [0, 1] throughout, alpha = the segment's mask. H,W pixels.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from video_alchemist.records import Reference, resolve_path

WHITE = (1.0, 1.0, 1.0)


def read_picture(reference: Reference) -> Tensor:
    """The picture of a reference with its mask as alpha: (4, H, W) float RGBA in [0, 1]."""
    what = f"reference {reference.word!r}"
    rgba = _read_rgba(reference.image, what)
    if reference.mask is not None:
        mask = _read_mask(reference.mask, what)
        if mask.shape != rgba.shape[:2]:
            raise ValueError(
                f"{what}: its mask is {mask.shape[1]}x{mask.shape[0]}, but its picture is "
                f"{rgba.shape[1]}x{rgba.shape[0]}; expected the same size"
            )
        rgba = np.concatenate([rgba[..., :3], (mask * 255).astype(np.uint8)[..., None]], axis=-1)
    if not rgba[..., 3].any():
        source = "its mask is empty" if reference.mask is not None else "its picture is fully transparent"
        raise ValueError(f"{what}: {source}; expected some pixels of the subject")
    return torch.from_numpy(rgba.copy()).permute(2, 0, 1).float() / 255  # (H, W, 4) uint8 => (4, H, W) float


def compose(rgba: Tensor, size: int, background: tuple[float, float, float] = WHITE) -> Tensor:
    """What the image encoder sees: the segment, alone and centred, on one colour. (4, H, W) => (3, size, size)."""
    return paste_on(fit_square(rgba, size), rgba.new_tensor(background).view(3, 1, 1))


def paste_on(rgba: Tensor, background: Tensor) -> Tensor:
    """The segment over another picture (App. D plans training on such pastes). (..., 4, H, W), (..., 3, H, W) =>
    (..., 3, H, W); the ground may also be one colour, (3, 1, 1)."""
    rgb, alpha = rgba.split([3, 1], dim=-3)
    return alpha * rgb + (1 - alpha) * background


def fit_square(rgba: Tensor, size: int) -> Tensor:
    """The mask's box, padded to a square with transparency and resized. (4, H, W) => (4, size, size)."""
    rows, columns = (rgba[3] > 0).any(dim=1).nonzero(), (rgba[3] > 0).any(dim=0).nonzero()
    if len(rows) == 0:
        raise ValueError("the picture is fully transparent; expected some pixels of the subject")
    box = rgba[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = box.shape[1:]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = F.pad(premultiply(box), (left, side - width - left, top, side - height - top))
    resized = F.interpolate(square[None], size=(size, size), mode="bilinear", antialias=True, align_corners=False)[0]
    return unpremultiply(resized)


def premultiply(rgba: Tensor) -> Tensor:
    """Colours times alpha, (..., 4, H, W): the form to resample in, or colours under the mask bleed into the edge."""
    rgb, alpha = rgba.split([3, 1], dim=-3)
    return torch.cat([rgb * alpha, alpha], dim=-3)


def unpremultiply(rgba: Tensor) -> Tensor:
    """Undoes `premultiply`; fully transparent pixels come out black."""
    rgb, alpha = rgba.split([3, 1], dim=-3)
    return torch.cat([(rgb / alpha.clamp(min=1e-4)).clamp(0, 1), alpha.clamp(0, 1)], dim=-3)


def _read_rgba(image: Any, what: str) -> np.ndarray:
    """A path, a PIL image or an array => (H, W, 4) uint8."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (3, 4):
            raise ValueError(f"{what}: its picture is {_describe(image)}; expected an array (H, W, 3 or 4) of uint8")
        return image if image.shape[2] == 4 else np.concatenate([image, np.full_like(image[..., :1], 255)], axis=-1)
    return np.array(_open(image, what, "picture").convert("RGBA"))


def _read_mask(mask: Any, what: str) -> np.ndarray:
    """A path, a PIL image or an array => (H, W) bool."""
    if isinstance(mask, np.ndarray):
        if mask.ndim != 2:
            raise ValueError(f"{what}: its mask is {_describe(mask)}; expected an array (H, W)")
        return mask != 0
    image = _open(mask, what, "mask")
    # A cut-out saved with transparency is a mask by its alpha; its colours say nothing about where the subject is.
    channel = image.getchannel("A") if "A" in image.getbands() else image.convert("L")
    return np.array(channel) != 0


def _open(image: Any, what: str, part: str) -> Image.Image:
    """Loads a picture upright: a phone's portrait is stored lying, with its rotation in the EXIF data."""
    path = resolve_path(image)
    if path is None:
        if not isinstance(image, Image.Image):
            raise ValueError(f"{what}: its {part} is {_describe(image)}; expected a path, a PIL image or an array")
        return ImageOps.exif_transpose(image)
    try:
        with Image.open(path) as file:
            return ImageOps.exif_transpose(file)
    except FileNotFoundError as error:
        raise ValueError(f"{what}: no such {part}: {str(path)!r}{_near(path)}") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "is not an image that Pillow can read" if path.is_file() else "is not a file"
        raise ValueError(f"{what}: its {part} {str(path)!r} {reason}; expected a PNG, JPEG or WebP file") from error


def _near(path: Path) -> str:
    """What to try instead: a file of the same folder with nearly that name, where there is one."""
    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {str(path.parent / near[0])!r}?" if near else "; expected the path of an image"


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array {value.shape} of {value.dtype}"
    return f"a {type(value).__name__}"
