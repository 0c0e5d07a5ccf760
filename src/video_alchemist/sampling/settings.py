"""A request's settings with the model's own filled in (App. B.3), checked against what its networks can do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from video_alchemist.flow import resolution_shift
from video_alchemist.pretrained.autoencoder import Autoencoder
from video_alchemist.sampling.request import Request, parse_size


@dataclass(frozen=True)
class Settings:
    """Samples of one batch share them."""

    size: tuple[int, int]  # width, height
    num_frames: int
    num_steps: int
    text_scale: float
    image_scale: float
    equation: int
    time_shift: float
    text_interval: tuple[float, float]  # see Request
    image_interval: tuple[float, float]
    negative_prompt: str | None = None  # what dropped text becomes; None = zeros


def resolve(
    request: Request, config: Mapping[str, Any], autoencoder: Autoencoder, patch_size: Sequence[int]
) -> Settings:
    """config: the pipeline's, which answers where the request says nothing."""
    given = {name: getattr(request, name) or config[name] for name in ("text_interval", "image_interval")}
    replace(request, **given).check()  # the configuration's, too
    size = tuple(request.size or config["size"])
    num_frames = config["num_frames"] if request.num_frames is None else request.num_frames
    cells = (autoencoder.spatial_ratio * patch_size[2], autoencoder.spatial_ratio * patch_size[1])
    if len(size) != 2 or any(side <= 0 or side % cell for side, cell in zip(size, cells, strict=True)):
        nearest = "x".join(str(max(1, round(side / cell)) * cell) for side, cell in zip(size, cells, strict=False))
        wanted = "x".join(map(str, size))
        raise ValueError(f"size {wanted}; expected multiples of {cells[0]}x{cells[1]}, nearest: {nearest}")
    ratio = autoencoder.temporal_ratio
    if num_frames < 1 or (num_frames - 1) % ratio:
        nearest_frames = max(0, round((num_frames - 1) / ratio)) * ratio + 1
        raise ValueError(f"num_frames is {num_frames}; expected {ratio} * k + 1, nearest: {nearest_frames}")
    if config["time_shift"] is None:
        shift = resolution_shift(*size, tuple(config["base_size"]), config["base_shift"])
    else:
        shift = float(at_size(config["time_shift"], size))
    negative = config["negative_prompt"] if request.negative_prompt is None else request.negative_prompt
    return Settings(
        size=(size[0], size[1]),
        num_frames=num_frames,
        num_steps=request.num_steps or int(at_size(config["num_steps"], size)),
        text_scale=float(config["text_scale"] if request.text_scale is None else request.text_scale),
        image_scale=float(config["image_scale"] if request.image_scale is None else request.image_scale),
        equation=request.equation,
        time_shift=shift,
        **{name: tuple(interval) for name, interval in given.items()},
        negative_prompt=negative,
    )


def at_size(value: float | Mapping[str, float], size: Sequence[int]) -> float:
    """A number, or that of a table's entry ("256x144") with the nearest number of pixels."""
    if not isinstance(value, Mapping):
        return value

    def distance(entry: str) -> float:
        width, height = parse_size(entry)
        return abs(math.log(width * height / (size[0] * size[1])))

    return value[min(value, key=distance)]
