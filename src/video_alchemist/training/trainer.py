"""Two-stage training on any number of ranks (App. B.2, Table 6). The same call on the same run folder resumes.

RUN/  config.json  metrics.jsonl (one object a step)  checkpoints/  samples/  failure.json (where the loss broke down)

A step is `micro_batches` batches of one bucket, dealt out over the ranks. Batch m of a step, its noise and its dropout
come from (seed, step, m) alone, so a run that was stopped, or goes on with other ranks, ends the same.
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from video_alchemist.dataset.batch import Batch
from video_alchemist.model.transformer import AlchemistTransformer
from video_alchemist.training import checkpoint, parallel
from video_alchemist.training.checkpoint import Checkpoints, Progress
from video_alchemist.training.config import TrainConfig, as_json
from video_alchemist.training.feed import Source, mover, prefetched
from video_alchemist.training.objective import Loss
from video_alchemist.training.parallel import Ranks
from video_alchemist.training.stages import Stage, learning_rate_at, stage_at, total_steps
from video_alchemist.training.state import State, build, description, enter
from video_alchemist.training.tracking import (
    Tally,
    Tracker,
    memory_in_use,
    peak_flops,
    rates,
    unpacked,
    write_config,
    write_failure,
)

Sources = Source | Callable[[Stage, int], Source]  # of a stage and the number of micro-batches
OnSample = Callable[[AlchemistTransformer, int, Path], None]  # averaged transformer, steps done, RUN/samples


@dataclass(frozen=True)
class Trained:
    """Where a call of `train` ends, and why; the weights are in the checkpoint (checkpoint.trained_transformer)."""

    step: int
    stopped: str  # "done" | "time limit" | the name of a signal
    first: bool  # whether this is the rank that exports


def train(
    transformer: AlchemistTransformer,
    source: Sources,
    config: TrainConfig,
    run_dir: Path | str,
    *,
    encode: Callable[[Any], Batch] | None = None,
    max_steps: int | None = None,
    time_limit: float | None = None,
    device: torch.device | str = "cpu",
    on_sample: OnSample | None = None,
) -> Trained:
    """Trains from the newest checkpoint of `run_dir` on, or from `transformer` where there is none.

    The transformer is taken over and divided over the ranks; of those that are not the first it may be without weights
    (meta). max_steps counts from the start of the run, time_limit (seconds) from now; both stop with a checkpoint, as
    SIGTERM and SIGINT do. encode: makes the source's batches into training batches, on the ranks' own device.
    """
    run_dir, began = Path(run_dir), time.monotonic()
    end = min(total_steps(config.stages), total_steps(config.stages) if max_steps is None else max_steps)
    with parallel.joined(config.parallel, device) as ranks, caught_signals() as signals:
        state, progress, micro_batches = start(transformer, run_dir, ranks, config)
        if ranks.first:
            write_config(run_dir, config)
            (run_dir / "samples").mkdir(exist_ok=True)
        peak = config.peak_flops or peak_flops(ranks.device)
        checkpoints = Checkpoints(run_dir / "checkpoints", config.checkpoint.keep)
        tracker = Tracker(run_dir, config, end, ranks.first)
        tracker.open(progress.step)

        def save(stage: Stage) -> None:
            described = {"stage": stage.name, "micro_batches": micro_batches, "config": as_json(config)}
            checkpoints.save(state.tensors(), progress, {**described, "layers": description(state.transformer)})

        current: Stage | None = None
        batches: Iterator[Any] = iter(())
        stopped, saved_at = "done", progress.step
        generator = torch.Generator(ranks.device)
        mine = range(ranks.rank, micro_batches, ranks.world)
        try:
            while progress.step < end:
                step, tick = progress.step, time.monotonic()
                stage, first = stage_at(step, config.stages)
                if stage != current:
                    current, state = stage, enter(state, stage, ranks, config)
                    steps = range(step, min(first + stage.steps, end))
                    batches = prefetched(
                        source(stage, micro_batches) if callable(source) else source,
                        [one * micro_batches + m for one in steps for m in mine],
                        config.data_workers,
                        ready=mover(ranks.device) if encode is None else lambda batch: batch,
                    )

                rate = learning_rate_at(step, config.stages, config.optimizer.learning_rate)
                for group in state.optimizer.param_groups:
                    group["lr"] = rate * group["factor"]
                tally = Tally(ranks.device, state.transformer.config, stage.trainable)
                for m in mine:
                    waiting = time.monotonic()
                    batch = next(batches)
                    tally.counts["wait"] += time.monotonic() - waiting
                    if encode is not None:
                        batch = encode(batch).to(ranks.device, torch.float32)
                    seed_draws(generator, config.seed, step, m)
                    losses: Loss = state.objective(batch, generator)
                    total = losses.velocity + config.localization_weight * losses.localization
                    # The ranks' gradients are averaged: together, the mean over all micro-batches.
                    (total.mean() / len(mine)).backward()
                    tally.add(m, batch, losses, micro_batches)
                norm = parallel.clip(state.transformer.parameters(), config.optimizer.gradient_clipping)

                tally.counts["signals"] = len(signals)
                tally.counts["late"] = time_limit is not None and time.monotonic() - began >= time_limit
                tally.counts["failed"] = checkpoints.failed
                sums, loss_by_time = unpacked(parallel.summed(tally.vector()))
                loss, grad_norm = sums["loss"], norm.item()
                if not math.isfinite(loss + grad_norm):
                    stop_on_nan(run_dir, ranks, step + 1, stage, loss, grad_norm, tally)
                state.optimizer.step()
                state.optimizer.zero_grad(set_to_none=True)
                state.update_ema(step, config.ema_decay)

                progress = Progress(step + 1, progress.seen + int(sums["samples"]))
                tracker.log(
                    {
                        "step": progress.step,
                        "stage": stage.name,
                        "bucket": tally.bucket,
                        "loss": loss,
                        "localization": sums["localization"],
                        "learning_rate": rate,
                        "grad_norm": grad_norm,
                        **rates(sums, time.monotonic() - tick, ranks.world, peak),
                        "memory": memory_in_use(ranks.device),
                        "seen": progress.seen,
                        "loss_by_time": loss_by_time,
                    }
                )
                if on_sample is not None and config.sample_every and progress.step % config.sample_every == 0:
                    sample(on_sample, state, ranks, progress.step, run_dir / "samples")
                if sums["signals"]:
                    stopped = signals[0] if signals else "SIGTERM"
                elif sums["late"] and progress.step < end:
                    stopped = "time limit"
                if progress.step % config.checkpoint.every == 0 or stopped != "done" or sums["failed"]:
                    save(stage)
                    saved_at = progress.step
                if stopped != "done":
                    break
            if progress.step > saved_at:
                assert current is not None
                save(current)
            checkpoints.wait()
        finally:
            checkpoints.settle()
            tracker.close()
        return Trained(progress.step, stopped, ranks.first)


def start(
    transformer: AlchemistTransformer, run_dir: Path, ranks: Ranks, config: TrainConfig
) -> tuple[State, Progress, int]:
    """State, progress and micro-batches a step: of the newest checkpoint, or fresh."""
    newest = parallel.agreed(checkpoint.newest(run_dir / "checkpoints") if ranks.first else None)
    stood = {} if newest is None else checkpoint.read_state(newest)
    micro_batches = config.micro_batches or stood.get("micro_batches", ranks.world)
    if micro_batches % ranks.world:
        raise ValueError(
            f"{micro_batches} micro-batches a step on {ranks.world} ranks; expected a multiple, nearest: "
            f"micro_batches={max(1, round(micro_batches / ranks.world)) * ranks.world}"
        )
    if newest is None:
        return build(transformer, ranks, config), Progress(), micro_batches
    check_same(newest, stood["layers"], transformer)
    averaged = checkpoint.averaged_names(newest)
    state = build(checkpoint.hollow(stood["layers"]), ranks, config, filled=False, averaged=averaged)
    checkpoint.restore(newest, state)
    if ranks.first:
        print(f"resuming after step {stood['step']} from {newest}", flush=True)
    return state, Progress(stood["step"], stood["seen"]), micro_batches


def check_same(path: Path, layers: dict[str, Any], transformer: AlchemistTransformer) -> None:
    """Refuses to go on with a transformer of other sizes than the run's."""
    found = layers["transformer"]
    for name, value in description(transformer)["transformer"].items():
        # A dropout is set by the run's configuration; personalization is what stage II adds.
        if name not in ("personalization", "dropout") and json.dumps(found.get(name)) != json.dumps(value):
            raise ValueError(
                f"{path} has {name} {found.get(name)}, the transformer {value}; expected the same, or a new run"
            )


