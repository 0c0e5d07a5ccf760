"""The training loop of the small frozen networks: AdamW with a cosine, resumable in slices, bit for bit.

(The diffusion transformer has the project's own trainer, `training/trainer.py`.)
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

WARMUP = 100
LOG_EVERY = 50
SAVE_EVERY = 120.0  # seconds


def rng_of(seed: int, step: int) -> torch.Generator:
    """The generator of one step: resuming needs no state."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def fit(
    name: str,
    model: nn.Module,
    loss: Callable[[int], Tensor],
    steps: int,
    learning_rate: float,
    work: Path,
    time_limit: float | None = None,
    sheet: Callable[[], Tensor] | None = None,
) -> bool:
    """Trains from the last checkpoint on; True when all steps are done, False when `time_limit` seconds ran out first.

    Writes `metrics.jsonl`, the loss curve and, at the end of every slice, a contact sheet into `work/name.run/`.
    """
    run = work / f"{name}.run"
    run.mkdir(parents=True, exist_ok=True)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    start = _load(run / "checkpoint.safetensors", model, optimizer)
    began = last = saved = time.monotonic()
    step = start
    model.train()
    with (run / "metrics.jsonl").open("a") as metrics:
        while step < steps and (time_limit is None or time.monotonic() - began < time_limit):
            rate = (
                learning_rate * min(1, (step + 1) / WARMUP) * (0.02 + 0.98 * (1 + math.cos(math.pi * step / steps)) / 2)
            )
            for group in optimizer.param_groups:
                group["lr"] = rate
            torch.manual_seed(step)
            value = loss(step)
            value.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            if step % LOG_EVERY == 0 or step == steps:
                if not math.isfinite(value.item()):
                    raise ValueError(f"{name}: the loss is {value.item()} at step {step}; the last checkpoint stands")
                seconds = (time.monotonic() - last) / LOG_EVERY
                last = time.monotonic()
                metrics.write(json.dumps({"step": step, "loss": value.item(), "seconds_per_step": seconds}) + "\n")
                metrics.flush()
                if last - saved > SAVE_EVERY:
                    _save(run / "checkpoint.safetensors", model, optimizer, step)
                    saved = last
                print(f"{name} {step}/{steps} loss {value.item():.4f} {seconds:.3f} s/step", flush=True)
    if step > start:
        _save(run / "checkpoint.safetensors", model, optimizer, step)
        plot(run)
    model.eval()
    if sheet is not None:
        save_sheet(sheet(), run / "sheet.png")
    return step >= steps


def plot(run: Path) -> None:
    """The loss curve as `loss.png`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    figure, axes = pyplot.subplots(figsize=(6, 3.5))
    axes.plot([row["step"] for row in rows], [row["loss"] for row in rows], linewidth=1)
    axes.set(xlabel="step", ylabel="loss", yscale="log", title=run.name.removesuffix(".run"))
    figure.savefig(run / "loss.png", dpi=100, bbox_inches="tight")
    pyplot.close(figure)


def save_sheet(images: Tensor, path: Path, scale: int = 2) -> None:
    """(rows, columns, 3, H, W) in [0, 1] as one PNG."""
    rows, columns, _, height, width = images.shape
    grid = images.permute(0, 3, 1, 4, 2).reshape(rows * height, columns * width, 3)
    picture = Image.fromarray((grid.clamp(0, 1) * 255).round().byte().numpy())
    picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST).save(path)


def _save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    # Cloned: T5 has one table under two names, which safetensors will not write twice.
    tensors = {f"model.{name}": tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key in ("exp_avg", "exp_avg_sq"):
            if key in optimizer.state[parameter]:
                tensors[f"{key}.{name}"] = optimizer.state[parameter][key]
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary, metadata={"step": str(step)})
    os.replace(temporary, path)


def _load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Restores weights and moments; the step the run stands at, 0 without a checkpoint."""
    if not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        step = int(file.metadata()["step"])
    model.load_state_dict(
        {key.removeprefix("model."): value for key, value in tensors.items() if key.startswith("model.")}
    )
    for name, parameter in model.named_parameters():
        if f"exp_avg.{name}" in tensors:
            optimizer.state[parameter] = {
                "step": torch.tensor(float(step)),
                "exp_avg": tensors[f"exp_avg.{name}"].to(parameter.device),
                "exp_avg_sq": tensors[f"exp_avg_sq.{name}"].to(parameter.device),
            }
    return step
