"""LoRA files for the pipeline: our own, and those that others made for Wan 2.1's text-to-video transformer."""

from __future__ import annotations

import difflib
import hashlib
import math
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from diffusers.loaders import CogVideoXLoraLoaderMixin, WanLoraLoaderMixin
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE
from torch import Tensor

from video_alchemist.model.transformer import AlchemistTransformer
from video_alchemist.model.wan_lora import PREFIX, convert_wan_lora, linears, wan_linears
from video_alchemist.pretrained.weights import read_shapes

Metadata = dict[str, Any] | None  # of PEFT's LoraConfig, where a file holds it


def read_lora(
    source: str | PathLike[str] | dict[str, Tensor], *, return_lora_metadata: bool = False, **options: Any
) -> Any:
    """Names and tensors as diffusers has them, and what else the file says. options: see find_lora."""
    if not isinstance(source, dict):
        path = find_lora(str(source), **options)
        read_shapes(path)  # one line where it is not whole
        source = str(path)
    weights, metadata = CogVideoXLoraLoaderMixin.lora_state_dict(source, return_lora_metadata=True)
    try:
        weights = WanLoraLoaderMixin.lora_state_dict(weights)  # of Wan's original names, and of kohya's trainers
    except (ValueError, LookupError) as error:  # layers left over, or missing
        named = "the LoRA" if isinstance(source, dict) else repr(source)
        message = f"{named} is for other layers than Wan 2.1's: {next(iter(weights))!r} ...; diffusers: {error}"
        raise ValueError(message[:400]) from error
    return (weights, metadata) if return_lora_metadata else weights


def find_lora(
    source: str, weight_name: str | None = None, subfolder: str = "", use_safetensors: bool = True, **download: Any
) -> Path:
    """A file, the one in a folder, or of a hub id. download: what huggingface_hub is told, as revision and token."""
    if not use_safetensors:
        raise ValueError("use_safetensors is False; expected a LoRA in safetensors, which runs no code when read")
    if Path(source).is_file():
        return Path(source)
    if Path(source).is_dir():
        folder = Path(source) / subfolder
        names = sorted(path.name for path in folder.glob("*.safetensors"))
        name = weight_name or (names[0] if len(names) == 1 else LORA_WEIGHT_NAME_SAFE)
        if name not in names:
            there = ", ".join(names) or "no safetensors file"
            raise ValueError(f"no {name!r} in {str(folder)!r}; expected it, or weight_name, of: {there}")
        return folder / name
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source) or source.endswith(".safetensors"):
        raise ValueError(f"no such LoRA: {source!r}; expected a file, a folder, or a hub id OWNER/NAME")
    from huggingface_hub import hf_hub_download

    try:
        return Path(
            hf_hub_download(source, weight_name or LORA_WEIGHT_NAME_SAFE, subfolder=subfolder or None, **download)
        )
    except (OSError, ValueError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(f"LoRA {source!r} is nothing here, and the hub did not give it: {reason}") from error


def fit_lora(
    weights: Mapping[str, Tensor], transformer: AlchemistTransformer, metadata: Metadata = None
) -> tuple[dict[str, Tensor], Metadata]:
    """A LoRA for this transformer, and its metadata; ValueError where it is for another one.

    One for Wan changes its layout, and scales of its metadata become part of the weights."""
    wan = wan_linears(transformer)
    ours = linears(transformer)
    theirs = {layer: (ours[name][0], ours[name][1] // len(layers)) for name, layers in wan.items() for layer in layers}
    _check(weights, ours, theirs)
    if not any(key.removeprefix(PREFIX).partition(".lora_")[0] in theirs.keys() - ours.keys() for key in weights):
        return dict(weights), metadata
    return convert_wan_lora(weights, transformer, lambda layer, rank: _scale(metadata, layer, rank)), None


def _check(weights: Mapping[str, Tensor], ours: dict[str, tuple[int, int]], wan: dict[str, tuple[int, int]]) -> None:
    layers = wan | ours
    for key, weight in weights.items():
        name, _, part = key.removeprefix(PREFIX).partition(".lora_")
        if re.search(r"add_[kv]_proj|image_embedder", name):
            raise ValueError(f"the LoRA is for an image-to-video Wan: it has {name!r}; expected a text-to-video one")
        if name not in layers:
            nearest = difflib.get_close_matches(name, layers, 1, cutoff=0)[0]
            raise ValueError(f"the LoRA is for {name!r}, which this transformer does not have; nearest: {nearest!r}")
        if not key.startswith(PREFIX):
            raise ValueError(f"the LoRA has {key!r}; expected {PREFIX + key!r}, as diffusers writes it")
        if name in wan.keys() - ours.keys() and part not in ("A.weight", "B.weight", "B.bias"):
            raise ValueError(f"the LoRA has {key!r}; expected lora_A and lora_B alone: fuse it in diffusers instead")
        width, expected = (
            (math.prod(weight.shape[1:]), layers[name][0]) if part[0] == "A" else (len(weight), layers[name][1])
        )
        if width != expected:
            raise ValueError(f"the LoRA is for a transformer of another width: {key} has {width}, expected {expected}")


def _scale(metadata: Metadata, layer: str, rank: int) -> float:
    """What PEFT multiplies B A by; without metadata diffusers takes alpha to be r."""
    if metadata is None:
        return 1.0
    from peft import LoraConfig
    from peft.utils.other import get_pattern_key

    config = LoraConfig(**{name.removeprefix(PREFIX): value for name, value in metadata.items()})
    alphas = config.alpha_pattern or {}
    alpha = alphas.get(get_pattern_key(list(alphas), layer), config.lora_alpha)
    return float(alpha / (math.sqrt(rank) if config.use_rslora else rank))


def worn(transformer: AlchemistTransformer) -> list[dict[str, Any]]:
    """The adapters that work now: names, weights, and digests over their tensors, by which a file is known again."""
    adapters = []
    for name in transformer.active_adapters() if getattr(transformer, "peft_config", None) else []:
        layers = [layer for layer in transformer.modules() if name in getattr(layer, "scaling", ())]
        digest = hashlib.sha256()
        for key, tensor in sorted(transformer.state_dict().items()):
            if f".{name}." in key:
                digest.update(key.encode() + tensor.float().cpu().numpy().tobytes())
        weight = layers[0].scaling[name] * layers[0].r[name] / layers[0].lora_alpha[name]  # type: ignore[operator, index]
        adapters.append({"name": name, "weight": round(float(weight), 6), "sha256": digest.hexdigest()})
    return adapters