def seed_draws(generator: torch.Generator, seed: int, step: int, number: int) -> None:
    """Noise, times and drops from `generator`, dropout from torch's own: functions of (seed, step, micro-batch)."""
    draws, dropout = np.random.SeedSequence((seed, step, number)).generate_state(2, np.uint32)
    generator.manual_seed(int(draws))
    torch.manual_seed(int(dropout))


def sample(on_sample: OnSample, state: State, ranks: Ranks, step: int, folder: Path) -> None:
    """Shows the averaged transformer to the first rank's `on_sample`; all ranks must take part."""
    averaged = state.whole(ranks, averaged=True, dtype=ranks.dtype)
    if ranks.first:
        averaged.to(ranks.device)  # type: ignore[arg-type]  # diffusers' decorator hides the types
        on_sample(averaged, step, folder)


def stop_on_nan(
    run_dir: Path, ranks: Ranks, step: int, stage: Stage, loss: float, grad_norm: float, tally: Tally
) -> None:
    """Names the batches of a step that is not taken."""
    mine = [{**batch, "losses": [str(one) for one in batch["losses"].tolist()]} for batch in tally.batches]
    batches = [batch for theirs in parallel.collected(mine) for batch in theirs]
    if ranks.first:
        write_failure(run_dir, step, stage, loss, grad_norm, batches)
    raise ValueError(
        f"loss {loss}, gradient norm {grad_norm} at step {step} of stage {stage.name}; expected finite numbers. The "
        f"step was not taken, the last checkpoint stands; {run_dir}/failure.json has the clips. Try a lower rate"
    )


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
