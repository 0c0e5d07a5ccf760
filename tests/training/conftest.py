"""Tiny transformers, batches and sources."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `tiny_training`, which worker processes import, too

from tiny_training import RandomSource, make_batch, make_transformer  # noqa: E402

from video_alchemist.dataset.batch import Batch  # noqa: E402
from video_alchemist.model.transformer import AlchemistTransformer  # noqa: E402


@pytest.fixture
def transformer() -> Callable[..., AlchemistTransformer]:
    return make_transformer


@pytest.fixture
def batch() -> Callable[..., Batch]:
    return make_batch


@pytest.fixture
def source() -> type[RandomSource]:
    return RandomSource
