"""A pipeline's folder: found by its name, and checked before a network is built from it."""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from video_alchemist.model.transformer import AlchemistTransformer

SHIPPED = {"emojiworld": Path(__file__).parents[1] / "emojiworld" / "bundle"}


def find_folder(name: str, options: dict[str, Any]) -> Path:
    """A folder as it is; a hub id downloaded whole: diffusers itself refuses models whose code is not its own.

    options: what the download is told is taken out of them."""
    if name in SHIPPED or Path(name).is_dir():
        return SHIPPED.get(name) or Path(name)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ValueError(f"model {name!r}; expected {', '.join(map(repr, SHIPPED))}, a folder, or a hub id OWNER/NAME")
    from huggingface_hub import snapshot_download

    told = {key: options.pop(key) for key in ("revision", "cache_dir", "token", "local_files_only") if key in options}
    try:
        return Path(snapshot_download(name, **told))
    except (OSError, ValueError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(f"model {name!r} is no folder here, and the hub did not give it: {reason}") from error


def check_folder(folder: Path, options: Iterable[str]) -> None:
    """Raises ValueError for what diffusers would only warn of, or say in many lines.

    options: what the pipeline's own configuration may hold."""
    index_path = folder / "model_index.json"
    if not index_path.is_file():
        raise ValueError(f"{str(folder)!r} holds no pipeline; expected a model_index.json in it")
    index = json.loads(index_path.read_text())
    if index.get("_class_name") != "AlchemistPipeline":
        raise ValueError(
            f"{str(folder)!r} is of class {index.get('_class_name')}; expected AlchemistPipeline. Stage II begins "
            "from a WanPipeline: alchemist train wan_1_3b --model FOLDER"
        )
    _check_options(index, options, index_path)
    for shards in sorted(folder.glob("*/*.safetensors.index.json")):
        wanted = set(json.loads(shards.read_text())["weight_map"].values())
        missing = sorted(name for name in wanted if not (shards.parent / name).is_file())
        if missing:
            raise ValueError(f"{str(shards.parent)!r} lacks {len(missing)} of {len(wanted)} shards: {missing[0]} ...")
    _check_transformer(folder / "transformer")


def _check_transformer(folder: Path) -> None:
    """The transformer's options are known, and its weights are those that the options want."""
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise ValueError(f"{str(folder)!r} has no config.json; expected a transformer")
    config = json.loads(config_path.read_text())
    _check_options(config, inspect.signature(AlchemistTransformer).parameters, config_path)
    if "quantization_config" in config:  # names and shapes are the quantiser's
        return
    with torch.device("meta"):
        network = AlchemistTransformer(**{name: value for name, value in config.items() if name[0] != "_"})
    expected = {name: list(value.shape) for name, value in network.state_dict().items()}
    found: dict[str, list[int]] = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            found |= {name: file.get_slice(name).get_shape() for name in file.keys()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        raise ValueError(
            f"{str(folder)!r}: {len(wrong)} weights do not fit the config.json beside them; first {name!r}: "
            f"{found.get(name, 'missing')}, expected {expected.get(name, 'no such name')}. Both must be of one version"
        )


def check_lora(weights: Mapping[str, Tensor], transformer: nn.Module) -> None:
    """Raises ValueError where LoRA weights (transformer.MODULE.lora_A.weight) are for another transformer."""
    modules = dict(transformer.named_modules())
    for key, weight in weights.items():
        name, _, part = key.removeprefix("transformer.").partition(".lora_")
        layer = modules.get(name)
        layer = getattr(layer, "base_layer", layer)  # an adapter is in place already
        if not isinstance(layer, nn.Linear):
            nearest = difflib.get_close_matches(name, modules, 1, cutoff=0)[0]
            raise ValueError(f"the LoRA is for {name!r}, which this transformer does not have; nearest: {nearest!r}")
        width, expected = (
            (weight.shape[-1], layer.in_features) if part.startswith("A") else (weight.shape[0], layer.out_features)
        )
        if width != expected:
            raise ValueError(f"the LoRA is for a transformer of another width: {key} has {width}, expected {expected}")


def _check_options(config: dict[str, Any], known: Iterable[str], path: Path) -> None:
    known = [*known, "quantization_config"]
    for name in config:
        if name not in known and not name.startswith("_"):
            nearest = difflib.get_close_matches(name, known, 1, cutoff=0)[0]
            raise ValueError(
                f"{str(path)!r} has {name!r}, which this version of video-alchemist does not know; nearest: "
                f"{nearest!r}. Expected a checkpoint of this version"
            )
