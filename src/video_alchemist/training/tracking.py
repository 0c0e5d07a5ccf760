"""What a person sees of a run: metrics.jsonl always, a line in the terminal, TensorBoard or Weights & Biases.

RUN/  config.json  metrics.jsonl (one object a step)  tensorboard/  failure.json (where the loss broke down)
Only the first rank writes. A row's numbers are of all ranks together; memory is the first rank's.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from video_alchemist.dataset.batch import Batch
from video_alchemist.model.flops import step_flops
from video_alchemist.model.hardware import GIB, GPUS
from video_alchemist.training.config import TrainConfig, as_json, differences
from video_alchemist.training.objective import Loss
from video_alchemist.training.plot import read_metrics
from video_alchemist.training.stages import Stage

TIME_BINS = 10  # of [0, 1], for the loss by time
SUMS = ("loss", "localization", "samples", "tokens", "flops", "wait", "signals", "late", "failed")


class Tally:
    """One rank's sums of a step; `vector` may be added to those of other ranks."""

    def __init__(self, device: torch.device, config: Mapping[str, Any], trainable: str) -> None:
        self.config, self.trainable = config, trainable
        self.counts = dict.fromkeys(SUMS, 0.0)
        self.loss = torch.zeros((), dtype=torch.float64, device=device)
        self.localization = torch.zeros_like(self.loss)
        self.bins = torch.zeros(2, TIME_BINS, dtype=torch.float64, device=device)  # sums of losses, their number
        self.batches: list[dict[str, Any]] = []  # this rank's micro-batches, for failure.json
        self.bucket = ""

    def add(self, number: int, batch: Batch, given: Loss, micro_batches: int) -> None:
        """The losses of one micro-batch."""
        losses = given.velocity.detach()
        self.loss += losses.mean() / micro_batches
        self.localization += given.localization.detach().mean() / micro_batches
        places = (given.t * TIME_BINS).long().clamp(0, TIME_BINS - 1)
        self.bins[0].index_add_(0, places, losses.double())
        self.bins[1].index_add_(0, places, torch.ones_like(losses, dtype=torch.float64))
        tokens = batch.z0[0, 0].numel() // math.prod(self.config["patch_size"])
        images = batch.image_tokens
        references = 0 if images is None else images.shape[1] * images.shape[2]
        flops = step_flops(self.config, tokens, batch.text_tokens.shape[1], references, self.trainable)
        size = len(batch.z0)
        for name, value in (("samples", size), ("tokens", size * tokens), ("flops", size * flops)):
            self.counts[name] += value
        self.bucket = batch.bucket or "x".join(map(str, batch.z0.shape[:1:-1]))
        self.batches.append({"micro_batch": number, "bucket": batch.bucket, "ids": batch.ids, "losses": losses})

    def vector(self) -> Tensor:
        counts = torch.tensor([self.counts[name] for name in SUMS[2:]], dtype=torch.float64)
        return torch.cat([self.loss[None], self.localization[None], counts.to(self.loss.device), self.bins.flatten()])


def unpacked(vector: Tensor) -> tuple[dict[str, float], list[float | None]]:
    """Sums by name, and the mean loss by bin of time (None where no sample fell)."""
    sums = dict(zip(SUMS, vector[: len(SUMS)].tolist(), strict=True))
    totals, counts = vector[len(SUMS) :].view(2, TIME_BINS).tolist()
    return sums, [total / count if count else None for total, count in zip(totals, counts, strict=True)]


def rates(sums: Mapping[str, float], seconds: float, world: int, peak: float) -> dict[str, float]:
    """How fast a step was. peak: FLOP/s of one of `world` devices, 0 = not known."""
    return {
        "samples_per_second": sums["samples"] / seconds,
        "tokens_per_second": sums["tokens"] / seconds,
        "mfu": sums["flops"] / (seconds * world * peak) if peak else 0.0,
        "data_wait": sums["wait"] / (seconds * world),
        "seconds": seconds,
    }


# ------------------------------------------------------------------------------------------------------------------
# The run's folder and the terminal


