"""Two-stage training on one device (App. B.2, Table 6). The same call on the same run folder resumes.

RUN/  config.json  metrics.jsonl (one object a step)  checkpoints/  samples/  failure.json (where the loss broke down)

All draws of a step come from (seed, step), so a resumed run repeats the uninterrupted one bit for bit.
"""

from __future__ import annotations

import copy
import json
import math
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from video_alchemist.dataset.batch import Batch, BatchSource
from video_alchemist.model.transformer import AlchemistTransformer, add_personalization
from video_alchemist.training import checkpoint, objective
from video_alchemist.training.checkpoint import Progress
from video_alchemist.training.config import OptimizerConfig, TrainConfig, as_json, differences
from video_alchemist.training.plot import read_metrics
from video_alchemist.training.stages import Stage, learning_rate_at, stage_at, total_steps

OnSample = Callable[[AlchemistTransformer, int, Path], None]  # averaged transformer, steps done, RUN/samples


@dataclass(frozen=True)
class Trained:
    """What a call of `train` leaves behind: the weights, their moving average, and why it stopped."""

    transformer: AlchemistTransformer
    ema: AlchemistTransformer
    step: int
    stopped: str  # "done" | "time limit" | the name of a signal


def train(
    transformer: AlchemistTransformer,
    source: BatchSource | Callable[[Stage], BatchSource],
    config: TrainConfig,
    run_dir: Path | str,
    *,
    max_steps: int | None = None,
    time_limit: float | None = None,
    device: torch.device | str = "cpu",
    on_sample: OnSample | None = None,
) -> Trained:
    """Trains from the newest checkpoint of `run_dir` on, or from `transformer` where there is none.

    max_steps counts from the start of the run, time_limit (seconds) from now; both stop with a checkpoint, as
    SIGTERM and SIGINT do. A source for every stage may be given as a function of the stage.
    """
    run_dir, device, began = Path(run_dir), torch.device(device), time.monotonic()
    end = min(total_steps(config.stages), total_steps(config.stages) if max_steps is None else max_steps)
    write_config(run_dir, config)
    transformer, ema, moments, progress = start(transformer, run_dir, device)
    optimizer = make_optimizer(transformer, config.optimizer, moments)
    forget_metrics_after(run_dir, progress.step)

    def save() -> None:
        stage = stage_at(max(progress.step - 1, 0), config.stages)[0]
        checkpoint.save(
            run_dir / "checkpoints",
            transformer,
            ema,
            checkpoint.optimizer_moments(optimizer, transformer),
            progress,
            {"stage": stage.name, "config": as_json(config)},
            config.checkpoint.keep,
        )

    current: Stage | None = None
    batches: Iterator[Batch] = iter(())
    stopped, saved_at = "done", progress.step
    generator = torch.Generator(device)
    with (run_dir / "metrics.jsonl").open("a") as metrics, caught_signals() as signals:
        while progress.step < end:
            step, tick = progress.step, time.monotonic()
            stage, first = stage_at(step, config.stages)
            if stage != current:
                if stage.personalization and not transformer.config["personalization"]:
                    moments = checkpoint.optimizer_moments(optimizer, transformer)
                    transformer, ema = extend(transformer, config.seed), average_of(extend(ema, config.seed))
                    optimizer = make_optimizer(transformer, config.optimizer, moments)
                prepare(transformer, stage, config)
                batches = prefetched(
                    source(stage) if callable(source) else source,
                    range(step * config.accumulation, min(first + stage.steps, end) * config.accumulation),
                    device,
                    config.data_workers,
                )
                current = stage

            rate = learning_rate_at(step, config.stages, config.optimizer.learning_rate)
            for group in optimizer.param_groups:
                group["lr"] = rate
            total, samples, tokens = torch.zeros((), device=device), 0, 0
            for part in range(config.accumulation):
                batch = next(batches)
                seed_draws(generator, config.seed, step, part)
                with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                    losses, _ = objective.loss(
                        transformer,
                        batch,
                        generator,
                        shift=config.shift,
                        text_drop=config.text_drop,
                        image_drop=config.image_drop,
                        self_conditioning_probability=config.self_conditioning_probability,
                    )
                mean = losses.mean() / config.accumulation
                if mean.requires_grad:  # nothing to learn from a batch without images while only their layers train
                    mean.backward()
                total += mean.detach()
                samples += len(batch.z0)
                tokens += batch.z0[:, 0].numel() // math.prod(transformer.patch_size)
            norm = nn.utils.clip_grad_norm_(transformer.parameters(), config.optimizer.gradient_clipping)
            loss, grad_norm = torch.stack([total, norm.to(total)]).tolist()
            if not math.isfinite(loss + grad_norm):
                report_failure(run_dir, step + 1, stage, loss, grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            update_ema(ema, transformer, step, config.ema_decay)

            progress = Progress(step + 1, progress.seen + samples)
            seconds = time.monotonic() - tick
            row = {
                "step": progress.step,
                "stage": stage.name,
                "loss": loss,
                "learning_rate": rate,
                "grad_norm": grad_norm,
                "samples_per_second": samples / seconds,
                "tokens_per_second": tokens / seconds,
                "seconds": seconds,
                "seen": progress.seen,
            }
            metrics.write(json.dumps(row) + "\n")
            metrics.flush()
            show(row, end, config.log_every)
            if on_sample is not None and config.sample_every and progress.step % config.sample_every == 0:
                on_sample(ema, progress.step, run_dir / "samples")
            if signals:
                stopped = signals[0]
            elif time_limit is not None and progress.step < end and time.monotonic() - began >= time_limit:
                stopped = "time limit"
            if progress.step % config.checkpoint.every == 0 or stopped != "done":
                save()
                saved_at = progress.step
            if stopped != "done":
                break
        if progress.step > saved_at:
            save()
    return Trained(transformer, ema, progress.step, stopped)


# ------------------------------------------------------------------------------------------------------------------
# Entering a run, and a stage


def start(
    transformer: AlchemistTransformer, run_dir: Path, device: torch.device
) -> tuple[AlchemistTransformer, AlchemistTransformer, dict[str, Tensor], Progress]:
    """Weights, their average, the optimiser's moments and the progress: of the newest checkpoint, or fresh."""
    (run_dir / "samples").mkdir(exist_ok=True)
    newest = checkpoint.newest(run_dir / "checkpoints")
    if newest is None:
        transformer = transformer.to(device)  # type: ignore[arg-type]  # diffusers' decorator hides the types
        return transformer, average_of(transformer), {}, Progress()
    stood = checkpoint.load(newest, device)
    for name, value in transformer.config.items():
        found = stood.transformer.config[name] if name in stood.transformer.config else None
        # A dropout is set by the run's configuration; personalization is what stage II adds.
        same = json.dumps(found) == json.dumps(value)
        if not name.startswith("_") and name not in ("personalization", "dropout") and not same:
            raise ValueError(f"{newest} has {name} {found}, the transformer {value}; expected the same, or a new run")
    print(f"resuming after step {stood.progress.step} from {newest}", flush=True)
    return stood.transformer, average_of(stood.ema), stood.moments, stood.progress


def average_of(transformer: AlchemistTransformer) -> AlchemistTransformer:
    """A copy that is only ever averaged into and sampled with."""
    return copy.deepcopy(transformer).requires_grad_(False).eval()


def extend(transformer: AlchemistTransformer, seed: int) -> AlchemistTransformer:
    """Stage I -> II; the same seed gives the weights and their average the same new layers."""
    torch.manual_seed(seed)
    return add_personalization(transformer)


def prepare(transformer: AlchemistTransformer, stage: Stage, config: TrainConfig) -> None:
    """Freezes what the stage does not train, sets dropout, compiles."""
    new = {name for name, _ in transformer.personalization_parameters()}
    for name, parameter in transformer.named_parameters():
        parameter.requires_grad_(stage.trainable == "all" or name in new)
    for module in transformer.modules():
        if isinstance(module, nn.Dropout):
            module.p = config.dropout
    transformer.train()
    if config.compile:
        transformer.compile_repeated_blocks()


def make_optimizer(model: nn.Module, config: OptimizerConfig, moments: dict[str, Tensor]) -> torch.optim.AdamW:
    """AdamW over all parameters (frozen ones have no gradient and stay); biases and norms do not decay."""
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        fused=parameters[0].device.type in ("cpu", "cuda"),
    )
    checkpoint.restore_moments(optimizer, model, moments)
    return optimizer


