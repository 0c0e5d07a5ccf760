"""Checkpoints of a run: safetensors and JSON, never pickle; whole or not there; written while training goes on.

RUN/checkpoints/00001000/
  shard-0000R-model-*.safetensors   what rank R owned of transformer.<name> and ema.<name>, and of AdamW's step.<name>,
                                    exp_avg.<name> and exp_avg_sq.<name>; any number of ranks reads it
  state.json                        step, samples seen, stage, configuration, layers, size of every file; written last
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import CheckpointException, HuggingFaceStorageReader, HuggingFaceStorageWriter

from video_alchemist.model.transformer import AlchemistTransformer
from video_alchemist.training.state import State, has_lora, hollow


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    step: int = 0  # optimiser steps done
    seen: int = 0  # samples


class _Writer(HuggingFaceStorageWriter):
    """Every rank writes its file into a temporary folder; the first makes a checkpoint of it once all are done."""

    def __init__(self, path: Path, state: dict[str, Any], keep: int) -> None:
        self.final, self.temporary = path, path.with_suffix(".tmp")
        super().__init__(str(self.temporary), save_distributed=True)
        self.state, self.keep = state, keep

    def stage(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """What is written, while training changes the original; torch's own way copies twice, and meshes too."""
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in state_dict.items()}

    def finish(self, metadata: Any, results: Any) -> None:
        """Called on the first rank alone, after all ranks have written and synced their files."""
        described = {**self.state, "files": _sizes(self.temporary)}
        with (self.temporary / "state.json").open("w") as file:
            file.write(json.dumps(described, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        _fsync(self.temporary)
        _discard(self.final)
        os.rename(self.temporary, self.final)
        _fsync(self.final.parent)
        for old in list(_newest_first(self.final.parent))[self.keep :]:
            _discard(old)


class Checkpoints:
    """Writes a run's checkpoints, one at a time, in a thread; keeps the newest `keep`. For all ranks together."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep
        self.group = dist.new_group(backend="gloo")  # the thread's own: its messages must not meet training's
        self.pending: tuple[Path, Future[Any]] | None = None

    def save(self, tensors: dict[str, Tensor], progress: Progress, described: dict[str, Any]) -> None:
        """Copies `tensors` and returns; an earlier write is waited for."""
        self.wait()
        path = self.folder / f"{progress.step:08d}"
        if dist.get_rank() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._clean()
        state = {"step": progress.step, "seen": progress.seen, **described}
        future = dcp.async_save(
            dict(tensors), storage_writer=_Writer(path, state, self.keep), process_group=self.group
        )
        assert isinstance(future, Future)
        self.pending = path, future

    @property
    def failed(self) -> bool:
        return self.pending is not None and self.pending[1].done() and self.pending[1].exception() is not None

    def wait(self) -> None:
        """Until the last checkpoint is there. One that could not be written leaves nothing behind but this error."""
        if self.pending is None:
            return
        (path, future), self.pending = self.pending, None
        try:
            future.result()
        except (CheckpointException, OSError) as error:
            if dist.get_rank() == 0:
                self._clean()
            last = next(_newest_first(self.folder), None)
            stands = f"the last one, {last}, stands" if last else "there is none before it"
            raise OSError(f"checkpoint {path} could not be written: {_reason(error)}; {stands}") from error

    def settle(self) -> None:
        """Ends a write that is under way, whatever becomes of it: for a run that ends in another error."""
        if self.pending is not None:
            wait([self.pending[1]])

    def _clean(self) -> None:
        for leftover in self.folder.glob("*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint; broken ones are passed over with a warning. None where there are none at all.

    Raises ValueError where not one can be read, such as those of another version: to begin anew would undo the run.
    """
    problems = []
    for path in _newest_first(folder):
        problem = _problem(path)
        if problem is None:
            return path
        problems.append(f"{path}: {problem}")
        warnings.warn(f"checkpoint {path} is broken and passed over: {problem}", stacklevel=2)
    if problems:
        raise ValueError(f"no checkpoint of the run can be read; expected another run's folder. Newest: {problems[0]}")
    return None


def read_state(path: Path) -> dict[str, Any]:
    return json.loads((path / "state.json").read_text())


def restore(path: Path, state: State) -> None:
    """Everything that was saved, bit for bit, whatever the number of ranks then and now."""
    stored = _stored(path)
    weights = dict(state.transformer.named_parameters())
    tensors = {f"transformer.{name}": parameter.detach() for name, parameter in weights.items()}
    for name, parameter in weights.items():
        for kind in ("ema", "exp_avg", "exp_avg_sq"):
            if f"{kind}.{name}" in stored:
                tensors[f"{kind}.{name}"] = torch.zeros_like(parameter.detach())
        if f"step.{name}" in stored:
            tensors[f"step.{name}"] = torch.zeros((), device=parameter.device)
    _read(path, tensors)
    state.adopt(tensors)


def averaged_names(path: Path) -> set[str]:
    """Parameters that were trained."""
    return {name.removeprefix("ema.") for name in _stored(path) if name.startswith("ema.")}


def trained_transformer(run_dir: Path | str, averaged: bool = True) -> AlchemistTransformer:
    """The averaged (or last) weights of a run's newest checkpoint, in evaluation mode on the CPU, adapters fused."""
    transformer = _loaded(run_dir, averaged)
    if has_lora(transformer):
        transformer.fuse_lora()
        transformer.unload_lora()
    return transformer


def trained_adapter(run_dir: Path | str) -> dict[str, Any]:
    """The averaged LoRA weights of a run's newest checkpoint for `save_lora_weights`; empty where it has none.

    Their scale, alpha / rank, is in the weights: readers of such files take it as 1.
    """
    import peft

    transformer = _loaded(run_dir, averaged=True)
    if not has_lora(transformer):
        return {}
    scale = transformer.peft_config["default"].lora_alpha / transformer.peft_config["default"].r
    adapter = peft.get_peft_model_state_dict(transformer, adapter_name="default")
    return {name: tensor * scale if "lora_B" in name else tensor for name, tensor in adapter.items()}


def _loaded(run_dir: Path | str, averaged: bool) -> AlchemistTransformer:
    path = newest(Path(run_dir) / "checkpoints")
    if path is None:
        raise ValueError(f"{run_dir} has no whole checkpoint; expected the folder of a training run")
    transformer = hollow(read_state(path)["layers"]).to_empty(device="cpu")
    stored, tensors = _stored(path), {}
    for name, parameter in transformer.named_parameters():
        kind = "ema" if averaged and f"ema.{name}" in stored else "transformer"
        tensors[f"{kind}.{name}"] = parameter.detach()
    _read(path, tensors, alone=True)
    return transformer.requires_grad_(False).eval()


def _stored(path: Path) -> set[str]:
    return set(HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata)


def _read(path: Path, tensors: dict[str, Tensor], alone: bool = False) -> None:
    """Fills tensors in place. alone: in this process, whatever other ranks do."""
    reader = HuggingFaceStorageReader(str(path))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # as it is meant to be
        dcp.load(tensors, storage_reader=reader, no_dist=alone or not dist.is_initialized())


def _newest_first(folder: Path) -> Iterator[Path]:
    yield from sorted((path for path in folder.glob("*") if path.name.isdecimal()), reverse=True)


def _discard(path: Path) -> None:
    """Deletes a checkpoint so that one half-deleted is never taken for a whole one."""
    if path.exists():
        doomed = path.with_suffix(".old.tmp")
        os.rename(path, doomed)
        shutil.rmtree(doomed)


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.name != "state.json"}


def _problem(path: Path) -> str | None:
    """What is wrong with a checkpoint, None where nothing is."""
    try:
        state = read_state(path)
        files = state["files"]
    except (OSError, ValueError, KeyError) as error:
        return f"no readable state.json ({type(error).__name__})"
    if "layers" not in state:
        return "written by an older version"
    found = _sizes(path)
    broken = [name for name, size in files.items() if found.get(name) != size]
    return f"missing or cut short: {', '.join(broken)}" if broken else None


def _reason(error: BaseException) -> str:
    """The first cause that a rank gives."""
    if isinstance(error, CheckpointException):
        rank, (cause, _) = next(iter(error.failures.items()))
        return f"{cause}" if len(error.failures) == 1 and rank == 0 else f"{cause} (rank {rank})"
    return str(error)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
