"""Branches of guidance in one forward (App. B.3): the exact savings save, and are exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig, MagCacheConfig
from torch import Tensor

from video_alchemist.model.transformer import AlchemistTransformer

SIZE: dict[str, Any] = dict(
    in_channels=4, hidden_size=24, depth=2, num_heads=2, text_dim=6, image_dim=10, max_images=4, word_length=2
)
WAN: dict[str, Any] = dict(
    modulation="shared_table", qk_norm="across_heads", text_projection=True, text_norm=True, text_bias=True, ffn_size=40
)
VARIANTS: list[dict[str, Any]] = [
    dict(),
    dict(qk_norm="per_head"),
    dict(shared_cross_attention=True),
    WAN,
    dict(WAN, shared_cross_attention=True),
    dict(WAN, input_skip=True),
]
BRANCHES = [(False, True), (True, True), (True, False), (False, False)]  # (text, images), as in App. B.3's equations


def build(**options: Any) -> AlchemistTransformer:
    """A tiny transformer without zeros, so that every path reaches the output."""
    torch.manual_seed(0)
    transformer = AlchemistTransformer(**{**SIZE, **options}).eval()
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return transformer


def condition(transformer: AlchemistTransformer) -> dict[str, Tensor]:
    """Text and images of two samples; the second uses two tokens of three, and two images of three."""
    torch.manual_seed(1)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    references, reference_mask = transformer.bind(torch.randn(2, 3, 5, 10), torch.randn(2, 3, 12), mask)
    return dict(
        text_tokens=torch.randn(2, 3, 6), text_mask=mask, references=references, reference_mask=reference_mask
    )


def latents() -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    return torch.randn(2, 4, 3, 4, 6), torch.rand(2)


def plain_branches(given: dict[str, Tensor], branches: list[tuple[bool, bool]]) -> dict[str, Tensor]:
    """The same without any saving: conditions once a branch, hidden by masks where a branch does not show them."""
    shown = torch.tensor(branches)
    plain = {name: value.repeat(len(branches), *[1] * (value.ndim - 1)) for name, value in given.items()}
    for mask, column in (("text_mask", 0), ("reference_mask", 1)):
        plain[mask] &= shown[:, column].repeat_interleave(2)[:, None]
    return plain


@torch.no_grad()
@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("branches", [BRANCHES, BRANCHES[:3], BRANCHES[1::2], BRANCHES[3:]], ids=len)
def test_branches_equal_plain_forwards(options: dict[str, Any], branches: list[tuple[bool, bool]]) -> None:
    """Guards against savings of guidance that are not exact: common prefix, skipped null conditions, shared keys and
    values, tabulated modulation; with padding, unequal numbers of images and self-conditioning.

    Equal to 1e-5: sums run over the same numbers, but a matrix product of other rows may add them in another order.
    """
    transformer = build(**options, self_conditioning=True)
    z, _ = latents()
    t = torch.full((2,), 0.7)
    given, estimate = condition(transformer), torch.randn_like(z)
    size = len(branches)
    plain = transformer(
        z.repeat(size, 1, 1, 1, 1), t.repeat(size), **plain_branches(given, branches),
        z0_estimate=estimate.repeat(size, 1, 1, 1, 1),
    )  # fmt: skip
    cache = transformer.cache(**given, branches=branches)
    for modulation in (None, transformer.modulations(torch.tensor([0.9, 0.7]))[1]):
        velocities = transformer(z, t, z0_estimate=estimate, cache=cache, modulation=modulation)
        torch.testing.assert_close(velocities, plain, atol=1e-5, rtol=1e-5)
    one = transformer(z, t, z0_estimate=estimate, cache=cache.show(branches[-1:]))
    torch.testing.assert_close(one, plain[-2:], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_null_text_takes_the_place_of_dropped_text() -> None:
    """Guards against a negative prompt that reaches branches with text, or none at all."""
    for options in ({}, WAN):
        transformer = build(**options)
        z, t = latents()
        given = condition(transformer)
        null, mask = torch.randn(1, 5, 6), torch.tensor([[True, True, False, True, True]])
        cache = transformer.cache(
            **given, branches=[(True, False), (False, True)], null_text_tokens=null, null_text_mask=mask
        )
        shown, dropped = transformer(z, t, cache=cache).chunk(2)
        text = dict(text_tokens=given["text_tokens"], text_mask=given["text_mask"])
        nothing = dict(given, text_tokens=null.expand(2, -1, -1), text_mask=mask.expand(2, -1))
        torch.testing.assert_close(shown, transformer(z, t, **text), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(dropped, transformer(z, t, **nothing), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_branches_share_what_does_not_depend_on_them() -> None:
    """Guards against exact savings that are correct, but no longer save."""
    transformer = build()
    z, t = latents()
    rows: dict[str, list[int]] = {}

    def count(name: str) -> Any:
        return lambda module, inputs, output: rows.setdefault(name, []).append(len(output))

    for name in ("patch_embedding", "time_embedding", "blocks.0.self_attn", "blocks.1.self_attn", "blocks.0.text_attn",
                 "blocks.1.reference_attn", "blocks.0.adaLN_modulation"):  # fmt: skip
        transformer.get_submodule(name).register_forward_hook(count(name))
    cache = transformer.cache(**condition(transformer), branches=BRANCHES[:3])
    transformer(z, t, cache=cache)
    assert rows == {
        "patch_embedding": [2], "time_embedding": [2], "blocks.0.self_attn": [2], "blocks.1.self_attn": [6],
        "blocks.0.text_attn": [2, 2], "blocks.1.reference_attn": [2, 2], "blocks.0.adaLN_modulation": [2],
    }  # fmt: skip
    table = transformer.modulations(torch.tensor([0.5]))
    rows.clear()
    transformer(z, t, cache=cache, modulation=table[0])
    assert "time_embedding" not in rows and "blocks.0.adaLN_modulation" not in rows


@torch.no_grad()
@pytest.mark.parametrize("offload_type", ["block_level", "leaf_level"])
def test_group_offloading_reaches_every_method(tmp_path: Path, offload_type: str) -> None:
    """Guards against keys, bindings and tables made of weights that are not there: offloaded ones are garbage here."""
    transformer = build(input_skip=True)
    z, t = latents()
    expected = transformer(z, t, cache=transformer.cache(**condition(transformer), branches=BRANCHES))
    table = transformer.modulations(t)
    transformer.enable_group_offload(
        torch.device("cpu"), offload_type=offload_type, num_blocks_per_group=1, offload_to_disk_path=str(tmp_path)
    )
    for parameter in transformer.parameters():
        parameter.data.fill_(float("nan"))
    cache = transformer.cache(**condition(transformer), branches=BRANCHES)
    assert torch.equal(transformer(z, t, cache=cache), expected)
    assert torch.equal(transformer.modulations(t), table)


@torch.no_grad()
def test_diffusers_caches_know_our_block() -> None:
    """Guards against a block that diffusers' lossy caches refuse, or a branch that sees the residual of another."""
    z, t = latents()
    step = z + 0.1
    for config in (
        FirstBlockCacheConfig(threshold=0.0),
        FirstBlockCacheConfig(threshold=1e9),
        MagCacheConfig(threshold=1e9, num_inference_steps=4, retention_ratio=0.0, mag_ratios=[1.0] * 4),
    ):
        transformer = build(depth=3)
        cache = transformer.cache(**condition(transformer), branches=BRANCHES)
        expected = transformer(step, t, cache=cache)
        transformer.enable_cache(config)
        with transformer.cache_context("branches"):
            first, second = transformer(z, t, cache=cache), transformer(step, t, cache=cache)
        assert first.shape == second.shape and not torch.equal(first, second)
        assert torch.allclose(second, expected, atol=1e-5) == (getattr(config, "threshold", 0) == 0.0)


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize("options", [dict(), WAN], ids=["ours", "wan"])
def test_blocks_with_branches_compile_without_graph_breaks(options: dict[str, Any]) -> None:
    """Guards against branches of guidance that a compiled block cannot take; two graphs: the first block, the rest."""
    transformer = build(**options)
    z, t = latents()
    cache = transformer.cache(**condition(transformer), branches=BRANCHES)
    expected = transformer(z, t, cache=cache)
    transformer.compile_repeated_blocks(fullgraph=True)
    torch.testing.assert_close(transformer(z, t, cache=cache), expected, atol=1e-4, rtol=1e-4)
