"""A pipeline's folder, checked before a network is built from it."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from video_alchemist.model.transformer import AlchemistTransformer
from video_alchemist.pretrained.weights import Shapes, check_files, check_shapes, read_json, read_shapes, shapes


def check_folder(folder: Path, options: Iterable[str]) -> None:
    """Raises ValueError for what diffusers would only warn of, or say in many lines.

    options: what the pipeline's own configuration may hold."""
    index_path = folder / "model_index.json"
    if not index_path.is_file():
        raise ValueError(f"{str(folder)!r} holds no pipeline; expected a model_index.json in it")
    check_files(folder)
    index = read_json(index_path)
    if index.get("_class_name") != "AlchemistPipeline":
        raise ValueError(
            f"{str(folder)!r} is of class {index.get('_class_name')}; expected AlchemistPipeline. Stage II begins "
            "from a WanPipeline: alchemist train wan_1_3b --model FOLDER"
        )
    _check_options(index, options, index_path)
    _check_transformer(folder / "transformer")


def _check_transformer(folder: Path) -> None:
    """The transformer's options are known, and its weights are those that the options want."""
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise ValueError(f"{str(folder)!r} has no config.json; expected a transformer")
    config = read_json(config_path)
    _check_options(config, inspect.signature(AlchemistTransformer).parameters, config_path)
    if "quantization_config" in config:  # names and shapes are the quantiser's
        return
    with torch.device("meta"):
        network = AlchemistTransformer(**{name: value for name, value in config.items() if name[0] != "_"})
    found: Shapes = {}
    for path in folder.glob("*.safetensors"):
        found |= read_shapes(path)
    check_shapes(found, shapes(network.state_dict()), folder, "the config.json in it, perhaps of another version")


def _check_options(config: dict[str, Any], known: Iterable[str], path: Path) -> None:
    known = [*known, "quantization_config"]
    for name in config:
        if name not in known and not name.startswith("_"):
            nearest = difflib.get_close_matches(name, known, 1, cutoff=0)[0]
            raise ValueError(
                f"{str(path)!r} has {name!r}, which this version of video-alchemist does not know; nearest: "
                f"{nearest!r}. Expected a checkpoint of this version"
            )
