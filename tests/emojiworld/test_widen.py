"""A widened transformer goes on where the narrow one stands."""

from __future__ import annotations

import pytest
import torch

from video_alchemist.emojiworld.recipes import widen as module
from video_alchemist.emojiworld.recipes.widen import widen
from video_alchemist.model.transformer import AlchemistTransformer


def trained(depth: int = 4) -> AlchemistTransformer:
    """Tiny, with weights everywhere, as after training."""
    torch.manual_seed(0)
    transformer = AlchemistTransformer(
        in_channels=4, patch_size=(1, 1, 1), hidden_size=64, depth=depth, num_heads=4, text_dim=8, image_dim=8,
        word_length=2, place_grid=(4, 4), input_skip=True,
    )  # fmt: skip
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return transformer


def answer(transformer: AlchemistTransformer) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    z, text = torch.randn(2, 4, 2, 4, 4, generator=draw), torch.randn(2, 5, 8, generator=draw)
    with torch.no_grad():
        return transformer(z, torch.tensor([0.3, 0.9]), text, None, torch.randn(2, 6, 8, generator=draw))


def test_begins_as_the_narrow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against layers that are not grown alike. What new channels read is left out, for it may be noise: then
    only the norms' means differ."""
    monkeypatch.setattr(module, "READ", 0.0)
    monkeypatch.setattr(module, "LATENTS", 0.0)
    narrow = trained()
    expected, given = answer(narrow), answer(widen(narrow, 96, 6))
    assert torch.cosine_similarity(given.flatten(), expected.flatten(), dim=0) > 0.995


def test_new_channels_learn_from_the_first_step() -> None:
    """Guards against new weights between two zeros, which never get a gradient."""
    wide = widen(trained(), 96, 6)
    velocity = wide(torch.randn(2, 4, 2, 4, 4), torch.rand(2), torch.randn(2, 5, 8), None, torch.randn(2, 6, 8))
    velocity.square().sum().backward()
    for name in ("self_attn.out", "text_attn.out", "reference_attn.out", "ffn.down"):
        gradient = wide.get_submodule(f"blocks.1.{name}").weight.grad
        assert gradient[64:, :64].abs().max() > 0 and gradient[:64, 64:].abs().max() > 0, name


def test_heads_keep_their_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against heads that were taught one quarter of a latent and are asked for another in a wider block."""
    monkeypatch.setattr(module, "READ", 0.0)
    monkeypatch.setattr(module, "LATENTS", 0.0)
    narrow = trained()
    wide, first = widen(narrow, 96, 6), int(4 * module.FIRST_BLOCK)
    for block in range(first, 4):
        old, new = (
            net.get_submodule(f"blocks.{block}.reference_attn.q").weight.detach().unflatten(0, (-1, 16))
            for net in (narrow, wide)
        )
        for head in range(4):
            cell = (4 * (block - first) + head) % 4
            place = int((new[:, :, :64] - old[head] * (64 / 96) ** 0.5).abs().sum(dim=(1, 2)).argmin())
            assert (6 * (block - first) + place) % 4 == cell


def test_other_heads_are_refused() -> None:
    """Guards against heads of another width, whose rotations would mean other places."""
    with pytest.raises(ValueError, match="96 channels in 8 heads; expected at least 64, 16 a head"):
        widen(trained(), 96, 8)