# ------------------------------------------------------------------------------------------------------------------
# Parts of a step


def seed_draws(generator: torch.Generator, seed: int, step: int, part: int) -> None:
    """Noise, times and drops from `generator`, dropout from torch's own: all a function of (seed, step, part)."""
    draws, dropout = np.random.SeedSequence((seed, step, part)).generate_state(2, np.uint32)
    generator.manual_seed(int(draws))
    torch.manual_seed(int(dropout))


@torch.no_grad()
def update_ema(ema: nn.Module, model: nn.Module, num_updates: int, max_decay: float) -> None:
    """Moving average of the weights, short at first: decay = min(max_decay, (1 + n) / (10 + n))."""
    decay = min(max_decay, (1 + num_updates) / (10 + num_updates))
    torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)


class Steps(Dataset[Batch]):
    """A source as DataLoader's map-style dataset."""

    def __init__(self, source: BatchSource) -> None:
        self.source = source

    def __getitem__(self, index: int) -> Batch:
        return self.source.batch(index)


def prefetched(
    source: BatchSource, indices: Iterable[int], device: torch.device, workers: int = 0, ahead: int = 2
) -> Iterator[Batch]:
    """The source's batches on the device, in order, made by `workers` processes and moved by a thread while earlier
    ones are trained on; without workers the thread makes them too."""
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    indices = list(indices)
    loader = DataLoader(Steps(source), sampler=indices, batch_size=None, num_workers=workers)
    made = iter(loader)

    def fetch() -> Batch:
        batch = next(made)
        if stream is None:
            return batch.to(device, torch.float32)
        with torch.cuda.stream(stream):  # beside the training step's own stream
            batch = batch.to(device).to(device, torch.float32)
        stream.synchronize()
        for tensor in vars(batch).values():
            if tensor is not None:  # its memory may be used again once the training step has read it, not before
                tensor.record_stream(torch.cuda.default_stream(device))
        return batch

    pool, waiting = ThreadPoolExecutor(max_workers=1), deque[Future[Batch]]()
    try:
        for _ in indices:
            waiting.append(pool.submit(fetch))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


