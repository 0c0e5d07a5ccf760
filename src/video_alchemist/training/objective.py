"""What the network learns: the rectified-flow velocity, with conditions dropped now and then (§3.2, App. B.2).

B batch · C channels · f, h, w latent · S text tokens · N reference images · L tokens of one image · W word_length
"""

from __future__ import annotations

import torch
from torch import Tensor

from video_alchemist.dataset.batch import Batch
from video_alchemist.flow import estimate_z0, interpolate, sample_times, velocity_target
from video_alchemist.model.binding import gather_word_tokens
from video_alchemist.model.transformer import AlchemistTransformer


def loss(
    transformer: AlchemistTransformer,
    batch: Batch,
    generator: torch.Generator,
    *,
    shift: float = 1.0,
    text_drop: float = 0.1,
    image_drop: float = 0.1,
    self_conditioning_probability: float = 0.9,
) -> tuple[Tensor, Tensor]:
    """Mean squared error of the velocity, and the times t it was asked at: two tensors (B,).

    Every draw comes from `generator`, on its own device: a CPU generator gives the same draws on every machine.
    A stage I transformer ignores the batch's images.
    """
    size, z0 = len(batch.z0), batch.z0

    def chosen(probability: float) -> Tensor:
        return (torch.rand(size, generator=generator, device=generator.device) < probability).to(z0.device)

    t = sample_times(size, shift, generator, generator.device).to(z0.device)               # (B,)
    noise = torch.randn(z0.shape, generator=generator, device=generator.device).to(z0)     # (B, C, f, h, w)
    without_text, without_images = chosen(text_drop), chosen(image_drop)                   # (B,), (B,)
    self_conditioned = chosen(self_conditioning_probability)                               # (B,)

    zt = interpolate(z0, noise, t)                                                         # (B, C, f, h, w)
    references = reference_mask = None
    if batch.image_tokens is not None and transformer.config["personalization"]:
        references, reference_mask = bind_batch(transformer, batch, without_images)
    text_mask = batch.text_mask & ~without_text[:, None]                                   # (B, S)

    def velocity_at(z0_estimate: Tensor | None) -> Tensor:
        return transformer(zt, t, batch.text_tokens, text_mask, references, reference_mask, z0_estimate)

    z0_estimate = None
    if transformer.config["self_conditioning"]:
        with torch.no_grad():
            z0_estimate = estimate_z0(zt, velocity_at(None).to(zt), t)
        z0_estimate = z0_estimate * self_conditioned.view(-1, 1, 1, 1, 1)
    error = velocity_at(z0_estimate).float() - velocity_target(z0, noise).float()          # (B, C, f, h, w)
    return error.square().flatten(1).mean(dim=1), t


def bind_batch(transformer: AlchemistTransformer, batch: Batch, without_images: Tensor) -> tuple[Tensor, Tensor]:
    """Personalization tokens (B, N * L, d) and their mask (B, N * L); `without_images` (B,) are masked whole.

    The word tokens are of the text as given: they belong to the image condition, so dropping text leaves them.
    """
    assert batch.image_tokens is not None
    words = None
    if transformer.config["word_binding"]:
        assert batch.word_index is not None
        words = gather_word_tokens(batch.text_tokens, batch.word_index)                    # (B, N, W * D_text)
    mask = ~without_images[:, None].expand(-1, batch.image_tokens.shape[1])                # (B, N)
    if batch.image_mask is not None:
        mask = mask & batch.image_mask
    return transformer.bind(batch.image_tokens, words, mask)
