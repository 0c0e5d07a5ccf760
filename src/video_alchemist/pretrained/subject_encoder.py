"""Role: which subject a cut-out shows (§4.2: "subject similarity", by DINO).

n pictures · h,w pixels · d channels
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from video_alchemist.pretrained.image_text import normalised, on_square
from video_alchemist.pretrained.weights import load_whole

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
WHITE = 255


class SubjectEncoder(Protocol):
    def __call__(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Cut-outs on white, (h, w, 3) uint8 of any sizes => (n, d) float32, not normalised."""
        ...


class ViTSubjectEncoder:
    """transformers' ViTModel, read at its class token. A cut-out is seen whole, in a white square."""

    def __init__(
        self,
        model: Any,
        device: str = "cpu",
        batch: int = 32,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        """batch: pictures a forward. mean, std: of the three colours in [0, 1]."""
        self.model = model.to(device).eval()
        self.device = device
        self.batch = batch
        self.mean, self.std = mean, std

    @classmethod
    def from_pretrained(
        cls, name: str, device: str = "cpu", dtype: torch.dtype = torch.float32, **options: Any
    ) -> ViTSubjectEncoder:
        """name: a folder or a hub id ("facebook/dino-vitb16"). options: `revision` and the like."""
        from transformers import ViTModel

        return cls(load_whole(ViTModel, name, dtype=dtype, add_pooling_layer=False, **options), device)

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        found = [np.zeros((0, self.model.config.hidden_size), np.float32)]
        for first in range(0, len(pictures), self.batch):
            squares = [on_square(picture, WHITE) for picture in pictures[first : first + self.batch]]
            pixels = normalised(squares, self.model.config.image_size, self.mean, self.std)
            tokens = self.model(pixels.to(self.device, self.model.dtype)).last_hidden_state
            found.append(tokens[:, 0].float().cpu().numpy())
        return np.concatenate(found)
