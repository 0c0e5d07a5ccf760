"""Checkpoints of a run: safetensors and JSON, never pickle; written whole or not at all.

RUN/checkpoints/00001000/
  transformer/            diffusers folder: the weights being trained
  ema/                    diffusers folder: their moving average, what one samples with
  optimizer.safetensors   AdamW: step.<parameter>, exp_avg.<parameter>, exp_avg_sq.<parameter>
  state.json              step, samples seen, stage, configuration, size of every file; written last
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from video_alchemist.model.transformer import AlchemistTransformer

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass
class Progress:
    """How far a run is."""

    step: int = 0  # optimiser steps done
    seen: int = 0  # samples


@dataclass(frozen=True)
class Checkpoint:
    transformer: AlchemistTransformer
    ema: AlchemistTransformer
    moments: dict[str, Tensor]
    progress: Progress


def save(
    folder: Path,
    transformer: AlchemistTransformer,
    ema: AlchemistTransformer,
    moments: dict[str, Tensor],
    progress: Progress,
    description: dict[str, Any],
    keep: int,
) -> Path:
    """Writes `folder/<step>`, then deletes all but the newest `keep`: temporary folder -> fsync -> rename."""
    path = folder / f"{progress.step:08d}"
    temporary = folder / f"{path.name}.tmp"
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in [path, *folder.glob("*.tmp")]:
        shutil.rmtree(leftover, ignore_errors=True)
    transformer.save_pretrained(temporary / "transformer")
    ema.save_pretrained(temporary / "ema")
    save_file(moments, temporary / "optimizer.safetensors")
    state = {"step": progress.step, "seen": progress.seen, "files": _sizes(temporary), **description}
    (temporary / "state.json").write_text(json.dumps(state, indent=2) + "\n")
    for written in [*temporary.rglob("*"), temporary]:
        _fsync(written)
    os.rename(temporary, path)
    _fsync(folder)
    for old in list(_newest_first(folder))[keep:]:
        doomed = old.with_suffix(".tmp")  # so that one half-deleted is never taken for a checkpoint
        os.rename(old, doomed)
        shutil.rmtree(doomed)
    return path


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint; broken ones are passed over with a warning."""
    for path in _newest_first(folder):
        problem = _problem(path)
        if problem is None:
            return path
        warnings.warn(f"checkpoint {path} is broken and passed over: {problem}", stacklevel=2)
    return None


def load(path: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Everything that `save` wrote, bit for bit."""
    state = json.loads((path / "state.json").read_text())
    return Checkpoint(
        load_transformer(path / "transformer", device),
        load_transformer(path / "ema", device),
        load_file(path / "optimizer.safetensors"),
        Progress(state["step"], state["seen"]),
    )


def load_transformer(folder: Path, device: torch.device | str = "cpu") -> AlchemistTransformer:
    """A transformer from a diffusers folder; its configuration does not remember where that lay."""
    transformer = AlchemistTransformer.from_pretrained(folder)
    transformer.register_to_config(_name_or_path="")
    return transformer.to(device)  # type: ignore[arg-type]  # diffusers' decorator hides the types


def trained_transformer(run_dir: Path | str) -> AlchemistTransformer:
    """The averaged weights of a run's newest checkpoint, in evaluation mode on the CPU."""
    path = newest(Path(run_dir) / "checkpoints")
    if path is None:
        raise ValueError(f"{run_dir} has no whole checkpoint; expected the folder of a training run")
    return load_transformer(path / "ema").eval()


def optimizer_moments(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """AdamW's state by parameter name; parameters that never had a gradient have none."""
    return {
        f"{moment}.{name}": optimizer.state[parameter][moment].contiguous()
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
        for moment in MOMENTS
    }


def restore_moments(optimizer: torch.optim.Optimizer, model: nn.Module, moments: dict[str, Tensor]) -> None:
    """Gives AdamW the state of the parameters that have one; layers new in a stage start afresh."""
    for name, parameter in model.named_parameters():
        if f"step.{name}" in moments:
            state = {moment: moments[f"{moment}.{name}"].to(parameter.device) for moment in MOMENTS}
            optimizer.state[parameter] = state


def _newest_first(folder: Path) -> Iterator[Path]:
    yield from sorted((path for path in folder.glob("*") if path.name.isdecimal()), reverse=True)


def _sizes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}


def _problem(path: Path) -> str | None:
    """What is wrong with a checkpoint, None where nothing is."""
    try:
        files = json.loads((path / "state.json").read_text())["files"]
    except (OSError, ValueError, KeyError) as error:
        return f"no readable state.json ({type(error).__name__})"
    found = _sizes(path)
    broken = [name for name, size in files.items() if found.get(name) != size]
    return f"missing or cut short: {', '.join(broken)}" if broken else None


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
