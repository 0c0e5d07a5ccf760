"""What one training step eats: clean latents, and the conditions already encoded by the frozen networks.

B batch · C channels · f,h,w latent · T video tokens · S text tokens · N reference images · L tokens of one image
W word_length
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One micro-batch of clips. No references (image_tokens, word_index, image_mask are None) = stage I."""

    z0: Tensor  # (B, C, f, h, w) float, unit variance
    text_tokens: Tensor  # (B, S, D_text) float
    text_mask: Tensor  # (B, S) bool, True = a token
    image_tokens: Tensor | None = None  # (B, N, L, d) float
    word_index: Tensor | None = None  # (B, N, W) long: places of the entity word in S, -1 = padding
    image_mask: Tensor | None = None  # (B, N) bool, True = a picture
    null_text: Tensor | None = None  # (1, S', D_text) float: what dropped text becomes; None = zeros (App. B.2)
    origin: Tensor | None = None  # (B, T, C, N * L) float: see training/localization.py
    weight: Tensor | None = None  # (B, f, h, w) float: what each latent's error counts; None = all alike
    bucket: str = ""
    ids: tuple[str, ...] = ()  # of the clips

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Batch:
        """The batch on a device; `dtype` is for the floating tensors only, masks and indices keep theirs."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype if tensor.is_floating_point() else None, non_blocking=True)

        tensors = {name: move(value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)  # type: ignore[arg-type]  # only names of tensors


class BatchSource(Protocol):
    """Where batches come from: a pure function of (its own seed, step), so resuming a run needs no state."""

    def batch(self, step: int) -> Batch: ...
