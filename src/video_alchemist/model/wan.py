"""Wan 2.1's text-to-video transformer as stage I: diffusers' weights in our transformer, and back.

The function is the same to rounding; names and layout differ. Queries, keys and values stand in one matrix, a patch is
flattened channels first, and RoPE turns channel i with channel i + d / 2 of a head rather than with its neighbour.

K heads · d channels of a head · D model width · C channels · pf, ph, pw patch
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from einops import rearrange
from safetensors import safe_open
from torch import Tensor

from video_alchemist.model.transformer import AlchemistTransformer, add_personalization
from video_alchemist.pretrained.weights import Shapes, check_files, check_shapes, read_json, read_shapes, shapes, shards

EXAMPLE = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"

# Options of AlchemistTransformer that all sizes of Wan share.
WAN_OPTIONS: dict[str, Any] = {
    "modulation": "shared_table",
    "qk_norm": "across_heads",
    "text_projection": True,
    "text_norm": True,
    "text_bias": True,
}
# Wan's own configuration, where another value is another network.
_FIXED: dict[str, Any] = {
    "qk_norm": "rms_norm_across_heads",
    "cross_attn_norm": True,
    "eps": 1e-6,
    "image_dim": None,
    "added_kv_proj_dim": None,
    "pos_embed_seq_len": None,
}
_SIZES = {  # ours: Wan's
    "num_heads": "num_attention_heads",
    "in_channels": "in_channels",
    "patch_size": "patch_size",
    "depth": "num_layers",
    "ffn_size": "ffn_dim",
    "text_dim": "text_dim",
    "time_channels": "freq_dim",
}

# Our module: Wan's. Of several, the rows follow one another.
MODULES: dict[str, tuple[str, ...]] = {
    "patch_embedding": ("patch_embedding",),
    "time_embedding.mlp.0": ("condition_embedder.time_embedder.linear_1",),
    "time_embedding.mlp.2": ("condition_embedder.time_embedder.linear_2",),
    "time_projection": ("condition_embedder.time_proj",),
    "text_embedding.0": ("condition_embedder.text_embedder.linear_1",),
    "text_embedding.2": ("condition_embedder.text_embedder.linear_2",),
    "adaLN_modulation": ("scale_shift_table",),
    "self_attn.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "self_attn.q_norm": ("attn1.norm_q",),
    "self_attn.k_norm": ("attn1.norm_k",),
    "self_attn.out": ("attn1.to_out.0",),
    "text_norm": ("norm2",),
    "text_attn.q": ("attn2.to_q",),
    "text_attn.q_norm": ("attn2.norm_q",),
    "text_attn.key_value.kv": ("attn2.to_k", "attn2.to_v"),
    "text_attn.key_value.k_norm": ("attn2.norm_k",),
    "text_attn.out": ("attn2.to_out.0",),
    "ffn.up": ("ffn.net.0.proj",),
    "ffn.down": ("ffn.net.2",),
    "final_layer.adaLN_modulation": ("scale_shift_table",),
    "final_layer.linear": ("proj_out",),
}
# Wan's layout and ours, where they differ.
_LAYOUTS: dict[str, tuple[str, str]] = {
    "patch_embedding.weight": ("D C pf ph pw", "D (C pf ph pw)"),
    "attn1.to_q.weight": ("(K d two) D", "(K two d) D"),
    "attn1.to_k.weight": ("(K d two) D", "(K two d) D"),
    "attn1.to_q.bias": ("(K d two)", "(K two d)"),
    "attn1.to_k.bias": ("(K d two)", "(K two d)"),
    "attn1.norm_q.weight": ("(K d two)", "K (two d)"),
    "attn1.norm_k.weight": ("(K d two)", "K (two d)"),
    "attn2.norm_q.weight": ("(K d)", "K d"),
    "attn2.norm_k.weight": ("(K d)", "K d"),
    "scale_shift_table": ("one parts D", "(one parts) D"),
    "proj_out.weight": ("(pf ph pw C) D", "(C pf ph pw) D"),
    "proj_out.bias": ("(pf ph pw C)", "(C pf ph pw)"),
}


def load_wan(
    folder_or_id: str | PathLike,
    *,
    personalization: bool = True,
    image_dim: int = 1024,
    max_images: int = 6,
    word_length: int = 4,
    dtype: torch.dtype | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
) -> AlchemistTransformer:
    """A Wan 2.1 text-to-video transformer, or the one of a whole pipeline, in diffusers' format: a folder or hub id.

    With personalization the layers of stage II are added; they change nothing before they are trained.
    dtype: None = as stored. Like diffusers, leaves in float32 what half precision would harm.
    """
    folder = _transformer_folder(str(folder_or_id), revision, local_files_only)
    config = alchemist_config(read_json(folder / "config.json"), str(folder_or_id))
    config |= {"image_dim": image_dim, "max_images": max_images, "word_length": word_length}
    with torch.device("meta"):
        transformer = AlchemistTransformer(**config, personalization=False)
        expected = shapes(WanTransformer3DModel(**wan_config(transformer)).state_dict())
    paths, found = _weight_files(folder), Shapes()
    for path in paths:
        found |= read_shapes(path)
    check_shapes(found, expected, folder, "the config.json in it")
    with ExitStack() as stack:
        files = [stack.enter_context(safe_open(path, framework="pt")) for path in paths]
        wan = {name: file for file in files for name in file.keys()}
        state = {}
        for ours, parts in _names(transformer):
            tensor = torch.cat([relayout(name, wan[name].get_tensor(name), transformer) for name in parts])
            state[ours] = tensor if dtype is None else tensor.to(_kept(ours, dtype))
    transformer.load_state_dict(state, assign=True)
    return (add_personalization(transformer) if personalization else transformer).eval()


def save_wan(transformer: AlchemistTransformer, folder: str | PathLike, max_shard_size: str | int = "10GB") -> None:
    """A folder that diffusers' WanTransformer3DModel loads. What personalises is left out."""
    if getattr(transformer, "peft_config", None):
        raise ValueError("the transformer wears a LoRA; expected none: call fuse_lora() and unload_lora() first")
    with torch.device("meta"):
        wan = WanTransformer3DModel(**wan_config(transformer))
    weights, state = transformer.state_dict(), {}
    for ours, parts in _names(transformer):
        for name, rows in zip(parts, weights[ours].chunk(len(parts)), strict=True):
            state[name] = relayout(name, rows, transformer, back=True).contiguous()
    wan.load_state_dict(state, assign=True)
    wan.save_pretrained(folder, max_shard_size=max_shard_size)


