"""The benchmark's small quality model: a head upon its CLIP that says how much of a frame is left.

It sees frames spoilt in known ways, and learns how alike they still are to what they were (SSIM, Wang et al. 2004),
which it is not shown. Blur is none of the ways: this CLIP was taught to see past it, `sharpness` does not.

B frames · H,W pixels · d channels
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPModel

from video_alchemist.emojiworld.assets import load_assets
from video_alchemist.emojiworld.recipes.evaluators import FRAME, normalise
from video_alchemist.emojiworld.recipes.fit import fit, rng_of
from video_alchemist.emojiworld.recipes.lossy import compress
from video_alchemist.emojiworld.recipes.world import random_times, sample_scenes
from video_alchemist.emojiworld.render import render
from video_alchemist.emojiworld.scenes import Split
from video_alchemist.pretrained.autoencoder import Autoencoder, LTXAutoencoder
from video_alchemist.pretrained.image_text import CLIP_MEAN, CLIP_STD, ClipImageTextEncoder
from video_alchemist.pretrained.quality_model import QualityHead, probe

ROUNDS = {"small": 100, "base": 1000}  # of ROUND spoilt frames each, made and embedded once
ROUND, BATCH, STEPS, RATE = 60, 120, 3000, 2e-3
SEED = 78
WIDTHS = (128, 64, 1)  # after the embedding's
PATCH, WINDOW = 8, 7  # pixels of a side: of what is shuffled; of what is compared
NOISE, LATENT_NOISE = 0.2, 0.5  # at the worst: of [0, 1]; of the latents' deviation


def train(
    rounds: int, work: Path, device: str, time_limit: float | None, autoencoder: Path, steps: int = STEPS
) -> Path:
    """Trains from where it stands, upon the CLIP in `work`; returns its folder. autoencoder: the frozen one's."""
    out = work / "quality"
    if (out / "config.json").exists():
        return out
    encoder = ClipImageTextEncoder.from_pretrained(str(work / "image_text"))
    seen = load_file(precompute(rounds, work, device, autoencoder), device)
    torch.manual_seed(0)
    head = QualityHead((seen["embeddings"].shape[1], *WIDTHS), bounded=True, probe=probe(encoder))
    head.to(torch.device(device))  # type: ignore[arg-type]

    def loss(step: int) -> Tensor:
        rows = torch.randint(len(seen["quality"]), (BATCH,), generator=rng_of(SEED, step)).to(device)
        return F.mse_loss(head(seen["embeddings"][rows]), seen["quality"][rows])

    if fit("quality", head, loss, steps, RATE, work, time_limit):
        head.save_pretrained(out)
    return out


@torch.no_grad()
def precompute(rounds: int, work: Path, device: str, autoencoder: Path) -> Path:
    """Embeddings of spoilt frames (n, d), and what is left of each (n,)."""
    path = work / "quality.run" / "spoilt.safetensors"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    embed, coder = _embedder(work / "image_text", device), load_coder(autoencoder, device)
    parts = []
    for number in range(rounds):
        frames, quality = spoilt_batch(SEED, number, ROUND, coder, device)
        parts.append((embed(frames), quality))
    embeddings, left = (torch.cat(some) for some in zip(*parts, strict=True))
    temporary = path.with_suffix(".tmp")
    save_file({"embeddings": embeddings, "quality": left}, temporary)
    os.replace(temporary, path)
    return path


def load_coder(folder: Path, device: str) -> Autoencoder:
    model = AutoencoderKLLTXVideo.from_pretrained(folder, torch_dtype=torch.float32)
    return LTXAutoencoder(model.requires_grad_(False).eval().to(device))


def _embedder(folder: Path, device: str) -> Callable[[Tensor], Tensor]:
    """Frames (B, 3, FRAME, FRAME) in [0, 1] => (B, d), by the frozen CLIP in a folder."""
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32).requires_grad_(False).eval()
    model.to(torch.device(device))  # type: ignore[arg-type]

    def embed(frames: Tensor) -> Tensor:
        seen = model.vision_model(normalise(frames.to(device), CLIP_MEAN, CLIP_STD)).pooler_output
        return model.visual_projection(seen)

    return embed


# ------------------------------------------------------------------------------------------------------------------
# Spoilt frames


