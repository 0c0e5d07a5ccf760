"""The shipped autoencoder: CogVideoX's class (App. B.1: 4x8x8, 16 channels), first on pictures, then on clips."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX
from torch import Tensor

from video_alchemist.emojiworld.recipes.fit import fit, rng_of
from video_alchemist.emojiworld.recipes.scale import Scale
from video_alchemist.emojiworld.recipes.world import clip_times, make_batch, random_times, sample_scenes
from video_alchemist.emojiworld.scenes import Split
from video_alchemist.pretrained.autoencoder import CogVideoXAutoencoder, collapsed_time

KL_WEIGHT = 1e-6
NUM_TRAIN_FRAMES = 9
TEST_SEED = 900_000
VARIANCE_CLIPS = 128


def build(scale: Scale) -> AutoencoderKLCogVideoX:
    height, width = scale.size
    return AutoencoderKLCogVideoX(
        latent_channels=scale.latent_channels,
        sample_height=2 * height,
        sample_width=2 * width,
        scaling_factor=1.0,
        **scale.autoencoder,
    )


def random_crop(video: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """The same window of every clip: (B, 3, F, H, W) => (B, 3, F, size, size)."""
    top = int(torch.randint(video.shape[-2] - size + 1, (), generator=generator))
    left = int(torch.randint(video.shape[-1] - size + 1, (), generator=generator))
    return video[..., top : top + size, left : left + size]


def reconstruct(model: AutoencoderKLCogVideoX, video: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A sample of the posterior, decoded, and the posterior's divergence a latent value."""
    posterior = model.encode(video).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator).to(posterior.mean)
    return model.decode(posterior.mean + posterior.std * noise).sample, posterior.kl().mean() / posterior.mean[
        0
    ].numel()


def train(scale: Scale, work: Path, device: str, time_limit: float | None) -> Path:
    """Trains from where it stands; returns the folder of the finished autoencoder."""
    out = work / "autoencoder"
    if (out / "config.json").exists():
        return out
    torch.manual_seed(0)
    model = build(scale).to(device)  # type: ignore[arg-type]  # diffusers' decorator hides the types
    image_batch, clip_batch = scale.autoencoder_batch

    def loss(step: int) -> Tensor:
        generator = rng_of(0, step)
        if step < scale.autoencoder_image_steps:
            scenes = sample_scenes(1, step * image_batch // 2, image_batch // 2)
            times = torch.cat([random_times(i, step, len(scenes)) for i in range(2)], dim=1)
            video = make_batch(scenes, times, scale.size, device=device).video.transpose(1, 2).flatten(0, 1)[:, :, None]
            video = random_crop(video, scale.crop, generator)
            with collapsed_time():
                decoded, kl = reconstruct(model, video, generator)
        else:
            scenes = sample_scenes(2, step * clip_batch, clip_batch)
            start = torch.rand((), generator=generator) * 0.5
            times = start + clip_times(scale.num_frames)[:NUM_TRAIN_FRAMES]
            video = random_crop(make_batch(scenes, times, scale.size, device=device).video, scale.crop, generator)
            decoded, kl = reconstruct(model, video, generator)
        value = F.l1_loss(decoded, video) + 2 * F.mse_loss(decoded, video) + KL_WEIGHT * kl
        if video.shape[2] > 1:
            # Most pixels stand still: without this term what moves is smeared over the four frames of a latent.
            value = value + F.l1_loss(decoded.diff(dim=2), video.diff(dim=2))
        return value

    steps = scale.autoencoder_image_steps + scale.autoencoder_clip_steps
    done = fit("autoencoder", model, loss, steps, 1.5e-3, work, time_limit, sheet=lambda: sheet(model, scale, device))
    if done:
        set_unit_variance(model, scale, device)
        model.save_pretrained(out)
    return out


@torch.no_grad()
def set_unit_variance(model: AutoencoderKLCogVideoX, scale: Scale, device: str) -> None:
    """Writes the latents' mean and deviation a channel into the config: diffusion wants unit variance."""
    z = torch.cat(
        [
            model.encode(make_batch(sample_scenes(3, i, 16), clip_times(17), scale.size, device=device).video)
            .latent_dist.mode()
            .cpu()
            for i in range(0, VARIANCE_CLIPS, 16)
        ]
    )
    mean, std = z.mean(dim=(0, 2, 3, 4)), z.std(dim=(0, 2, 3, 4))
    model.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())


@torch.no_grad()
def psnr(model: AutoencoderKLCogVideoX, scale: Scale, num_clips: int = 64, device: str = "cpu") -> dict[str, float]:
    """Peak signal-to-noise ratio in dB, averaged over held-out clips and over held-out pictures."""
    autoencoder = CogVideoXAutoencoder(model)
    values: dict[str, list[float]] = {"clips": [], "pictures": []}
    for i in range(0, num_clips, 8):
        split: Split = "test_concept" if i % 16 else "test_artist"
        video = make_batch(sample_scenes(TEST_SEED, i, 8, split), clip_times(scale.num_frames), scale.size).video
        for name, part in (("clips", video), ("pictures", video[:, :, :1])):
            decoded = autoencoder.decode(autoencoder.encode(part.to(device))).clamp(-1, 1).cpu()
            error = ((decoded - part) / 2).pow(2).mean(dim=(1, 2, 3, 4))
            values[name] += (-10 * error.log10()).tolist()
    return {name: sum(numbers) / len(numbers) for name, numbers in values.items()}


@torch.no_grad()
def sheet(model: AutoencoderKLCogVideoX, scale: Scale, device: str) -> Tensor:
    """Held-out clips above their reconstructions: (rows, columns, 3, H, W) in [0, 1]."""
    video = make_batch(sample_scenes(TEST_SEED, 0, 4, "test_concept"), clip_times(9), scale.size, device=device).video
    decoded = model.decode(model.encode(video).latent_dist.mode()).sample
    pairs = torch.stack([video, decoded], dim=1).flatten(0, 1)  # (8, 3, F, H, W)
    return (pairs.transpose(1, 2).clamp(-1, 1) / 2 + 0.5).cpu()