def alchemist_config(wan: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The options of our transformer that make it the WanTransformer3DModel of a config.json."""
    name = wan.get("_class_name")
    if name != WanTransformer3DModel.__name__:
        hint = "; load it with AlchemistTransformer.from_pretrained" if name == AlchemistTransformer.__name__ else ""
        raise ValueError(f"{source} is a {name}; expected a WanTransformer3DModel, e.g. {EXAMPLE}{hint}")
    wan = {**_defaults(), **wan}
    channels, out_channels = wan["in_channels"], wan["out_channels"] or wan["in_channels"]
    if channels != out_channels or wan["image_dim"] is not None:
        raise ValueError(
            f"{source} is an image-to-video Wan ({channels} channels in, {out_channels} out, "
            f"image_dim {wan['image_dim']}); expected a text-to-video one, e.g. {EXAMPLE}"
        )
    unknown = [key for key in wan if not key.startswith("_") and key not in _defaults()]
    for key in unknown + [key for key, value in _FIXED.items() if wan[key] != value]:
        expected = f"expected {_FIXED[key]!r}" if key in _FIXED else "expected no such option"
        raise ValueError(f"{source} has {key} = {wan[key]!r}, which we cannot represent; {expected}")
    sizes = {ours: wan[theirs] for ours, theirs in _SIZES.items()}
    return {**WAN_OPTIONS, **sizes, "hidden_size": wan["num_attention_heads"] * wan["attention_head_dim"]}


def _defaults() -> dict[str, Any]:
    parameters = inspect.signature(WanTransformer3DModel.__init__).parameters
    return {name: parameter.default for name, parameter in parameters.items() if name != "self"}


def wan_config(transformer: AlchemistTransformer) -> dict[str, Any]:
    """The options of WanTransformer3DModel that make it our transformer, without what personalises."""
    config = transformer.config
    for key, value in {**WAN_OPTIONS, "self_conditioning": False, "rope_theta": 10000.0}.items():
        if config[key] != value:
            raise ValueError(f"the transformer has {key} = {config[key]!r}; expected {value!r}, as in Wan 2.1")
    sizes = {theirs: config[ours] for ours, theirs in _SIZES.items()}
    head_dim = config["hidden_size"] // config["num_heads"]
    return {**sizes, "out_channels": config["in_channels"], "attention_head_dim": head_dim}


# ------------------------------------------------------------------------------------------------------------------
# Names and layout


def _names(transformer: AlchemistTransformer) -> Iterator[tuple[str, list[str]]]:
    """Our parameters, and Wan's that each is made of. Those of personalisation have none."""
    added = {name for name, _ in transformer.personalization_parameters()}
    for name, _ in transformer.named_parameters():
        if name in added:
            continue
        match = re.fullmatch(r"(blocks\.\d+\.)?(.+)\.(weight|bias|table)", name)
        assert match is not None, name
        block, kind = match[1] or "", "" if match[3] == "table" else f".{match[3]}"
        yield name, [f"{block}{module}{kind}" for module in MODULES[match[2]]]


def relayout(name: str, tensor: Tensor, transformer: AlchemistTransformer, back: bool = False) -> Tensor:
    """One of Wan's parameters in our layout, or `back` in Wan's."""
    layouts = _LAYOUTS.get(re.sub(r"^blocks\.\d+\.", "", name))
    if layouts is None:
        return tensor
    source, target = reversed(layouts) if back else layouts
    pf, ph, pw = transformer.patch_size
    sizes = {"K": transformer.config["num_heads"], "two": 2, "one": 1, "pf": pf, "ph": ph, "pw": pw}
    used = {axis: size for axis, size in sizes.items() if axis in re.findall(r"\w+", source)}
    return rearrange(tensor, f"{source} -> {target}", **used)


def _kept(name: str, dtype: torch.dtype) -> torch.dtype:
    """float32 for what diffusers too keeps in it when a model is loaded in half precision."""
    kept = AlchemistTransformer._keep_in_fp32_modules
    return torch.float32 if any(part in kept for part in name.split(".")) else dtype


# ------------------------------------------------------------------------------------------------------------------
# Files


def _transformer_folder(name: str, revision: str | None, local_files_only: bool) -> Path:
    """The folder of the transformer's config.json and weights. The files of its pipeline are whole."""
    whole = folder = Path(name) if Path(name).is_dir() else _download(name, revision, local_files_only)
    index = folder / "model_index.json"
    if index.is_file():
        if read_json(index).get("transformer_2", [None])[0] is not None:
            raise ValueError(f"{name} has two transformers, as Wan 2.2; expected Wan 2.1, e.g. {EXAMPLE}")
        folder = folder / "transformer"
    if not (folder / "config.json").is_file():
        raise ValueError(f"{name} has no config.json of a transformer; expected diffusers' format, e.g. {EXAMPLE}")
    check_files(whole)
    return folder


def _download(name: str, revision: str | None, local_files_only: bool) -> Path:
    """The transformer of a hub id, without the other networks of its pipeline."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        raise ValueError(f"{name!r} is no folder; expected one, or a hub id OWNER/NAME, e.g. {EXAMPLE}")
    from huggingface_hub import snapshot_download

    patterns = ["model_index.json", "config.json", "transformer/*", "diffusion_pytorch_model*"]
    try:
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=local_files_only)
        )
    except OSError as error:  # of the hub and of the network
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"{name} could not be fetched from the hub; expected a folder, or a hub id that can be reached: {reason[0]}"
        ) from error


def _weight_files(folder: Path) -> list[Path]:
    index, single = (folder / f"diffusion_pytorch_model.safetensors{end}" for end in (".index.json", ""))
    if index.is_file():
        return shards(index)
    if not single.is_file():
        raise ValueError(f"{str(folder)!r} holds no weights; expected {single.name} or the shards of {index.name}")
    return [single]
