"""FLOPs by formula against PyTorch's own count, for every option that changes them; parameters against the modules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from video_alchemist.model.flops import flops_by_part, forward_flops, parameters, step_flops
from video_alchemist.model.transformer import AlchemistTransformer

SMALL = {"in_channels": 4, "hidden_size": 48, "depth": 3, "num_heads": 4, "text_dim": 20, "image_dim": 28}
WAN = {
    "modulation": "shared_table", "qk_norm": "across_heads", "ffn_size": 80, "text_projection": True,
    "text_norm": True, "text_bias": True,
}  # fmt: skip
TEXT, IMAGES, IMAGE_TOKENS, TOKENS = 5, 2, 3, 2 * 3 * 4


def run(network: AlchemistTransformer, text: int = TEXT, images: int = IMAGES) -> torch.Tensor:
    config = network.config
    z = torch.randn(1, config["in_channels"], 2, 6, 8)  # 24 tokens
    given: dict[str, Any] = {"text_tokens": torch.randn(1, text, config["text_dim"])} if text else {}
    if images and config["personalization"]:
        words = torch.randn(1, images, config["word_length"] * config["text_dim"])
        given["references"], _ = network.bind(torch.randn(1, images, IMAGE_TOKENS, config["image_dim"]), words)
    with sdpa_kernel(SDPBackend.MATH):  # the counter does not know the CPU's own kernel
        return network(z, torch.rand(1), **given)


@pytest.mark.parametrize(
    "options",
    [{}, WAN, {"personalization": False}, {"shared_cross_attention": True}, {"self_conditioning": True},
     {"word_binding": False, "mlp_ratio": 2.5, "time_channels": 64}],
)  # fmt: skip
@pytest.mark.parametrize(("text", "images"), [(TEXT, IMAGES), (TEXT, 0), (0, IMAGES), (0, 0)])
def test_forward_flops_are_those_that_torch_counts(options: dict[str, Any], text: int, images: int) -> None:
    """Guards against an MFU that forgets a part, or counts one that a null condition skips."""
    config = {**SMALL, **options}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run(AlchemistTransformer(**config), text, images)
    assert counter.get_total_flops() == forward_flops(config, TOKENS, text, images * IMAGE_TOKENS)


@pytest.mark.parametrize("trainable", ["all", "personalization"])
def test_step_flops_are_those_that_torch_counts(trainable: str) -> None:
    """Guards against a frozen backbone counted as trained: its steps cost a third less."""
    config = {**SMALL, "hidden_size": 96, "depth": 6}
    network = AlchemistTransformer(**config)
    new = {name for name, _ in network.personalization_parameters()}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(trainable == "all" or name in new)
    with FlopCounterMode(display=False) as counter:
        run(network).sum().backward()
    # Of the first layers nothing is asked in the backward: no gradient of the latents, none before what is trained.
    counted, expected = counter.get_total_flops(), step_flops(config, TOKENS, TEXT, IMAGES * IMAGE_TOKENS, trainable)
    assert 0.9 * expected < counted <= expected
    if trainable == "all":
        assert expected == 3 * forward_flops(config, TOKENS, TEXT, IMAGES * IMAGE_TOKENS)


def test_self_conditioning_costs_a_forward() -> None:
    """Guards against GPU-days without the forward that makes the estimate of z0 (Table 5)."""
    config = {**SMALL, "self_conditioning": True}
    assert step_flops(config, TOKENS, TEXT, 6) == 4 * forward_flops(config, TOKENS, TEXT, 6)


@pytest.mark.parametrize("options", [{}, WAN])
def test_parameters_are_counted_by_part(options: dict[str, Any]) -> None:
    """Guards against parts that are left out of the table."""
    counts = parameters({**SMALL, **options, "_class_name": "AlchemistTransformer"})
    total = counts.pop("total")
    assert sum(counts.values()) == total
    assert total == sum(parameter.numel() for parameter in AlchemistTransformer(**{**SMALL, **options}).parameters())


def test_wan_forward_costs_what_its_makers_compute_with() -> None:
    """Guards against a formula that is right for small shapes only: Wan 2.1 1.3B at 832x480x81 takes 283 TFLOP."""
    wan = {**WAN, "hidden_size": 1536, "depth": 30, "num_heads": 12, "ffn_size": 8960, "text_dim": 4096}
    parts = flops_by_part({**wan, "personalization": False}, 21 * 30 * 52, 512, 0)
    assert sum(parts.values()) == pytest.approx(283e12, rel=0.02)
    assert max(parts, key=parts.__getitem__) == "attention"