class Tracker:
    """Writes what is told; on ranks that are not the first it does nothing."""

    def __init__(self, run_dir: Path, config: TrainConfig, end: int, active: bool) -> None:
        self.run_dir, self.config, self.end, self.active = run_dir, config, end, active
        self.seconds = 0.0  # of a step, smoothed
        self.steps = 0

    def open(self, step: int) -> None:
        """Goes on after `step`: rows of later ones are of steps that a crash undid, and are done again."""
        if not self.active:
            return
        rows = [row for row in read_metrics(self.run_dir) if row["step"] <= step]
        replace_text(self.run_dir / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        self.file = (self.run_dir / "metrics.jsonl").open("a")
        self.board = tensorboard(self.run_dir, step) if self.config.tracker == "tensorboard" else None
        self.wandb = wandb_run(self.run_dir, self.config) if self.config.tracker == "wandb" else None

    def log(self, row: dict[str, Any]) -> None:
        if not self.active:
            return
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()
        scalars = scalars_of(row)
        if self.board is not None:
            for name, value in scalars.items():
                self.board.add_scalar(name, value, row["step"])
        if self.wandb is not None:
            self.wandb.log(scalars, step=row["step"])
        self._show(row)

    def _show(self, row: dict[str, Any]) -> None:
        """A progress line every `log_every` steps; a terminal sees it renewed at every step."""
        self.steps += 1
        self.seconds += (row["seconds"] - self.seconds) / min(self.steps, 50)
        is_line = row["step"] % self.config.log_every == 0 or row["step"] == self.end
        if not is_line and not sys.stdout.isatty():
            return
        left = int((self.end - row["step"]) * self.seconds)
        days = f"{left // 86_400} d " if left >= 86_400 else ""
        line = (
            f"step {row['step']}/{self.end} stage {row['stage']} {row['bucket']} loss {row['loss']:.4f} "
            f"lr {row['learning_rate']:.1e} {row['tokens_per_second']:,.0f} tokens/s mfu {row['mfu']:.0%} "
            f"data wait {row['data_wait']:.0%} {row['memory'] / GIB:.1f} GiB "
            f"{days}{time.strftime('%H:%M:%S', time.gmtime(left))} left"
        )
        print(f"\r{line}\033[K" if sys.stdout.isatty() else line, end="\n" if is_line else "", flush=True)

    def close(self) -> None:
        if not self.active:
            return
        self.file.close()
        if self.board is not None:
            self.board.close()
        if self.wandb is not None:
            self.wandb.finish()


def scalars_of(row: Mapping[str, Any]) -> dict[str, float]:
    """A row as curves: the loss also by bucket and by time, everything else that is a number."""
    curves = {name: value for name, value in row.items() if isinstance(value, (int, float)) and name != "step"}
    curves[f"loss_by_bucket/{row['bucket']}"] = row["loss"]
    for i, value in enumerate(row["loss_by_time"]):
        if value is not None:
            curves[f"loss_by_time/{i / TIME_BINS:.1f}"] = value
    return curves


def tensorboard(run_dir: Path, step: int) -> Any:
    """TensorBoard's writer, None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(run_dir / "tensorboard"), purge_step=step + 1)


def wandb_run(run_dir: Path, config: TrainConfig) -> Any:
    """The run's page at Weights & Biases; the same folder, the same page."""
    try:
        import wandb
    except ImportError as error:
        raise ValueError("tracker=wandb needs wandb; expected: pip install 'video-alchemist[track]'") from error
    identity = hashlib.sha1(str(run_dir.resolve()).encode()).hexdigest()[:12]
    return wandb.init(
        project="video-alchemist", name=run_dir.name, id=identity, resume="allow", dir=run_dir, config=as_json(config)
    )


def write_config(run_dir: Path, config: TrainConfig) -> None:
    """Writes config.json; says what differs from the run's earlier one."""
    run_dir.mkdir(parents=True, exist_ok=True)
    path, described = run_dir / "config.json", as_json(config)
    if path.exists():
        for difference in differences(json.loads(path.read_text()), described):
            print(f"configuration changed: {difference}", flush=True)
    replace_text(path, json.dumps(described, indent=2) + "\n")


def write_failure(
    run_dir: Path, step: int, stage: Stage, loss: float, grad_norm: float, batches: list[dict[str, Any]]
) -> None:
    failure = {"step": step, "stage": asdict(stage), "loss": str(loss), "grad_norm": str(grad_norm), "batches": batches}
    replace_text(run_dir / "failure.json", json.dumps(failure, indent=2) + "\n")


def replace_text(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


# ------------------------------------------------------------------------------------------------------------------
# The machine


def peak_flops(device: torch.device) -> float:
    """FLOP/s of a device: a known card's dense bf16 peak, a CPU's own rate of matrix products; 0 = not known."""
    if device.type != "cuda":
        return matrix_rate(device)
    name = torch.cuda.get_device_name(device).replace(" ", "").lower()
    matching = [gpu for key, gpu in GPUS.items() if key.split("-")[0] in name]
    return max(matching, key=lambda gpu: len(gpu.name.split("-")[0])).flops if matching else 0.0


def matrix_rate(device: torch.device, size: int = 512, tries: int = 4) -> float:
    """FLOP/s of float32 matrix products, the best of a few."""
    a = torch.rand(size, size, device=device)
    best = math.inf
    for _ in range(tries):
        began = time.perf_counter()
        torch.mm(a, a)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def memory_in_use(device: torch.device) -> int:
    """Bytes, at most so far: of the card, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
