"""What the shipped model can do, in numbers: does it carry a subject over, to the right word, and a place, an action?

Every score is also measured on true clips and on their reconstructions: the judges' own limit, and the autoencoder's.

N samples · F frames · H,W pixels
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from video_alchemist.emojiworld.recipes.judges import Judges
from video_alchemist.emojiworld.recipes.scale import Scale
from video_alchemist.emojiworld.recipes.studies import BATCH, Sample, Study, studies
from video_alchemist.emojiworld.recipes.world import clip_times, make_batch
from video_alchemist.pretrained.roles import autoencoder_role
from video_alchemist.video import contact_sheet


@torch.no_grad()
def score(pipe: Any, study: Study, scale: Scale, num_steps: int | None, folder: Path) -> dict[str, Any]:
    """One study's numbers; saves its sheet."""
    videos = {"generated": generate(pipe, study, scale.num_frames, num_steps)}
    if study.bounds:
        videos["true"] = true_videos(study.samples, scale)
        videos["autoencoder"] = reconstruct(pipe, videos["true"])
    name = study.name.replace(",", "").replace(" ", "-")
    sheet(study.samples[:10], videos["generated"][:10]).save(folder / f"{name}.png")
    measured = {
        origin: {metric: interval(values) for metric, values in study.measure(shown).items()}
        for origin, shown in videos.items()
    }
    return {"chance": study.chance, **measured}


def evaluate(
    pipe: Any, scale: Scale, work: Path, num_samples: int = 200, num_steps: int | None = None
) -> dict[str, Any]:
    """Every study; `work/scores.json` grows with each, so that a stopped evaluation goes on where it was.

    The result's "table" is the model card's, in Markdown; sheets of samples go to `work/scores/`.
    """
    judges = Judges.load(work, pipe.device)
    folder, path = work / "scores", work / "scores.json"
    folder.mkdir(parents=True, exist_ok=True)
    weights = [fingerprint(network) for network in (pipe.transformer, judges.appearance, judges.motion)]
    settings = {"num_samples": num_samples, "num_steps": num_steps, "weights": weights}
    result = json.loads(path.read_text()) if path.exists() else {}
    if result.get("settings") != settings:
        result = {"settings": settings, "scores": {}}
    pipe.set_progress_bar_config(disable=True)
    made = studies(judges, scale, num_samples)
    for number, make in enumerate(made):
        if number < len(result["scores"]):
            continue
        study = make()
        result["scores"][study.name] = score(pipe, study, scale, num_steps, folder)
        result["table"] = table(result["scores"])
        path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
        print(f"{number + 1}/{len(made)} {result['table'].splitlines()[-1]}", flush=True)
    return result


def fingerprint(network: torch.nn.Module) -> str:
    """Tells whether scores were made with these weights."""
    digest = hashlib.sha256()
    for tensor in network.state_dict().values():
        digest.update(tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def table(scores: dict[str, Any]) -> str:
    """Accuracies in per cent with their 95 % intervals, as Markdown."""

    def cell(row: dict[str, Any], origin: str) -> str:
        if origin not in row:
            return ""
        mean, low, high = (100 * row[origin]["accuracy"][key] for key in ("mean", "low", "high"))
        return f"{mean:.1f} ({low:.1f}-{high:.1f})"

    lines = ["| score, % | generated | reconstructed clips | true clips | chance |", "|---|---|---|---|---|"]
    for name, row in scores.items():
        cells = (cell(row, origin) for origin in ("generated", "autoencoder", "true"))
        lines.append(f"| {name} | {' | '.join(cells)} | {100 * row['chance']:.1f} |")
    return "\n".join(lines)


def interval(values: Tensor, seed: int = 0, num_resamples: int = 2000) -> dict[str, float]:
    """Mean and its 95 % bootstrap interval."""
    numbers = values.double().numpy()
    picks = np.random.default_rng(seed).integers(len(numbers), size=(num_resamples, len(numbers)))
    low, high = np.quantile(numbers[picks].mean(axis=1), (0.025, 0.975))
    return {"mean": float(numbers.mean()), "low": float(low), "high": float(high), "num_samples": len(numbers)}


def generate(pipe: Any, study: Study, num_frames: int, num_steps: int | None) -> Tensor:
    """What the model makes of the samples, sample i with seed i: (N, 3, F, H, W) uint8."""
    videos = []
    for start in range(0, len(study.samples), BATCH):
        part = study.samples[start : start + BATCH]
        frames = pipe(
            [sample.prompt for sample in part],
            [sample.references for sample in part],
            seed=list(range(start, start + len(part))),
            num_frames=num_frames,
            num_steps=num_steps,
        ).frames
        videos += [torch.from_numpy(video).permute(3, 0, 1, 2) for video in frames]
        print(f"{study.name}: generated {len(videos)}/{len(study.samples)}", flush=True)
    return torch.stack(videos)


def true_videos(samples: Sequence[Sample], scale: Scale) -> Tensor:
    """The samples' scenes as rendered, (N, 3, F, H, W) uint8."""
    times = clip_times(scale.num_frames)
    return to_bytes(make_batch([sample.scene for sample in samples], times, scale.size).video)


def reconstruct(pipe: Any, videos: Tensor) -> Tensor:
    """Through the autoencoder and back."""
    autoencoder = autoencoder_role(pipe.autoencoder)
    parts = [autoencoder.decode(autoencoder.encode(part.float() / 127.5 - 1)) for part in videos.split(BATCH)]
    return to_bytes(torch.cat(parts))


def to_bytes(videos: Tensor) -> Tensor:
    return ((videos.clamp(-1, 1) + 1) * 127.5).round().byte().cpu()


def sheet(samples: Sequence[Sample], videos: Tensor, num_frames: int = 6) -> Image.Image:
    """References left, frames right, under the prompts; samples without pictures show frames alone."""
    rows = []
    index = np.linspace(0, videos.shape[2] - 1, num_frames).round().astype(int).tolist()
    width = max((len(sample.references) for sample in samples), default=0)
    for sample, video in zip(samples, videos, strict=True):
        pictures = []
        for reference in sample.references:
            picture = Image.fromarray(reference.image).convert("RGBA")
            pictures.append(Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture))
        blanks = [Image.new("RGB", (64, 64), "white")] * (width - len(pictures))
        rows.append([*blanks, *pictures, *(Image.fromarray(video[:, i].permute(1, 2, 0).numpy()) for i in index)])
    return contact_sheet(rows, [sample.prompt for sample in samples])
