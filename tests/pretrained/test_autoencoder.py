"""The autoencoder's role, played by diffusers' classes with random weights."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, AutoencoderKLLTXVideo, AutoencoderKLWan

from video_alchemist.pretrained.autoencoder import CPU_BATCH, CogVideoXAutoencoder, LTXAutoencoder, WanAutoencoder
from video_alchemist.pretrained.roles import autoencoder_role


@pytest.fixture(scope="module")
def model() -> AutoencoderKLCogVideoX:
    torch.manual_seed(0)
    return AutoencoderKLCogVideoX(
        block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=2, latent_channels=4, scaling_factor=0.7
    ).eval()


@pytest.mark.parametrize("num_frames", [1, 5, 9, 13, 17])
@torch.no_grad()
def test_shapes(model: AutoencoderKLCogVideoX, num_frames: int) -> None:
    """Guards against even numbers of latent frames, of which the bare decoder makes 4 f frames, not 4 (f - 1) + 1."""
    autoencoder = CogVideoXAutoencoder(model)
    assert (autoencoder.temporal_ratio, autoencoder.spatial_ratio) == (4, 8)
    z = autoencoder.encode(torch.rand(1, 3, num_frames, 16, 24) * 2 - 1)
    assert z.shape == (1, 4, (num_frames - 1) // 4 + 1, 2, 3)
    video = autoencoder.decode(z)
    assert video.shape == (1, 3, num_frames, 16, 24)
    assert float(video.abs().max()) <= 1


@torch.no_grad()
def test_scaling_is_undone(model: AutoencoderKLCogVideoX) -> None:
    """Guards against a factor applied twice, or the wrong way around: decoding sees the posterior's mode."""
    autoencoder, video = CogVideoXAutoencoder(model), torch.rand(1, 3, 1, 16, 16) * 2 - 1
    mode = model.encode(video).latent_dist.mode()
    torch.testing.assert_close(autoencoder.encode(video), mode * 0.7)
    torch.testing.assert_close(autoencoder.decode(autoencoder.encode(video)), model.decode(mode).sample.clamp(-1, 1))


@torch.no_grad()
def test_videos_decoded_a_few_at_a_time_keep_their_order(model: AutoencoderKLCogVideoX) -> None:
    """Guards against videos lost or exchanged where a batch is no multiple of what a CPU decodes at once."""
    autoencoder, z = CogVideoXAutoencoder(model), torch.randn(CPU_BATCH + 1, 4, 2, 2, 2)
    together = autoencoder.decode(z)
    for video, one in zip(together, z, strict=True):
        torch.testing.assert_close(video, autoencoder.decode(one[None])[0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_statistics_a_channel() -> None:
    """Guards against a config's mean and deviation being ignored: latents would not have unit variance."""
    torch.manual_seed(0)
    statistics = {"latents_mean": [1.0, 2.0, 3.0, 4.0], "latents_std": [0.5, 1.0, 2.0, 4.0]}
    model = AutoencoderKLCogVideoX(
        block_out_channels=(4, 4, 4, 4), layers_per_block=1, norm_num_groups=2, latent_channels=4, **statistics
    ).eval()
    video = torch.rand(1, 3, 1, 16, 16)
    mode = model.encode(video).latent_dist.mode()
    z = CogVideoXAutoencoder(model).encode(video)
    torch.testing.assert_close(z[:, 3], (mode[:, 3] - 4) / 4)


def test_wrong_number_of_frames(model: AutoencoderKLCogVideoX) -> None:
    with pytest.raises(ValueError, match=r"8 frames; expected 4 \* k \+ 1 for this autoencoder, nearest: 9"):
        CogVideoXAutoencoder(model).encode(torch.zeros(1, 3, 8, 16, 16))


@pytest.fixture(scope="module")
def wan() -> AutoencoderKLWan:
    torch.manual_seed(0)
    return AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1).eval()


@pytest.mark.parametrize("num_frames", [1, 5, 9])
@torch.no_grad()
def test_wan(wan: AutoencoderKLWan, num_frames: int) -> None:
    """Guards against latents that are not normalised by the config's 16 means and deviations, or not undone."""
    autoencoder = autoencoder_role(wan)
    assert isinstance(autoencoder, WanAutoencoder)
    assert (autoencoder.temporal_ratio, autoencoder.spatial_ratio) == (4, 8)
    video = torch.rand(1, 3, num_frames, 16, 24) * 2 - 1
    z = autoencoder.encode(video)
    assert z.shape == (1, 16, (num_frames - 1) // 4 + 1, 2, 3)
    raw = wan.encode(video).latent_dist.mode()
    torch.testing.assert_close(z[:, 5], (raw[:, 5] - 0.9653) / 1.7708)
    assert autoencoder.decode(z).shape == video.shape
    torch.testing.assert_close(autoencoder.decode(z), wan.decode(raw).sample, atol=1e-5, rtol=1e-4)


def ltx(**options) -> AutoencoderKLLTXVideo:
    torch.manual_seed(0)
    return AutoencoderKLLTXVideo(
        latent_channels=4,
        block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        down_block_types=("LTXVideoDownBlock3D",) * 2,
        layers_per_block=(1,) * 3,
        decoder_layers_per_block=(1,) * 3,
        spatio_temporal_scaling=(True,) * 2,
        decoder_spatio_temporal_scaling=(True,) * 2,
        decoder_inject_noise=(False,) * 3,
        upsample_residual=(False,) * 2,
        upsample_factor=(1,) * 2,
        patch_size=2,
        **options,
    ).eval()


@pytest.mark.parametrize("num_frames", [1, 5, 9, 17])
@torch.no_grad()
def test_ltx(num_frames: int) -> None:
    """Guards against LTX-Video's statistics being looked for in the config: they are among the weights, and the factor
    of the config comes on top."""
    model = ltx(scaling_factor=0.5)
    model.latents_mean[1], model.latents_std[1] = 0.75, 2.0
    autoencoder = autoencoder_role(model)
    assert isinstance(autoencoder, LTXAutoencoder)
    assert (autoencoder.temporal_ratio, autoencoder.spatial_ratio) == (4, 8)
    video = torch.rand(1, 3, num_frames, 16, 24) * 2 - 1
    z = autoencoder.encode(video)
    assert z.shape == (1, 4, (num_frames - 1) // 4 + 1, 2, 3)
    raw = model.encode(video).latent_dist.mode()
    torch.testing.assert_close(z[:, 1], (raw[:, 1] - 0.75) / 2.0 * 0.5)
    assert autoencoder.decode(z).shape == video.shape
    torch.testing.assert_close(autoencoder.decode(z), model.decode(raw).sample.clamp(-1, 1), atol=1e-5, rtol=1e-4)


def test_ltx_that_denoises_in_decoding() -> None:
    """LTX-Video's later decoders take a time step, which nobody here gives them."""
    with pytest.raises(ValueError, match="timestep_conditioning; expected one that decodes without a time step"):
        autoencoder_role(ltx(timestep_conditioning=True))


def test_roles_go_by_class(model: AutoencoderKLCogVideoX) -> None:
    """Guards against latents that are normalised as another class's."""
    assert isinstance(autoencoder_role(model), CogVideoXAutoencoder)
    with pytest.raises(ValueError, match="autoencoder Linear; expected one of AutoencoderKLCogVideoX, AutoencoderKLW"):
        autoencoder_role(torch.nn.Linear(1, 1))
