"""A run's curves, from its metrics.jsonl: the loss by stage, by bucket, and by time."""

from __future__ import annotations

import itertools
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
SHADES = "viridis"


def read_metrics(run_dir: Path | str) -> list[Row]:
    """The rows of a run's metrics.jsonl; a last line cut short by a crash is left out."""
    path = Path(run_dir) / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def smooth(values: Sequence[float], half_life: float) -> list[float]:
    """Exponential moving average of the logarithm, without the bias of its start."""
    decay, total, weight, smoothed = 0.5 ** (1 / half_life), 0.0, 0.0, []
    for value in values:
        total = decay * total + (1 - decay) * math.log(max(value, 1e-12))
        weight = decay * weight + (1 - decay)
        smoothed.append(math.exp(total / weight))
    return smoothed


def curves(run_dir: Path | str) -> list[Path]:
    """Draws loss.png, loss_by_bucket.png and loss_by_time.png into a run's folder."""
    rows = read_metrics(run_dir)
    if not rows:
        raise ValueError(f"{run_dir} has no metrics; expected the folder of a training run, with a metrics.jsonl")
    stages = [(name, list(group)) for name, group in itertools.groupby(rows, key=lambda row: row["stage"])]
    by_stage, by_bucket, by_time = defaultdict(list), defaultdict(list), defaultdict(list)
    for row in rows:
        by_stage[row["stage"]].append((row["step"], row["loss"]))
        by_bucket[row.get("bucket", "")].append((row["step"], row["loss"]))
        losses = row.get("loss_by_time", [])
        for i, loss in enumerate(losses):
            if loss is not None:
                by_time[f"{i / len(losses):.1f} to {(i + 1) / len(losses):.1f}"].append((row["step"], loss))
    folder, boundaries = Path(run_dir), [group[0]["step"] for _, group in stages[1:]]
    return [
        _draw(folder / "loss.png", by_stage, "stage", [], faint=True),
        _draw(folder / "loss_by_bucket.png", dict(sorted(by_bucket.items())), "bucket", boundaries),
        _draw(folder / "loss_by_time.png", dict(sorted(by_time.items())), "t (1 = noise)", boundaries, SHADES),
    ]


def _draw(
    path: Path,
    lines: dict[str, list[tuple[int, float]]],
    title: str,
    boundaries: list[int],
    shades: str | None = None,
    faint: bool = False,
) -> Path:
    """One smoothed line a name. boundaries: steps where a stage begins; faint: the values themselves behind."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    total = sum(map(len, lines.values()))
    for i, (name, points) in enumerate(lines.items()):
        colour: Any = f"C{i % 10}"
        if shades is not None:
            colour = matplotlib.colormaps[shades](i / max(1, len(lines) - 1))
        steps, losses = zip(*points, strict=True)
        if faint:
            axes.plot(steps, losses, color=colour, alpha=0.2, linewidth=0.5)
        half_life = max(1.0, total / 100 if faint else len(points) / 30)
        axes.plot(steps, smooth(losses, half_life), color=colour, label=name, linewidth=1.2)
    for step in boundaries:
        axes.axvline(step, color="grey", linewidth=0.6, linestyle=":")
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    axes.legend(title=title, fontsize="small", ncols=1 if len(lines) <= 10 else 2)
    figure.savefig(path, dpi=120)
    return path
