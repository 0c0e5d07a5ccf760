"""Role: video <-> latents (App. B.1: "CogVideoX-5B as the autoencoder with a compression rate of 4 x 8 x 8").

B batch · F frames · H,W pixels · C channels · f,h,w latent
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor


class Autoencoder(Protocol):
    """F is temporal_ratio * k + 1; H and W are multiples of spatial_ratio. Latents have about unit variance."""

    @property
    def temporal_ratio(self) -> int: ...

    @property
    def spatial_ratio(self) -> int: ...

    def encode(self, video: Tensor) -> Tensor:
        """(B, 3, F, H, W) float in [-1, 1] => (B, C, f, h, w) float."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """(B, C, f, h, w) float => (B, 3, F, H, W) float in [-1, 1]."""
        ...


class CogVideoXAutoencoder:
    """diffusers' AutoencoderKLCogVideoX; latents are scaled by its config."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @property
    def temporal_ratio(self) -> int:
        return int(self.model.config.temporal_compression_ratio)

    @property
    def spatial_ratio(self) -> int:
        return 2 ** (len(self.model.config.block_out_channels) - 1)

    def encode(self, video: Tensor) -> Tensor:
        """The mode of the posterior, normalised."""
        num_frames = video.shape[2]
        if num_frames % self.temporal_ratio != 1:
            k = max(0, round((num_frames - 1) / self.temporal_ratio))
            raise ValueError(
                f"{num_frames} frames; expected {self.temporal_ratio} * k + 1 for this autoencoder, "
                f"nearest: {self.temporal_ratio * k + 1}"
            )
        z = self.model.encode(video.to(self.model.dtype)).latent_dist.mode()
        mean, std = self._statistics(z)
        return (z - mean) / std

    def decode(self, z: Tensor) -> Tensor:
        z = z.to(self.model.dtype)
        mean, std = self._statistics(z)
        num_frames = (z.shape[2] - 1) * self.temporal_ratio + 1
        if z.shape[2] % 2 == 0:
            # The decoder treats the first latent frame as one picture only where their number is odd; the network is
            # causal, so a repeated last frame, cut off again, completes an even number.
            z = torch.cat([z, z[:, :, -1:]], dim=2)
        return self.model.decode(z * std + mean).sample[:, :, :num_frames].clamp(-1, 1)

    def _statistics(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the raw latents, a channel or overall, as far as the config knows them."""
        config = self.model.config
        if config.latents_mean is not None and config.latents_std is not None:
            return (
                z.new_tensor(config.latents_mean).view(1, -1, 1, 1, 1),
                z.new_tensor(config.latents_std).view(1, -1, 1, 1, 1),
            )
        return z.new_zeros(()), z.new_tensor(1 / config.scaling_factor)
