"""The autoencoder's closed-form start, against principal components worked out plainly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX
from einops import rearrange
from torch import Tensor

from video_alchemist.emojiworld.recipes import autoencoder
from video_alchemist.emojiworld.recipes.components import start_well
from video_alchemist.emojiworld.recipes.scale import SMALL
from video_alchemist.emojiworld.recipes.world import clip_times, make_batch, sample_scenes
from video_alchemist.pretrained.autoencoder import LTXAutoencoder

SIZE, CHANNELS = (32, 32), 24


def psnr(video: Tensor, decoded: Tensor) -> float:
    return float(-10 * ((video - decoded) / 2).square().mean().log10())


@torch.no_grad()
def test_begins_as_principal_components() -> None:
    """Guards against a layer of the closed form that loses or mixes up channels: it has to come within a decibel of
    the plain components of 4x8x8 blocks, and random weights are at some 6 dB."""
    video = make_batch(sample_scenes(1, 0, 48), clip_times(9), SIZE).video
    rest = rearrange(video[:, :, 1:], "b c (f r) (h p) (w q) -> (b f h w) (c r p q)", r=4, p=8, q=8)
    centred = rest - rest.mean(dim=0)
    components = torch.linalg.svd(centred, full_matrices=False).Vh[:CHANNELS]
    plain = psnr(rest, centred @ components.T @ components + rest.mean(dim=0))

    torch.manual_seed(0)
    model = autoencoder.build(replace(SMALL, size=SIZE, latent_channels=CHANNELS)).eval()
    role = LTXAutoencoder(model)
    assert psnr(video, role.decode(role.encode(video))) < 12
    start_well(model, video)
    decoded = role.decode(role.encode(video))
    assert psnr(video[:, :, 1:], decoded[:, :, 1:]) > plain - 1
    assert psnr(video[:, :, :1], decoded[:, :, :1]) > plain  # the first frame has a latent of its own

    for parameter in model.parameters():  # as the bundle ships it; large weights that cancel would cost 6 dB
        parameter.copy_(parameter.bfloat16())
    rounded = role.decode(role.encode(video))
    assert psnr(decoded, rounded) > plain + 10


@torch.no_grad()
def test_fine_channels_are_quiet() -> None:
    """Guards against a mean that stays, and against channels made alike: coarse ones must rise from the noise first."""
    torch.manual_seed(0)
    scale = replace(SMALL, size=SIZE, latent_channels=CHANNELS)
    model = autoencoder.build(scale).eval()
    video = make_batch(sample_scenes(3, 0, autoencoder.VARIANCE_CLIPS), clip_times(17), SIZE).video
    start_well(model, video[:48])
    raw = torch.cat([model.encode(part).latent_dist.mode() for part in video.split(16)]).std(dim=(0, 2, 3, 4))
    autoencoder.set_statistics(model, scale, "cpu")
    z = torch.cat([LTXAutoencoder(model).encode(part) for part in video.split(16)])
    deviation = z.std(dim=(0, 2, 3, 4))
    torch.testing.assert_close(z.mean(dim=(0, 2, 3, 4)), torch.zeros(CHANNELS), atol=1e-3, rtol=0)
    torch.testing.assert_close(deviation / deviation.max(), (raw / raw.max()).square(), atol=1e-3, rtol=1e-3)
    assert 2 < deviation.max() < 5


def test_a_working_folder_of_before_is_refused(tmp_path: Path) -> None:
    """Guards against CogVideoX's weights that are taken for LTX-Video's: diffusers draws what it misses at random."""
    sizes = {"block_out_channels": (4, 4, 4, 4), "layers_per_block": 1, "norm_num_groups": 2, "latent_channels": 4}
    AutoencoderKLCogVideoX(**sizes).save_pretrained(tmp_path / "autoencoder")
    with pytest.raises(ValueError, match="holds an AutoencoderKLCogVideoX, of an earlier version; expected an empty"):
        autoencoder.train(SMALL, tmp_path, "cpu", None)
