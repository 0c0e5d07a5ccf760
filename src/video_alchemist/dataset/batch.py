"""What one training step eats: clean latents, and the conditions already encoded by the frozen networks.

B batch · C channels · f,h,w latent · S text tokens · N reference images · L tokens of one image · W word_length.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One step's clips. No references (the last three None) = stage I."""

    z0: Tensor  # (B, C, f, h, w) float, unit variance
    text_tokens: Tensor  # (B, S, D_text) float
    text_mask: Tensor  # (B, S) bool, True = a token
    image_tokens: Tensor | None = None  # (B, N, L, d) float
    word_index: Tensor | None = None  # (B, N, W) long: places of the entity word in S, -1 = padding
    image_mask: Tensor | None = None  # (B, N) bool, True = a picture

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Batch:
        """The batch on a device; `dtype` is for the floating tensors only, masks and indices keep theirs."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype if tensor.is_floating_point() else None, non_blocking=True)

        given = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        return replace(self, **{name: move(tensor) for name, tensor in given.items()})


class BatchSource(Protocol):
    """Where batches come from: a pure function of (its own seed, step), so resuming a run needs no state."""

    def batch(self, step: int) -> Batch: ...
