"""Role: video <-> latents (App. B.1: "CogVideoX-5B as the autoencoder with a compression rate of 4 x 8 x 8").

B batch · F frames · H,W pixels · C channels · f,h,w latent
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

CPU_BATCH = 4  # videos decoded at once on a CPU: memory of larger activations is given back, and cleared, every layer


class Autoencoder(Protocol):
    """F is temporal_ratio * k + 1; H and W are multiples of spatial_ratio. Latents have about unit variance."""

    @property
    def temporal_ratio(self) -> int: ...

    @property
    def spatial_ratio(self) -> int: ...

    def encode(self, video: Tensor) -> Tensor:
        """(B, 3, F, H, W) float in [-1, 1] => (B, C, f, h, w) float."""

    def decode(self, z: Tensor) -> Tensor:
        """(B, C, f, h, w) float => (B, 3, F, H, W) float in [-1, 1]."""


class _Normalised:
    """What the autoencoders of diffusers share: latents normalised by the statistics of their config."""

    def __init__(self, model: Any, temporal_ratio: int, spatial_ratio: int) -> None:
        self.model = model
        self.temporal_ratio = temporal_ratio
        self.spatial_ratio = spatial_ratio

    def encode(self, video: Tensor) -> Tensor:
        """The mode of the posterior, normalised."""
        num_frames, ratio = video.shape[2], self.temporal_ratio
        if num_frames % ratio != 1:
            nearest = max(0, round((num_frames - 1) / ratio)) * ratio + 1
            raise ValueError(f"{num_frames} frames; expected {ratio} * k + 1 for this autoencoder, nearest: {nearest}")
        z = self.model.encode(video.to(self.model.dtype)).latent_dist.mode()
        mean, std = self._statistics(z)
        return (z - mean) / std

    def decode(self, z: Tensor) -> Tensor:
        z = z.to(self.model.dtype)
        mean, std = self._statistics(z)
        parts = (z * std + mean).split(CPU_BATCH if z.device.type == "cpu" else len(z))
        return torch.cat([self.model.decode(part).sample for part in parts]).clamp(-1, 1)

    def _statistics(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the raw latents, a channel or overall, as far as the config knows them."""
        config = self.model.config
        if config.latents_mean is not None and config.latents_std is not None:
            return (
                z.new_tensor(config.latents_mean).view(1, -1, 1, 1, 1),
                z.new_tensor(config.latents_std).view(1, -1, 1, 1, 1),
            )
        return z.new_zeros(()), z.new_tensor(1 / config.scaling_factor)


class WanAutoencoder(_Normalised):
    """diffusers' AutoencoderKLWan."""

    def __init__(self, model: Any) -> None:
        super().__init__(model, model.config.scale_factor_temporal, model.config.scale_factor_spatial)


class LTXAutoencoder(_Normalised):
    """diffusers' AutoencoderKLLTXVideo, whose statistics are weights; only decoders that take no time step.

    Raises:
        ValueError: the decoder wants a time step.
    """

    def __init__(self, model: Any) -> None:
        if model.config.timestep_conditioning:
            raise ValueError("an autoencoder with timestep_conditioning; expected one that decodes without a time step")
        super().__init__(model, model.temporal_compression_ratio, model.spatial_compression_ratio)

    def _statistics(self, z: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (values.to(z).view(1, -1, 1, 1, 1) for values in (self.model.latents_mean, self.model.latents_std))
        return mean, std / self.model.config.scaling_factor


class CogVideoXAutoencoder(_Normalised):
    """diffusers' AutoencoderKLCogVideoX."""

    def __init__(self, model: Any) -> None:
        config = model.config
        super().__init__(model, int(config.temporal_compression_ratio), 2 ** (len(config.block_out_channels) - 1))

    def decode(self, z: Tensor) -> Tensor:
        num_frames = (z.shape[2] - 1) * self.temporal_ratio + 1
        if z.shape[2] % 2 == 0:
            # The decoder treats the first latent frame as one picture only where their number is odd; the network is
            # causal, so a repeated last frame, cut off again, completes an even number.
            z = torch.cat([z, z[:, :, -1:]], dim=2)
        return super().decode(z)[:, :, :num_frames]
