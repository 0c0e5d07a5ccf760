"""What the network learns: the rectified-flow velocity, with conditions dropped now and then (§3.2, App. B.2).

B batch · C channels · f, h, w latent · S text tokens · N reference images · L tokens of one image · W word_length
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from video_alchemist.dataset.batch import Batch
from video_alchemist.flow import estimate_z0, interpolate, resolution_shift, sample_times, velocity_target
from video_alchemist.model.binding import gather_word_tokens
from video_alchemist.model.transformer import AlchemistTransformer
from video_alchemist.training.localization import localization_loss, log_weights, watched
from video_alchemist.training.mixed import mixed_precision


class Loss(NamedTuple):
    """Of every sample of a batch, (B,) each."""

    velocity: Tensor  # mean squared error, over latents as the batch weighs them
    t: Tensor  # the time it was asked at
    localization: Tensor  # see training/localization.py; 0 where it is not asked for


class Objective(nn.Module):
    """`loss` as a module: the root that the transformer's weights are sharded under (training/parallel.py)."""

    def __init__(self, transformer: AlchemistTransformer, mixed: bool = False, **options: Any) -> None:
        """mixed: see training/mixed.py."""
        super().__init__()
        self.transformer = transformer
        self.mixed = mixed
        self.options = options

    def forward(self, batch: Batch, generator: torch.Generator) -> Loss:
        with mixed_precision(batch.z0.device.type, self.mixed):
            return loss(self.transformer, batch, generator, **self.options)


def loss(
    transformer: AlchemistTransformer,
    batch: Batch,
    generator: torch.Generator,
    *,
    shift: float = 1.0,
    base_latent: tuple[int, int] | None = None,
    text_drop: float = 0.1,
    image_drop: float = 0.1,
    self_conditioning_probability: float = 0.9,
    localization: bool = False,
    dtype: torch.dtype | None = None,
) -> Loss:
    """What the transformer gets wrong at random times.

    Every draw comes from `generator`, on its own device: a CPU generator gives the same draws on every machine.
    A stage I transformer ignores the batch's images. base_latent: (width, height) of latents that `shift` is for.
    localization: also asks where attention to references looks, of batches that know the origin of their tokens.
    dtype: of what the network is given, times excepted; None = as the batch is.
    """
    size, z0 = len(batch.z0), batch.z0
    if base_latent is not None:
        shift = resolution_shift(z0.shape[4], z0.shape[3], base_latent, shift)

    def chosen(probability: float) -> Tensor:
        return (torch.rand(size, generator=generator, device=generator.device) < probability).to(z0.device)

    t = sample_times(size, shift, generator, generator.device).to(z0.device)               # (B,)
    noise = torch.randn(z0.shape, generator=generator, device=generator.device).to(z0)     # (B, C, f, h, w)
    without_text, without_images = chosen(text_drop), chosen(image_drop)                   # (B,), (B,)
    self_conditioned = chosen(self_conditioning_probability)                               # (B,)

    zt = interpolate(z0, noise, t)                                                         # (B, C, f, h, w)
    given = batch if dtype is None else batch.to(z0.device, dtype)
    text_tokens, text_mask = drop_text(given, without_text)                                # (B, S, D_text), (B, S)
    references = reference_mask = None
    if transformer.config["personalization"]:
        references, reference_mask = bind_batch(transformer, given, without_images)

    def velocity_at(z0_estimate: Tensor | None) -> Tensor:
        estimate = None if z0_estimate is None else z0_estimate.to(given.z0)
        return transformer(zt.to(given.z0), t, text_tokens, text_mask, references, reference_mask, estimate)

    localized = localization and references is not None and batch.origin is not None
    z0_estimate = None
    if transformer.config["self_conditioning"]:
        with torch.no_grad():
            z0_estimate = estimate_z0(zt, velocity_at(None).to(zt), t)
        z0_estimate = z0_estimate * self_conditioned.view(-1, 1, 1, 1, 1)
    with ExitStack() as watching:
        attention = watching.enter_context(watched(transformer)) if localized else []
        velocity = velocity_at(z0_estimate).float()                                        # (B, C, f, h, w)
    error = (velocity - velocity_target(z0, noise).float()).square().mean(dim=1)           # (B, f, h, w)
    if batch.weight is not None:
        error = error * (batch.weight / batch.weight.mean(dim=(1, 2, 3), keepdim=True))
    error = error.flatten(1).mean(dim=1)                                                   # (B,)
    misplaced = torch.zeros_like(error)
    if localized:
        assert batch.origin is not None
        misplaced = localization_loss(
            [log_weights(*one) for one in attention], batch.origin * ~without_images[:, None, None, None]
        )                                                                                  # (B,)
    return Loss(error, t, misplaced)


def drop_text(batch: Batch, without_text: Tensor) -> tuple[Tensor, Tensor]:
    """Text tokens (B, S, D_text) and mask (B, S); where `without_text` (B,) masked, or the batch's null text."""
    tokens, mask = batch.text_tokens, batch.text_mask
    if batch.null_text is None:
        return tokens, mask & ~without_text[:, None]
    null, length = batch.null_text, max(tokens.shape[1], batch.null_text.shape[1])
    shown = torch.arange(length, device=mask.device) < null.shape[1]                       # (S,)
    null = F.pad(null, (0, 0, 0, length - null.shape[1]))                                  # (1, S, D_text)
    tokens = F.pad(tokens, (0, 0, 0, length - tokens.shape[1]))                            # (B, S, D_text)
    mask = F.pad(mask, (0, length - mask.shape[1]))                                        # (B, S)
    return torch.where(without_text[:, None, None], null, tokens), torch.where(without_text[:, None], shown, mask)


def bind_batch(transformer: AlchemistTransformer, batch: Batch, without_images: Tensor) -> tuple[Tensor, Tensor]:
    """Personalization tokens (B, N * L, d) and their mask (B, N * L); `without_images` (B,) are masked whole.

    The word tokens are of the text as given: they belong to the image condition, so dropping text leaves them.
    A batch without images is bound to one that is masked: all ranks must have gradients of the same weights.
    """
    config, size = transformer.config, len(batch.z0)
    image_tokens, word_index, image_mask = batch.image_tokens, batch.word_index, batch.image_mask
    if image_tokens is None:
        image_tokens = batch.text_tokens.new_zeros(size, 1, 1, config["image_dim"])        # (B, 1, 1, d)
        word_index = torch.full((size, 1, config["word_length"]), -1, device=batch.text_mask.device)
        image_mask = batch.text_mask.new_zeros(size, 1)                                    # (B, 1)
    words = None
    if config["word_binding"]:
        assert word_index is not None
        words = gather_word_tokens(batch.text_tokens, word_index)                          # (B, N, W * D_text)
    mask = ~without_images[:, None].expand(-1, image_tokens.shape[1])                      # (B, N)
    return transformer.bind(image_tokens, words, mask if image_mask is None else mask & image_mask)
