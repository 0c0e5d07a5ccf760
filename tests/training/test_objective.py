"""The loss in closed form, and the drops of conditions as frequencies."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from video_alchemist.flow import estimate_z0
from video_alchemist.training.objective import loss


class Spy(nn.Module):
    """Stands where the transformer stands; answers with the true velocity of z0 = 0 and notes what it was given."""

    def __init__(self, self_conditioning: bool = False) -> None:
        super().__init__()
        self.config = {"personalization": True, "word_binding": True, "self_conditioning": self_conditioning}
        self.calls: list[SimpleNamespace] = []

    def bind(self, image_tokens: Tensor, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        self.words = words
        return image_tokens.flatten(1, 2), mask.repeat_interleave(image_tokens.shape[2], dim=1)

    def forward(self, z, t, text_tokens, text_mask, references, reference_mask, z0_estimate) -> Tensor:  # type: ignore
        seen = {"tokens": text_tokens, "text": text_mask, "images": reference_mask, "z0_estimate": z0_estimate}
        self.calls.append(SimpleNamespace(**seen, t=t, z=z))
        return z / t.view(-1, 1, 1, 1, 1)


def zero_z0(batch, size: int, with_images: bool = True):
    made = batch(size, torch.Generator().manual_seed(1), with_images)
    made.z0.zero_()
    return made


def test_perfect_velocity_costs_nothing(batch) -> None:
    """Guards against a target of the wrong sign or mix: where z0 = 0, velocity = noise = zt / t."""
    losses, t, _ = loss(Spy(), zero_z0(batch, 8), torch.Generator().manual_seed(0))
    assert losses.shape == t.shape == (8,)
    assert losses.max() < 1e-8


def test_zero_velocity_costs_the_mean_square(batch, transformer) -> None:
    """Guards against a sum in the place of the mean: a new network says 0, and E (noise - z0)^2 = 1 + 1."""
    losses, *_ = loss(transformer(), batch(512, torch.Generator().manual_seed(0), False), torch.Generator())
    assert losses.mean().item() == pytest.approx(2, rel=0.03)


def test_latents_count_as_their_batch_says(batch, transformer) -> None:
    """Guards against a weight that is ignored, laid over the wrong latents, or that changes the size of the loss."""
    made, network = batch(4, torch.Generator().manual_seed(1), False), transformer()

    def error(weight: Tensor | None) -> Tensor:
        return loss(network, dataclasses.replace(made, weight=weight), torch.Generator().manual_seed(0)).velocity

    shape = (len(made.z0), *made.z0.shape[2:])
    left = torch.zeros(shape)
    left[..., : shape[-1] // 2] = 1
    assert torch.allclose(error(torch.full(shape, 3.0)), error(None))
    assert torch.allclose((error(left) + error(1 - left)) / 2, error(None))
    assert not torch.allclose(error(left), error(None))


def test_conditions_drop_independently_at_their_rates(batch) -> None:
    """Guards against one coin for both conditions, or one for the whole batch: 10 %, 20 % and 2 % of 10,000."""
    spy, size = Spy(), 10_000
    loss(spy, zero_z0(batch, size), torch.Generator().manual_seed(0), text_drop=0.1, image_drop=0.2)
    no_text, no_images = ~spy.calls[0].text.any(1), ~spy.calls[0].images.any(1)
    assert no_text.float().mean().item() == pytest.approx(0.1, abs=0.015)
    assert no_images.float().mean().item() == pytest.approx(0.2, abs=0.02)
    assert (no_text & no_images).float().mean().item() == pytest.approx(0.02, abs=0.007)
    assert torch.equal(spy.calls[0].text.all(1), ~no_text)


def test_dropped_text_keeps_the_word_tokens(batch) -> None:
    """Guards against word tokens gathered from text that is dropped already: they belong to the image condition."""
    spy, made = Spy(), zero_z0(batch, 3)
    loss(spy, made, torch.Generator(), text_drop=1.0, image_drop=0.0)
    assert not spy.calls[0].text.any() and spy.calls[0].images.all()
    assert torch.equal(spy.words[:, 0], made.text_tokens[:, :2].flatten(1))
    assert torch.equal(spy.words[:, 1], torch.cat([made.text_tokens[:, 3], torch.zeros(3, 8)], dim=1))


def test_self_conditioning_feeds_the_estimate_to_its_share(batch) -> None:
    """Guards against an estimate for all or none, at the wrong time, or with a gradient."""
    spy = Spy(self_conditioning=True)
    loss(spy, zero_z0(batch, 2000), torch.Generator().manual_seed(0), self_conditioning_probability=0.9)
    first, second = spy.calls
    assert first.z0_estimate is None and not second.z0_estimate.requires_grad
    expected = estimate_z0(first.z, first.z / first.t.view(-1, 1, 1, 1, 1), first.t)
    fed = second.z0_estimate.flatten(1).any(1)
    assert torch.equal(second.z0_estimate[fed], expected[fed])
    assert fed.float().mean().item() < 0.93


def test_dropped_text_becomes_the_null_text(batch) -> None:
    """Guards against zeros where a model was trained with the encoding of "", which may be longer than any text."""
    made = batch(2000, torch.Generator().manual_seed(1))
    null = torch.arange(56.0).view(1, 7, 8)
    spy = Spy()
    loss(spy, dataclasses.replace(made, null_text=null), torch.Generator().manual_seed(0), text_drop=0.1)
    tokens, mask = spy.calls[0].tokens, spy.calls[0].text
    dropped = mask.all(dim=1)
    assert 0.05 < dropped.float().mean() < 0.15
    assert torch.equal(tokens[dropped], null.expand(int(dropped.sum()), -1, -1))
    assert torch.equal(tokens[~dropped][:, :5], made.text_tokens[~dropped]) and not mask[~dropped][:, 5:].any()


def test_shift_grows_with_the_latents(batch) -> None:
    """Guards against one time shift for all buckets (App. B.3): four times the area, twice the shift."""
    times = []
    for options in ({"shift": 3.0}, {"shift": 1.5, "base_latent": (2, 2)}, {"shift": 3.0, "base_latent": (4, 4)}):
        times.append(loss(Spy(), zero_z0(batch, 8), torch.Generator().manual_seed(0), **options)[1])
    assert torch.equal(times[0], times[1]) and torch.equal(times[0], times[2])


def test_batches_without_images_give_the_same_gradients(batch, transformer) -> None:
    """Guards against a rank whose batch has no pictures and so no gradient where the others wait for one; it is 0."""
    network = transformer(personalization=True)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05)
    losses, *_ = loss(network, batch(2, torch.Generator().manual_seed(0), False), torch.Generator().manual_seed(0))
    losses.mean().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
    assert all(not parameter.grad.any() for _, parameter in network.personalization_parameters())


def test_self_conditioning_trains_every_weight_in_half_precision(batch, transformer) -> None:
    """Guards against weights that the first pass, without gradients, takes out of the second; and t is never cast."""
    network = transformer(personalization=True, self_conditioning=True)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05)
    made = batch(2, torch.Generator().manual_seed(0))
    losses, t, _ = loss(network.bfloat16(), made, torch.Generator().manual_seed(0), dtype=torch.bfloat16)
    losses.mean().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
    assert (losses.dtype, t.dtype) == (torch.float32, torch.float32)


@pytest.mark.parametrize("with_images", [True, False])
def test_stage_one_ignores_images(batch, transformer, with_images) -> None:
    """Guards against a stage I transformer that is asked to bind, and a batch without images that is refused."""
    losses, *_ = loss(transformer(), batch(2, torch.Generator().manual_seed(0), with_images), torch.Generator())
    assert torch.isfinite(losses).all()


def test_same_generator_same_loss(batch, transformer) -> None:
    """Guards against a draw that does not come from the generator."""
    made, network = batch(4, torch.Generator().manual_seed(0)), transformer(personalization=True)
    torch.nn.init.normal_(network.final_layer.linear.weight)
    first, second, third = (loss(network, made, torch.Generator().manual_seed(s))[0] for s in (0, 0, 1))
    assert torch.equal(first, second) and not torch.equal(first, third)
