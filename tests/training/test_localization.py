"""Teaching attention where to look: the loss in closed form, and that it is learned from."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from video_alchemist.model.attention import CrossAttention, as_context
from video_alchemist.training.localization import localization_loss, log_weights, watched
from video_alchemist.training.objective import loss


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


@pytest.mark.parametrize("qk_norm", [None, "per_head"])
def test_the_weights_are_those_attention_uses(qk_norm: str | None) -> None:
    """Guards against teaching weights that the network does not compute with: scale, norms and mask must be its own."""
    torch.manual_seed(0)
    attention = CrossAttention(12, 8, 2, qk_norm)
    x, tokens = torch.randn(2, 5, 12), torch.randn(2, 4, 8)
    context = as_context(tokens, torch.tensor([[True, True, False, False], [True, True, True, True]]))
    assert context is not None
    seen = attention.key_value(context)
    queries = attention.q_norm(attention.q(x).unflatten(-1, (2, -1)))
    weights = log_weights(queries, seen).exp()
    attended = (weights @ seen.value).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention.out(attended), attention(x, [seen]))
    assert weights[0, :, :, 2:].max() == 0


def test_the_loss_of_known_attention() -> None:
    """Guards against a sum where a mean belongs: even attention to S tokens costs log S whatever else there is, right
    attention nothing, and a token without origin does not count."""
    origin = torch.zeros(2, 3, 1, 4)
    origin[0, 0, 0, 1] = origin[0, 2, 0, 3] = 1.0  # sample 1, and token 1, are of no reference
    even = torch.full((2, 2, 3, 4), math.log(1 / 4))
    losses = localization_loss([even, even], origin)
    assert losses.mean().item() == pytest.approx(math.log(4)) and losses[1] == 0
    right = torch.where(origin > 0, 0.0, -50.0).movedim(2, 1)
    assert localization_loss([right], origin).abs().max() == 0
    assert localization_loss([even], torch.zeros_like(origin)).abs().max() == 0


def test_every_head_has_its_cell() -> None:
    """Guards against all heads taught the same place, whose mean colour is all they could bring: three heads of two
    blocks take four cells in turn."""
    cells = F.one_hot(torch.tensor([2, 0, 3, 1]), 4).float()                               # (C, N * L)
    origin = cells.expand(2, 5, 4, 4)
    heads = torch.where(cells[torch.tensor([0, 1, 2, 3, 0, 1])] > 0, 0.0, -50.0)[None, :, None].expand(2, 6, 5, 4)
    assert localization_loss([heads[:, :3], heads[:, 3:]], origin).abs().max() == 0
    assert localization_loss([heads[:, :3], heads[:, :3]], origin).mean().item() == pytest.approx(25.0)  # three of six


def with_origin(made):
    """A batch of which every video token is of its second picture's first token."""
    tokens, (num_images, num_tokens) = made.z0[0, 0].numel() // 4, made.image_tokens.shape[1:3]
    origin = F.one_hot(torch.tensor(num_tokens), num_images * num_tokens)
    return dataclasses.replace(made, origin=origin.float().expand(len(made.z0), tokens, 2, -1))


def test_dropped_images_are_not_asked_for(batch, transformer) -> None:
    """Guards against teaching attention to pictures that a sample does not see, which is noise of any size."""
    network, made = transformer(personalization=True), with_origin(batch(4, seed(0)))
    asked = loss(network, made, seed(1), image_drop=0.0, localization=True)
    assert asked.localization.min() > 0
    assert torch.equal(asked.velocity, loss(network, made, seed(1), image_drop=0.0).velocity)
    for dropped in (
        loss(network, made, seed(1), image_drop=1.0, localization=True),
        loss(network, dataclasses.replace(made, origin=None), seed(1), localization=True),
        loss(network, made, seed(1), localization=False),
    ):
        assert not dropped.localization.any()


def test_attention_learns_where_to_look(batch, transformer) -> None:
    """Guards against a loss without a gradient into queries and keys: a few steps of it, alone, must find the place."""
    network = transformer(personalization=True)
    made = with_origin(batch(4, seed(0)))
    optimizer = torch.optim.Adam(network.parameters(), 0.03)
    found = []
    for _ in range(25):
        misplaced = loss(network, made, seed(1), image_drop=0.0, localization=True).localization.mean()
        found.append(misplaced.item())
        misplaced.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert found[-1] < found[0] / 4


def test_blocks_that_are_computed_again(batch, transformer) -> None:
    """Guards against noting more than the block computes: activation checkpointing would miss it in the backward."""
    gradients = []
    for again in (False, True):
        network, made = transformer(personalization=True), with_origin(batch(4, seed(0)))
        if again:
            network.enable_gradient_checkpointing()
        losses = loss(network, made, seed(1), image_drop=0.0, localization=True)
        (losses.velocity + losses.localization).mean().backward()
        gradients.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_compiled_blocks_are_watched_too(batch, transformer) -> None:
    """Guards against "expected a non-empty list of Tensors": code that was compiled before calls no hooks added later."""
    network, made = transformer(personalization=True), with_origin(batch(4, seed(0)))
    expected = loss(network, made, seed(1), image_drop=0.0, localization=True)
    network.compile_repeated_blocks(backend="eager")
    torch.testing.assert_close(loss(network, made, seed(1), image_drop=0.0).velocity, expected.velocity)
    asked = loss(network, made, seed(1), image_drop=0.0, localization=True)
    torch.testing.assert_close(asked.localization, expected.localization)


def test_watching_ends(transformer) -> None:
    """Guards against hooks that stay, keep every step's attention in memory and slow sampling."""
    network = transformer(personalization=True)
    with watched(network):
        assert any(block.reference_attn._forward_pre_hooks for block in network.blocks)
    assert not any(block.reference_attn._forward_pre_hooks for block in network.blocks)