# ------------------------------------------------------------------------------------------------------------------
# The run folder, the terminal, the outside world


def write_config(run_dir: Path, config: TrainConfig) -> None:
    """Writes config.json; says what differs from the run's earlier one."""
    run_dir.mkdir(parents=True, exist_ok=True)
    path, described = run_dir / "config.json", as_json(config)
    if path.exists():
        for difference in differences(json.loads(path.read_text()), described):
            print(f"configuration changed: {difference}", flush=True)
    _replace_text(path, json.dumps(described, indent=2) + "\n")


def forget_metrics_after(run_dir: Path, step: int) -> None:
    """Drops the rows of steps that a crash undid, for they are done again."""
    rows = [row for row in read_metrics(run_dir) if row["step"] <= step]
    _replace_text(run_dir / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def report_failure(run_dir: Path, step: int, stage: Stage, loss: float, grad_norm: float) -> None:
    failure: dict[str, Any] = {"step": step, "stage": asdict(stage), "loss": str(loss), "grad_norm": str(grad_norm)}
    _replace_text(run_dir / "failure.json", json.dumps(failure, indent=2) + "\n")
    raise ValueError(
        f"loss {loss}, gradient norm {grad_norm} at step {step} of stage {stage.name}; expected finite numbers. "
        f"The step was not taken and the last checkpoint stands ({run_dir}/failure.json); try a lower learning rate"
    )


def show(row: dict[str, Any], end: int, log_every: int) -> None:
    """A progress line every `log_every` steps; a terminal sees it renewed at every step."""
    is_line = row["step"] % log_every == 0 or row["step"] == end
    if not is_line and not sys.stdout.isatty():
        return
    left = time.strftime("%H:%M:%S", time.gmtime((end - row["step"]) * row["seconds"]))
    line = (
        f"step {row['step']}/{end} stage {row['stage']} loss {row['loss']:.4f} lr {row['learning_rate']:.1e} "
        f"{row['samples_per_second']:.0f} samples/s {left} left"
    )
    print(f"\r{line}\033[K" if sys.stdout.isatty() else line, end="\n" if is_line else "", flush=True)


@contextmanager
def caught_signals() -> Iterator[list[str]]:
    """Names of SIGTERM and SIGINT received; a second one acts as usual. Outside the main thread none arrive."""
    names = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
    usual = {name: signal.getsignal(name) for name in names}
    received: list[str] = []

    def note(number: int, _: FrameType | None) -> None:
        received.append(signal.Signals(number).name)
        for name, handler in usual.items():
            signal.signal(name, handler)

    for name in names:
        signal.signal(name, note)
    try:
        yield received
    finally:
        for name, handler in usual.items():
            signal.signal(name, handler)


def _replace_text(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
