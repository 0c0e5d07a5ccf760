"""What a user asks for: one video with its settings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from video_alchemist.records import MAX_IMAGES, Condition, Reference


@dataclass(frozen=True)
class Request:
    """One video. None = what the model's own configuration says. size is (width, height) in pixels.

    text_interval, image_interval: from which to which share of the steps this guidance acts.
    """

    prompt: str
    references: tuple[Reference, ...] = ()
    seed: int = 0
    num_frames: int | None = None
    size: tuple[int, int] | None = None
    num_steps: int | None = None
    text_scale: float | None = None
    image_scale: float | None = None
    equation: int = 2
    output: str | Path | None = None
    negative_prompt: str | None = None
    text_interval: tuple[float, float] | None = None
    image_interval: tuple[float, float] | None = None

    @property
    def condition(self) -> Condition:
        return Condition(self.prompt, tuple(self.references))

    def check(self) -> None:
        """What can be said without the model: raises ValueError, naming the value and what was expected."""
        if not self.prompt.strip():
            raise ValueError(f"the prompt is {self.prompt!r}; expected some words, like 'A dog jumps on the beach'")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed {self.seed}; expected 0 to 2**63 - 1")
        if len(self.references) > MAX_IMAGES:
            raise ValueError(f"{len(self.references)} reference images; expected at most {MAX_IMAGES}")
        for name, scale in (("text_scale", self.text_scale), ("image_scale", self.image_scale)):
            if scale is not None and not (math.isfinite(scale) and scale >= 0):
                raise ValueError(f"{name} is {scale}; expected a number from 0 (the paper: text 8, image 3)")
        for name, interval in (("text_interval", self.text_interval), ("image_interval", self.image_interval)):
            if interval is not None and not _is_interval(interval):
                raise ValueError(f"{name} is {interval}; expected two shares of the steps, like (0.0, 0.8)")
        if self.num_steps is not None and self.num_steps < 1:
            raise ValueError(f"num_steps is {self.num_steps}; expected at least 1")
        if self.equation not in (1, 2):
            raise ValueError(f"equation is {self.equation}; expected 1 (Brooks et al.) or 2 (the paper's)")
        if self.output is not None and Path(self.output).suffix.lower() != ".mp4":
            raise ValueError(f"output {str(self.output)!r}; expected a name that ends in .mp4")
        if self.output is not None and Path(self.output).is_dir():
            raise ValueError(f"output {str(self.output)!r} is a folder; expected the name of a file")


def _is_interval(value: Any) -> bool:
    numbers = isinstance(value, list | tuple) and all(isinstance(share, int | float) for share in value)
    return numbers and len(value) == 2 and 0 <= value[0] <= value[1] <= 1


def parse_size(text: str) -> tuple[int, int]:
    """'256x144' -> (256, 144): width, height."""
    width, cross, height = text.lower().partition("x")
    if not (cross and width.strip().isdecimal() and height.strip().isdecimal()):
        raise ValueError(f"size {text!r}; expected WIDTHxHEIGHT in pixels, like 256x144")
    return int(width), int(height)
