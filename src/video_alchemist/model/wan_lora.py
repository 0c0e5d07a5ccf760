"""LoRA files made for Wan 2.1's text-to-video transformer, in our layout: the change of the weights is the same.

A layer gets B A in addition. Where three of Wan's layers are one of ours, their A are stacked and their B stand on a
diagonal, so the ranks add up; rows of B move as the layer's own rows do.

r rank · I channels in · O channels out
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from video_alchemist.model.transformer import AlchemistTransformer
from video_alchemist.model.wan import MODULES, WAN_OPTIONS, relayout

PREFIX = "transformer."  # of every name in diffusers' LoRA files
PARTS = ("lora_A.weight", "lora_B.weight", "lora_B.bias")


def linears(network: nn.Module) -> dict[str, tuple[int, int]]:
    """Channels (I, O) of the linear layers, whether they wear a LoRA already or not."""
    layers = {name: getattr(one, "base_layer", one) for name, one in network.named_modules() if ".base_" not in name}
    return {
        name: (layer.in_features, layer.out_features)
        for name, layer in layers.items()
        if isinstance(layer, nn.Linear) and ".lora_" not in name
    }


def wan_linears(transformer: AlchemistTransformer) -> dict[str, tuple[str, ...]]:
    """Our linear layers that Wan has too, and Wan's that each is made of. None where the transformer is not Wan's."""
    if any(transformer.config[name] != value for name, value in WAN_OPTIONS.items()):
        return {}
    layers = {}
    for name in linears(transformer):
        block, module = re.fullmatch(r"(blocks\.\d+\.)?(.+)", name).groups("")  # type: ignore[union-attr]
        if module in MODULES:
            layers[name] = tuple(block + part for part in MODULES[module])
    return layers


def convert_wan_lora(
    weights: Mapping[str, Tensor], transformer: AlchemistTransformer, scale: Callable[[str, int], float]
) -> dict[str, Tensor]:
    """Names and tensors as diffusers has them for WanTransformer3DModel, for our transformer; others stay as they are.

    scale: alpha / r or the like, by Wan's layer and r; it becomes part of B."""
    left, channels = dict(weights), linears(transformer)
    has_bias = any(name.endswith("lora_B.bias") for name in weights)  # then PEFT expects one in every layer
    converted: dict[str, Tensor] = {}
    for ours, layers in wan_linears(transformer).items():
        size, rows = channels[ours][0], channels[ours][1] // len(layers)
        given = {layer: [left.pop(f"{PREFIX}{layer}.{part}", None) for part in PARTS] for layer in layers}
        like = next((one for three in given.values() for one in three if one is not None), None)
        if like is None:
            continue
        downs, ups, biases = [], [], []
        for layer, (down, up, bias) in given.items():
            if (down is None) != (up is None):
                raise ValueError(f"the LoRA has lora_A or lora_B of {layer!r}; expected both")
            rank = int(bias is not None) if down is None else len(down)
            order = relayout(f"{layer}.bias", torch.arange(rows), transformer)
            factor = scale(layer, rank) if rank else 1.0
            downs.append(like.new_zeros(rank, size) if down is None else down.flatten(1))          # (r, I)
            ups.append(like.new_zeros(rows, rank) if up is None else factor * up.flatten(1)[order])  # (O, r)
            biases.append(like.new_zeros(rows) if bias is None else factor * bias[order])          # (O,)
        tensors = torch.cat(downs), torch.block_diag(*ups), torch.cat(biases)
        kept = PARTS if has_bias else PARTS[:2]
        converted |= {f"{PREFIX}{ours}.{part}": one for part, one in zip(kept, tensors, strict=False)}
    return converted | left
