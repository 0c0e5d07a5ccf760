"""Files that others published or that a download left: whether they are whole, and fit the module they are for."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

Weights = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]
# What torch.load says of files of another kind, by what their first bytes happen to mean.
UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError)
POINTER = b"version https://git-lfs"  # how the file begins that git leaves where git-lfs is not installed


def is_weights_file(name: str | PathLike[str]) -> bool:
    """A file of torch.save, there or not; else a folder or a hub id."""
    return Path(name).suffix in (".pth", ".pt", ".bin")


def read_weights(path: str | PathLike[str]) -> Weights:
    """Names and tensors; nothing in the file is run. "module.", which DataParallel puts before each name, is cut."""
    if not Path(path).is_file():
        raise ValueError(f"no such file of weights: {str(path)!r}")
    check_pointer(path)
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise ValueError(f"{str(path)!r} cannot be read; expected names and tensors, written by torch.save") from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"{str(path)!r} holds {type(weights).__name__}; expected names and tensors, a state_dict")
    return {name.removeprefix("module."): value for name, value in weights.items()}


def fill(module: nn.Module, weights: Weights, path: str | PathLike[str]) -> None:
    """Gives a module the weights that were read from a file, all of them and no others."""
    check_shapes(shapes(weights), shapes(module.state_dict()), path, type(module).__name__)
    module.load_state_dict(weights, strict=False)


def load_whole(kind: Any, name: str, **options: Any) -> Any:
    """A network of transformers. Where a folder is another kind's, their `from_pretrained` fills in random numbers."""
    model, found = kind.from_pretrained(name, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    if lacking := [*found["missing_keys"], *found["mismatched_keys"]]:
        raise ValueError(f"{name!r} holds no {kind.__name__}: it lacks {len(lacking)} of its weights, or has them in "
                         "other shapes")  # fmt: skip
    return model


def shapes(weights: Mapping[str, Tensor]) -> Shapes:
    """Without the counters of batch norm, which old files lack and nothing needs."""
    return {name: tuple(value.shape) for name, value in weights.items() if not name.endswith("num_batches_tracked")}


def check_shapes(found: Shapes, expected: Shapes, path: str | PathLike[str], target: str) -> None:
    """Raises ValueError for the first name or shape in a file or folder that is not the target's."""
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        raise ValueError(
            f"{str(path)!r} does not fit {target}: {len(wrong)} names or shapes differ; first "
            f"{name!r}: {found.get(name, 'missing')}, expected {expected.get(name, 'no such name')}"
        )


# ------------------------------------------------------------------------------------------------------------------
# Files as they are on disk


def check_files(folder: Path) -> None:
    """Raises ValueError where a file of a network, or of a pipeline's networks, is not whole. Reads their heads only,
    for which the libraries that load them have no words, or many."""
    for path in sorted([*folder.glob("*"), *folder.glob("*/*")]):
        if path.name.endswith(".safetensors.index.json"):
            shards(path)
        elif path.suffix == ".json":
            read_json(path)
        elif path.suffix == ".safetensors":
            read_shapes(path)
        elif path.is_file():
            check_pointer(path)


def shards(index: Path) -> list[Path]:
    """The safetensors files that an index names."""
    names = set(read_json(index).get("weight_map", {}).values())
    missing = sorted(name for name in names if not (index.parent / name).is_file())
    if missing or not names:
        lost = f"{len(missing)} of {len(names)} shards, e.g. {missing[0]!r}" if missing else f"names in {index.name!r}"
        raise ValueError(f"{str(index.parent)!r} lacks {lost}; download it again")
    return sorted(index.parent / name for name in names)


def read_shapes(path: Path) -> Shapes:
    """Of a safetensors file, from its head; its length is checked against it."""
    check_pointer(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        size = f"{path.stat().st_size:,} bytes" if path.is_file() else "no file"
        message = f"{str(path)!r} ({size}) is cut off or no safetensors file: {error}; download it again"
        raise ValueError(message) from error


def read_json(path: Path) -> dict[str, Any]:
    check_pointer(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of text and of JSON
        raise ValueError(f"{str(path)!r} is cut off or no JSON: {error}; download it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{str(path)!r} holds {type(content).__name__}; expected a JSON object")
    return content


def check_pointer(path: str | PathLike[str]) -> None:
    with open(path, "rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise ValueError(f"{str(path)!r} is a pointer of git-lfs, not the file itself; fetch it by `git lfs pull`")
