"""The shipped autoencoder: 4x8x8 as the paper's (App. B.1), 48 channels, of LTX-Video's class.

CogVideoX's class, which the paper names, means frames before it reads them apart, and works on every pixel: on two
cores it came no further than the principal components of its 16 channels. This one begins as those of 48.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from torch import Tensor

from video_alchemist.emojiworld.recipes.components import start_well
from video_alchemist.emojiworld.recipes.fit import fit, rng_of
from video_alchemist.emojiworld.recipes.scale import Scale
from video_alchemist.emojiworld.recipes.world import clip_times, make_batch, sample_scenes
from video_alchemist.emojiworld.scenes import Split
from video_alchemist.pretrained.autoencoder import LTXAutoencoder

KL_WEIGHT = 1e-6
SQUARED_WEIGHT = 6.0
LEARNING_RATE = 4e-4  # it begins well: a larger one undoes that first
NUM_TRAIN_FRAMES = 9
TEST_SEED = 900_000
START_CLIPS, VARIANCE_CLIPS = 96, 128


def build(scale: Scale) -> AutoencoderKLLTXVideo:
    stages = len(scale.autoencoder["decoder_block_out_channels"])
    return AutoencoderKLLTXVideo(
        latent_channels=scale.latent_channels,
        patch_size=2,
        down_block_types=("LTXVideo095DownBlock3D",) * stages,
        downsample_type=("spatiotemporal",) * stages,
        spatio_temporal_scaling=(True,) * stages,
        decoder_spatio_temporal_scaling=(True,) * stages,
        layers_per_block=(1,) * (stages + 1),
        decoder_layers_per_block=(1,) * (stages + 1),
        decoder_inject_noise=(False,) * (stages + 1),
        upsample_residual=(False,) * stages,
        upsample_factor=(2,) * stages,
        **scale.autoencoder,
    )


def random_crop(video: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """The same window of every clip: (B, 3, F, H, W) => (B, 3, F, size, size)."""
    top = int(torch.randint(video.shape[-2] - size + 1, (), generator=generator))
    left = int(torch.randint(video.shape[-1] - size + 1, (), generator=generator))
    return video[..., top : top + size, left : left + size]


def reconstruct(model: AutoencoderKLLTXVideo, video: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
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
        kind = AutoencoderKLLTXVideo.load_config(out)["_class_name"]
        if kind != AutoencoderKLLTXVideo.__name__:  # diffusers would load it with weights drawn at random
            raise ValueError(f"{out} holds an {kind}, of an earlier version; expected an empty working folder (--work)")
        return out
    torch.manual_seed(0)
    model = build(scale)
    if not (work / "autoencoder.run" / "checkpoint.safetensors").exists():
        start_well(model, make_batch(sample_scenes(1, 0, START_CLIPS), clip_times(scale.num_frames), scale.size).video)
    model.to(device)  # type: ignore[arg-type]  # diffusers' decorator hides the types

    def loss(step: int) -> Tensor:
        generator = rng_of(0, step)
        scenes = sample_scenes(2, step * scale.autoencoder_batch, scale.autoencoder_batch)
        start = torch.rand((), generator=generator) * 0.5
        times = start + clip_times(scale.num_frames)[:NUM_TRAIN_FRAMES]
        video = random_crop(make_batch(scenes, times, scale.size, device=device).video, scale.crop, generator)
        decoded, kl = reconstruct(model, video, generator)
        # Most pixels stand still: without the last term what moves is smeared over the four frames of a latent.
        return (
            F.l1_loss(decoded, video)
            + SQUARED_WEIGHT * F.mse_loss(decoded, video)
            + KL_WEIGHT * kl
            + F.l1_loss(decoded.diff(dim=2), video.diff(dim=2))
        )

    done = fit(
        "autoencoder",
        model,
        loss,
        scale.autoencoder_steps,
        LEARNING_RATE,
        work,
        time_limit,
        sheet=lambda: sheet(model, scale, device),
    )
    if done:
        set_statistics(model, scale, device)
        model.save_pretrained(out)
    return out


@torch.no_grad()
def set_statistics(model: AutoencoderKLLTXVideo, scale: Scale, device: str) -> None:
    """Writes the latents' mean and what they are divided by: the more, the less of the picture a channel carries.

    As pixels' waves do, coarse channels then rise from the noise long before fine ones, and what few steps leave open
    stays smooth. Where channels are more alike, much of the noise that the last step begins with is drawn as grain.
    """
    z = torch.cat(
        [
            model.encode(make_batch(sample_scenes(3, i, 16), clip_times(17), scale.size, device=device).video)
            .latent_dist.mode()
            for i in range(0, VARIANCE_CLIPS, 16)
        ]
    )
    model.latents_mean.copy_(z.mean(dim=(0, 2, 3, 4)))
    variance = z.var(dim=(0, 2, 3, 4))
    model.latents_std.copy_(variance.mean().sqrt() * (variance.max() / variance).sqrt())


@torch.no_grad()
def psnr(model: AutoencoderKLLTXVideo, scale: Scale, num_clips: int = 64, device: str = "cpu") -> dict[str, float]:
    """Peak signal-to-noise ratio in dB, averaged over held-out clips and over held-out pictures."""
    autoencoder = LTXAutoencoder(model)
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
def sheet(model: AutoencoderKLLTXVideo, scale: Scale, device: str) -> Tensor:
    """Held-out clips above their reconstructions: (rows, columns, 3, H, W) in [0, 1]."""
    video = make_batch(sample_scenes(TEST_SEED, 0, 4, "test_concept"), clip_times(9), scale.size, device=device).video
    decoded = model.decode(model.encode(video).latent_dist.mode()).sample
    pairs = torch.stack([video, decoded], dim=1).flatten(0, 1)  # (8, 3, F, H, W)
    return (pairs.transpose(1, 2).clamp(-1, 1) / 2 + 0.5).cpu()
