"""Role: a frame without its subjects (§3.1, Preparing Background Image: "an inpainting algorithm").

H,W pixels
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np

NEGATIVE_PROMPT = "Any human or any object, complex pattern, and texture"  # §3.1


class Inpainter(Protocol):
    def __call__(self, frame: np.ndarray, mask: np.ndarray, prompt: str, seed: int) -> np.ndarray:
        """(H, W, 3) uint8, (H, W) bool, True = paint over => (H, W, 3) uint8, outside the mask untouched.

        prompt: "the background entity word". The same seed gives the same picture."""
        ...


class TeleaInpainter:
    """OpenCV's: surroundings grown into the hole (Telea 2004). Needs no weights; large holes become blurs."""

    def __init__(self, radius: float = 5.0) -> None:
        """radius: pixels of surroundings that one pixel is mixed from."""
        self.radius = radius

    def __call__(self, frame: np.ndarray, mask: np.ndarray, prompt: str = "", seed: int = 0) -> np.ndarray:
        import cv2

        check(frame, mask)
        if mask.all():
            raise ValueError("the mask covers the whole frame; expected surroundings to paint from")
        painted = cv2.inpaint(np.ascontiguousarray(frame), mask.astype(np.uint8), self.radius, cv2.INPAINT_TELEA)
        return composite(frame, painted, mask)


class DiffusionInpainter:
    """A diffusers inpainting pipeline (the paper cites latent diffusion), which paints the entity word's scene anew.

    The frame keeps its aspect ratio. The authors' benchmark code paints 512 x 512 pixels with a guidance of 12 in 50
    steps; here, too, a frame has about `size` x `size` pixels while it is painted.
    """

    def __init__(
        self,
        pipeline: Any,
        negative_prompt: str = NEGATIVE_PROMPT,
        guidance_scale: float = 12.0,
        num_steps: int = 50,
        size: int = 512,
        max_side: int = 1024,
        device: str = "cpu",
    ) -> None:
        """max_side: pixels of the longer side of a frame while it is painted."""
        if size < 8 or max_side < size:
            raise ValueError(f"size {size} and max_side {max_side}; expected 8 <= size <= max_side")
        self.pipeline = pipeline.to(device)
        self.pipeline.set_progress_bar_config(disable=True)
        self.negative_prompt = negative_prompt
        self.guidance_scale = guidance_scale
        self.num_steps = num_steps
        self.size = size
        self.max_side = max_side

    @classmethod
    def from_pretrained(
        cls, name: str, device: str = "cpu", dtype: Any = None, variant: str | None = None, **settings: Any
    ) -> DiffusionInpainter:
        """name: a folder or a hub id ("sd2-community/stable-diffusion-2-inpainting"). dtype: None = float32.

        settings: of __init__."""
        import torch
        from diffusers import AutoPipelineForInpainting

        pipeline = AutoPipelineForInpainting.from_pretrained(name, dtype=dtype or torch.float32, variant=variant)
        return cls(pipeline, device=device, **settings)

    def __call__(self, frame: np.ndarray, mask: np.ndarray, prompt: str, seed: int) -> np.ndarray:
        import torch
        from PIL import Image

        check(frame, mask)
        if not mask.any():
            return frame.copy()
        size = painting_size(frame.shape[1], frame.shape[0], self.size, self.max_side)
        # A pixel of the small mask is set where any of those it stands for is: nothing of a subject shines through.
        covered = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)
        output = self.pipeline(
            prompt=prompt,
            negative_prompt=self.negative_prompt,
            image=Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS),
            mask_image=covered.point(lambda value: 255 if value else 0),
            width=size[0],
            height=size[1],
            num_inference_steps=self.num_steps,
            guidance_scale=self.guidance_scale,
            generator=torch.Generator().manual_seed(seed),
        )
        if any(getattr(output, "nsfw_content_detected", None) or []):
            raise ValueError(f"the inpainting pipeline's safety checker blackened the picture of {prompt!r}")
        painted = output.images[0].convert("RGB").resize(frame.shape[1::-1], Image.Resampling.LANCZOS)
        return composite(frame, np.asarray(painted), mask)


def painting_size(width: int, height: int, size: int, max_side: int) -> tuple[int, int]:
    """About size x size pixels in the frame's aspect ratio, no side above max_side, both multiples of 8."""
    scale = min(size / math.sqrt(width * height), max_side / max(width, height))
    return tuple(max(8, round(side * scale / 8) * 8) for side in (width, height))  # type: ignore[return-value]


def composite(frame: np.ndarray, painted: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The painting where the mask is, the frame elsewhere."""
    return np.where(mask[..., None], painted, frame)


def check(frame: np.ndarray, mask: np.ndarray) -> None:
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise ValueError(f"the frame is {frame.shape} of {frame.dtype}; expected (H, W, 3) of uint8")
    if mask.shape != frame.shape[:2] or mask.dtype != bool:
        raise ValueError(f"the mask is {mask.shape} of {mask.dtype}; expected {frame.shape[:2]} of bool")

