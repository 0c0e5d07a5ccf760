"""Floating-point operations and parameters of the transformer, from its configuration alone (Table 5).

Only matrix products count, two operations a multiply-add, as in torch.utils.flop_counter and in published MFU.

T video tokens · S text tokens · M reference tokens (N * L) · D model width
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch

from video_alchemist.model.transformer import AlchemistTransformer, part_of


def parameters(config: Mapping[str, Any]) -> dict[str, int]:
    """Parameters by part, and their total."""
    with torch.device("meta"):
        return parameter_counts(AlchemistTransformer(**options(config)))


def parameter_counts(transformer: AlchemistTransformer) -> dict[str, int]:
    """Parameters by part, and their total; works on the meta device."""
    counts: dict[str, int] = {}
    for name, parameter in transformer.named_parameters():
        counts[part_of(name)] = counts.get(part_of(name), 0) + parameter.numel()
    return {**counts, "total": sum(counts.values())}


def forward_flops(config: Mapping[str, Any], tokens: int, text_tokens: int, reference_tokens: int) -> float:
    """FLOPs of one forward of one sample, binding included. 0 tokens of a condition: the null condition."""
    return sum(flops_by_part(config, tokens, text_tokens, reference_tokens).values())


def step_flops(
    config: Mapping[str, Any], tokens: int, text_tokens: int, reference_tokens: int, trainable: str = "all"
) -> float:
    """FLOPs that training on one sample needs: a forward and a backward, nothing computed twice.

    A backward costs two forwards, one for the weights and one for the inputs. Where the backbone is frozen
    (trainable "personalization" or "lora") its weights' half falls away; attention has no weights.
    Self-conditioning (Table 5) adds the forward that makes the estimate.
    """
    parts = flops_by_part(config, tokens, text_tokens, reference_tokens)
    trained = parts if trainable == "all" else ("reference_attn", "binding") if trainable == "personalization" else ()
    step = sum(flops * (3 if name in trained or name == "attention" else 2) for name, flops in parts.items())
    return step + sum(parts.values()) * options(config)["self_conditioning"]


def flops_by_part(
    config: Mapping[str, Any], tokens: int, text_tokens: int, reference_tokens: int
) -> dict[str, float]:
    """FLOPs of one forward of one sample by part; "attention" is what grows with tokens times tokens."""
    config = options(config)
    width, depth, image_dim = config["hidden_size"], config["depth"], config["image_dim"]
    if not config["personalization"]:
        reference_tokens = 0
    if not text_tokens and (config["text_projection"] or config["text_bias"]):
        text_tokens = 1  # with biases the null text is a token, of zeros
    separate = reference_tokens > 0 and not config["shared_cross_attention"]
    patch_channels = config["in_channels"] * math.prod(config["patch_size"])
    word_dim = config["word_length"] * config["text_dim"] * config["word_binding"]
    ffn_size = config["ffn_size"] or int(width * config["mlp_ratio"])
    shared_table = config["modulation"] == "shared_table"
    projected = config["text_projection"]

    def linear(rows: float, inputs: int, outputs: int) -> float:
        return 2.0 * rows * inputs * outputs

    parts = {
        "patch_embedding": linear(tokens, patch_channels * (1 + config["self_conditioning"]), width),
        "time_embedding": linear(1, config["time_channels"], width) + linear(1, width, width),
        "time_projection": linear(1, width, 6 * width) * shared_table,
        "adaLN": linear(1, width, (6 * depth + 2) * width) * (not shared_table),
        "text_projection": linear(text_tokens, config["text_dim"] + width, width) * projected,
        "self_attn": depth * linear(tokens, width, 4 * width),
        "text_attn": depth * linear(text_tokens, width if projected else config["text_dim"], 2 * width),
        "reference_attn": depth * linear(reference_tokens, image_dim, 2 * width),
        "ffn": depth * 2 * linear(tokens, width, ffn_size),
        "binding": linear(reference_tokens, image_dim + word_dim, image_dim),
        "final_layer": linear(tokens, width, patch_channels),
        "attention": depth * 2 * linear(tokens, width, tokens + text_tokens + reference_tokens),
    }
    if text_tokens or (reference_tokens and not separate):
        parts["text_attn"] += depth * linear(tokens, width, 2 * width)
    if separate:
        parts["reference_attn"] += depth * linear(tokens, width, 2 * width)
    return parts


def options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Every argument of the transformer: what a configuration says, and the defaults of what it leaves out."""
    arguments = inspect.signature(AlchemistTransformer.__init__).parameters
    known = {name: argument.default for name, argument in arguments.items() if name != "self"}
    return known | {name: value for name, value in config.items() if name in known}