def spoilt_batch(
    seed: int, step: int, batch: int, coder: Autoencoder, device: str, split: Split = "train"
) -> tuple[Tensor, Tensor]:
    """Frames (B, 3, FRAME, FRAME) in [0, 1], number i spoilt by kind i % len(KINDS), and what is left of each (B,)."""
    scenes = sample_scenes(seed, step * batch, batch, split)
    video = render(scenes, load_assets(), random_times(seed, step * batch, batch), (FRAME, FRAME), device, truth=False)
    true = video.video[:, 0].float() / 255
    frames, generator = true.clone(), rng_of(seed, step)
    with torch.no_grad():
        for i, kind in enumerate(KINDS.values()):
            rows = true[i :: len(KINDS)]
            strength = torch.rand(len(rows), 1, 1, 1, generator=generator).to(rows)
            frames[i :: len(KINDS)] = kind(rows, strength, generator, coder)
    frames = (frames.clamp(0, 1) * 255).round() / 255
    return frames, similarity(true, frames)


def similarity(first: Tensor, second: Tensor) -> Tensor:
    """SSIM of the brightness of (B, 3, H, W) in [0, 1] => (B,) in [0, 1]."""
    a, b = (frames.mean(dim=1, keepdim=True) for frames in (first, second))

    def mean(values: Tensor) -> Tensor:
        return F.avg_pool2d(values, WINDOW, stride=1)

    spread = mean(a * a) - mean(a) ** 2 + mean(b * b) - mean(b) ** 2
    together = mean(a * b) - mean(a) * mean(b)
    light = (2 * mean(a) * mean(b) + 1e-4) / (mean(a) ** 2 + mean(b) ** 2 + 1e-4)
    return (light * (2 * together + 9e-4) / (spread + 9e-4)).mean(dim=(1, 2, 3)).clamp(min=0)


def _true(frames: Tensor, strength: Tensor, generator: torch.Generator, coder: Autoencoder) -> Tensor:
    return frames


def _noisy(frames: Tensor, strength: Tensor, generator: torch.Generator, coder: Autoencoder) -> Tensor:
    return frames + NOISE * strength * torch.randn(frames.shape, generator=generator).to(frames)


def _shuffled(frames: Tensor, strength: Tensor, generator: torch.Generator, coder: Autoencoder) -> Tensor:
    patches = F.unfold(frames, PATCH, stride=PATCH)  # (B, values of a patch, patches)
    for row, share in zip(patches, strength.flatten().tolist(), strict=True):
        order = torch.randperm(row.shape[1], generator=generator)[: round(share * row.shape[1])]
        row[:, order] = row[:, order.roll(1)]
    return F.fold(patches, frames.shape[-2:], PATCH, stride=PATCH)


def _coded(frames: Tensor, strength: Tensor, generator: torch.Generator, coder: Autoencoder) -> Tensor:
    """Through the autoencoder, with noise upon the latents."""
    z = coder.encode(2 * frames[:, :, None] - 1)
    noise = torch.randn(z.shape, generator=generator).to(z)
    return (coder.decode(z + LATENT_NOISE * strength[..., None] * noise)[:, :, 0] + 1) / 2


def _compressed(frames: Tensor, strength: Tensor, generator: torch.Generator, coder: Autoencoder) -> Tensor:
    return compress(frames, generator)


Kind = Callable[[Tensor, Tensor, torch.Generator, Autoencoder], Tensor]  # strength (B, 1, 1, 1) in [0, 1]
KINDS: dict[str, Kind] = {
    "true": _true,
    "noisy": _noisy,
    "shuffled": _shuffled,
    "coded": _coded,
    "compressed": _compressed,
}

# ------------------------------------------------------------------------------------------------------------------
# How good it is


@torch.inference_mode()
def measure(work: Path, autoencoder: Path, device: str = "cpu", rounds: int = 6) -> dict[str, float]:
    """On held-out concepts: rank correlation of score and similarity, of all frames and of each kind's; and how often a
    true frame has a higher score than a spoilt one of another scene."""
    embed, coder = _embedder(work / "image_text", device), load_coder(autoencoder, device)
    head = QualityHead.from_pretrained(work / "quality").eval().to(device)
    parts = [spoilt_batch(178, step, ROUND, coder, device, "test_concept") for step in range(rounds)]
    scores = np.concatenate([head(embed(frames)).cpu().numpy().reshape(-1, len(KINDS)) for frames, _ in parts])
    truth = np.concatenate([quality.cpu().numpy().reshape(-1, len(KINDS)) for _, quality in parts])  # (rows, kinds)
    found = {"quality: rank correlation": rank_correlation(scores, truth)}
    for i, kind in enumerate(KINDS):
        if kind != "true":
            found[f"quality: rank correlation, {kind}"] = rank_correlation(scores[:, i], truth[:, i])
            found[f"quality: true above {kind}"] = float((scores[:, :1] > scores[:, i]).mean())
    return {name: round(value, 3) for name, value in found.items()}


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's; equal values keep the order that they came in."""
    a, b = (values.ravel().argsort(kind="stable").argsort().astype(float) for values in (first, second))
    return float(np.corrcoef(a, b)[0, 1])
