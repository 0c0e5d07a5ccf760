"""A transformer of 30k parameters and random batches for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from video_alchemist.dataset.batch import Batch
from video_alchemist.model.transformer import AlchemistTransformer


def make_transformer(personalization: bool = False, **changes: Any) -> AlchemistTransformer:
    torch.manual_seed(0)
    sizes: dict[str, Any] = dict(
        in_channels=4, hidden_size=32, depth=2, num_heads=2, mlp_ratio=2.0, text_dim=8, image_dim=16, word_length=2
    )
    return AlchemistTransformer(**{**sizes, "personalization": personalization, **changes})


def make_batch(size: int, generator: torch.Generator, with_images: bool = True) -> Batch:
    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    batch = Batch(normal(size, 4, 1, 4, 4), normal(size, 5, 8), torch.ones(size, 5, dtype=torch.bool))
    if not with_images:
        return batch
    words = torch.tensor([[0, 1], [3, -1]]).expand(size, -1, -1)
    image_mask = torch.ones(size, 2, dtype=torch.bool)
    return Batch(batch.z0, batch.text_tokens, batch.text_mask, normal(size, 2, 3, 16), words, image_mask)


@dataclass(frozen=True)
class RandomSource:
    size: int = 2
    with_images: bool = True
    nan_at: int = -1

    def batch(self, step: int) -> Batch:
        batch = make_batch(self.size, torch.Generator().manual_seed(step), self.with_images)
        if step == self.nan_at:
            batch.z0[0, 0, 0, 0, 0] = float("nan")
        return batch


@pytest.fixture
def transformer() -> Callable[..., AlchemistTransformer]:
    return make_transformer


@pytest.fixture
def batch() -> Callable[..., Batch]:
    return make_batch


@pytest.fixture
def source() -> type[RandomSource]:
    return RandomSource
