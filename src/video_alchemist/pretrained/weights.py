"""Files of weights that others published, for modules of ours."""

from __future__ import annotations

import pickle
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

Weights = dict[str, Tensor]
# What torch.load says of files of another kind, by what their first bytes happen to mean.
UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError)


def is_weights_file(name: str | PathLike[str]) -> bool:
    """A file of torch.save, there or not; else a folder or a hub id."""
    return Path(name).suffix in (".pth", ".pt", ".bin")


def read_weights(path: str | PathLike[str]) -> Weights:
    """Names and tensors; nothing in the file is run. "module.", which DataParallel puts before each name, is cut."""
    if not Path(path).is_file():
        raise ValueError(f"no such file of weights: {str(path)!r}")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise ValueError(f"{str(path)!r} cannot be read; expected names and tensors, written by torch.save") from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"{str(path)!r} holds {type(weights).__name__}; expected names and tensors, a state_dict")
    return {name.removeprefix("module."): value for name, value in weights.items()}


def fill(module: nn.Module, weights: Weights, path: str | PathLike[str]) -> None:
    """Gives a module the weights that were read from a file, all of them and no others."""
    expected, found = _shapes(module.state_dict()), _shapes(weights)
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        raise ValueError(
            f"{str(path)!r} does not fit {type(module).__name__}: {len(wrong)} names or shapes differ; first "
            f"{name!r}: {found.get(name, 'missing')}, expected {expected.get(name, 'no such name')}"
        )
    module.load_state_dict(weights, strict=False)


def _shapes(weights: Weights) -> dict[str, tuple[int, ...]]:
    """Without the counters of batch norm, which old files lack and nothing needs."""
    return {name: tuple(value.shape) for name, value in weights.items() if not name.endswith("num_batches_tracked")}
