"""Role: reference picture -> image tokens x_n (§3.2, Table 5: DINOv2 or CLIP, patch tokens only).

N pictures · L tokens of one picture · d channels
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from diffusers.utils.torch_utils import get_module_execution_device
from torch import Tensor


class ImageEncoder(Protocol):
    @property
    def size(self) -> int:
        """Pictures are size x size pixels."""
        ...

    def __call__(self, images: Tensor) -> Tensor:
        """(N, 3, size, size) float in [0, 1] => (N, L, d) float."""
        ...


class ViTImageEncoder:
    """transformers' Dinov2Model or CLIPVisionModel, read after `block` ("Selective block": DINOv2 24, CLIP 23)."""

    def __init__(
        self, model: Any, size: int, mean: Sequence[float], std: Sequence[float], block: int | None = None
    ) -> None:
        """mean, std: of the three colours in [0, 1]. block: None = the last."""
        last = model.config.num_hidden_layers
        if block is not None and not 1 <= block <= last:
            raise ValueError(f"image encoder block {block}; expected 1 to {last}, nearest: {min(max(block, 1), last)}")
        if size % model.config.patch_size:
            patch = model.config.patch_size
            nearest = max(1, round(size / patch)) * patch
            raise ValueError(f"reference size {size} is not a multiple of the patch's {patch}; nearest: {nearest}")
        self.model = model
        self.size = size
        self.mean, self.std = tuple(mean), tuple(std)
        self.block = None if block == last else block

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        # Where its hooks bring it, when it is offloaded.
        images = images.to(get_module_execution_device(self.model), self.model.dtype)
        mean, std = (images.new_tensor(values).view(1, 3, 1, 1) for values in (self.mean, self.std))
        output = self.model(pixel_values=(images - mean) / std, output_hidden_states=self.block is not None)
        tokens = output.last_hidden_state if self.block is None else output.hidden_states[self.block]
        # "using the patch tokens as the image embeddings can retain more localized properties" (App. B.1)
        return tokens[:, -((self.size // self.model.config.patch_size) ** 2) :]
