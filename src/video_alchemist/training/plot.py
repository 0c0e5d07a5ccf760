"""The loss curve of a run, from its metrics.jsonl."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any


def read_metrics(run_dir: Path | str) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl; a last line cut short by a crash is left out."""
    path = Path(run_dir) / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def smooth(values: list[float], half_life: float) -> list[float]:
    """Exponential moving average of the logarithm, without the bias of its start."""
    decay, total, weight, smoothed = 0.5 ** (1 / half_life), 0.0, 0.0, []
    for value in values:
        total = decay * total + (1 - decay) * math.log(max(value, 1e-12))
        weight = decay * weight + (1 - decay)
        smoothed.append(math.exp(total / weight))
    return smoothed


def loss_curve(run_dir: Path | str, path: Path | str | None = None) -> Path:
    """Draws the loss over the steps, a colour a stage, into `path` (default: RUN/loss.png)."""
    from matplotlib.figure import Figure

    rows = read_metrics(run_dir)
    if not rows:
        raise ValueError(f"{run_dir} has no metrics; expected the folder of a training run, with a metrics.jsonl")
    path = Path(run_dir) / "loss.png" if path is None else Path(path)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for i, (name, group) in enumerate(itertools.groupby(rows, key=lambda row: row["stage"])):
        stage = list(group)
        steps, losses = [row["step"] for row in stage], [row["loss"] for row in stage]
        axes.plot(steps, losses, color=f"C{i}", alpha=0.2, linewidth=0.5)
        axes.plot(steps, smooth(losses, half_life=max(1.0, len(rows) / 100)), color=f"C{i}", label=name)
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    axes.legend(title="stage")
    figure.savefig(path, dpi=120)
    return path
