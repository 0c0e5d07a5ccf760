"""Random weights that are the same on every machine, for networks whose answers were computed by others' code."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

Shapes = Mapping[str, tuple[int, ...]]
Weights = dict[str, torch.Tensor]


@pytest.fixture
def weights_of() -> Callable[[Shapes], Weights]:
    return random_weights


@pytest.fixture
def without_a_weight(tmp_path: Path) -> Callable[[str], str]:
    """A copy of a network's folder that lacks one of its weights, as where another kind of network was saved."""

    def copied(folder: str) -> str:
        broken = shutil.copytree(folder, tmp_path / "broken")
        weights = load_file(broken / "model.safetensors")
        weights.pop(max(weights))
        save_file(weights, broken / "model.safetensors", {"format": "pt"})
        return str(broken)

    return copied


@pytest.fixture
def digest_of() -> Callable[[Shapes], str]:
    """A sha256 that stands for a list of names and shapes."""

    def digest(shapes: Shapes) -> str:
        lines = sorted(f"{name} {shape}" for name, shape in shapes.items())
        return sha256("\n".join(lines).encode()).hexdigest()

    return digest


def random_weights(shapes: Shapes) -> Weights:
    """Each by its name alone; RandomState's numbers never change."""
    weights = {}
    for name, shape in shapes.items():
        random = np.random.RandomState(zlib.crc32(name.encode()))
        if name.endswith("num_batches_tracked"):
            value = np.zeros(shape, np.int64)
        elif len(shape) > 1:
            value = random.standard_normal(shape) / np.prod(shape[1:]) ** 0.5
        elif name.endswith((".weight", "running_var")):
            value = random.uniform(0.5, 1.5, shape)
        else:
            value = random.uniform(-0.1, 0.1, shape)
        weights[name] = torch.tensor(value, dtype=None if value.dtype == np.int64 else torch.float32)
    return weights
