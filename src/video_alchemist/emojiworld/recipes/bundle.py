"""The trained networks as one pipeline folder: what `AlchemistPipeline.from_pretrained("emojiworld")` loads."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from transformers import (
    Dinov2Model,
    GroundingDinoForObjectDetection,
    PreTrainedTokenizerFast,
    SamModel,
    T5EncoderModel,
    VideoMAEForVideoClassification,
)

from video_alchemist.emojiworld.recipes.evaluators import NETWORKS, OPTIONS
from video_alchemist.emojiworld.recipes.image_encoder import MEAN, STD
from video_alchemist.emojiworld.recipes.scale import Scale
from video_alchemist.emojiworld.recipes.transformer import SHIPPED_PART
from video_alchemist.pretrained.face_detector import HeatmapFaceDetector
from video_alchemist.pretrained.quality_model import QualityHead
from video_alchemist.sampling.pipeline import SHIPPED, AlchemistPipeline
from video_alchemist.training.checkpoint import trained_transformer

PARTS = ("autoencoder", "text_encoder", "tokenizer", "image_encoder", SHIPPED_PART)
CURATION_NETWORKS: dict[str, Any] = {
    "detector": GroundingDinoForObjectDetection,
    "segmenter": SamModel,
    "face_detector": HeatmapFaceDetector,
    "clip_filter": VideoMAEForVideoClassification,
}


def assemble(scale: Scale, work: Path, run: str = "transformer") -> AlchemistPipeline:
    """The pipeline of the newest weights in a working folder, in full precision."""
    height, width = scale.size
    return AlchemistPipeline(
        transformer=trained_transformer(work / f"{run}.run"),
        autoencoder=AutoencoderKLLTXVideo.from_pretrained(work / "autoencoder", torch_dtype=torch.float32),
        text_encoder=T5EncoderModel.from_pretrained(work / "text_encoder", dtype=torch.float32),
        tokenizer=PreTrainedTokenizerFast.from_pretrained(work / "tokenizer"),
        image_encoder=Dinov2Model.from_pretrained(work / "image_encoder", dtype=torch.float32),
        size=(width, height),
        num_frames=scale.num_frames,
        fps=scale.fps,
        num_steps=scale.num_steps,
        text_scale=scale.text_scale,
        image_scale=scale.image_scale,
        image_interval=scale.image_interval,
        base_shift=scale.sampling_shift,
        reference_size=scale.reference_size,
        max_text_length=scale.max_text_length,
        image_mean=MEAN,
        image_std=STD,
    )


def unpack(scale: Scale, work: Path, folder: Path = SHIPPED["emojiworld"]) -> None:
    """Puts the shipped networks into a working folder that has none, for recipes to go on from."""
    there = next((part for part in PARTS if (work / part).exists()), None)
    if there is not None:
        raise ValueError(f"{work} has its own {there}; expected a folder without networks, give another --work")
    for part, sizes in (("autoencoder", scale.autoencoder), ("image_encoder", scale.image_encoder)):
        shipped = json.loads((folder / part / "config.json").read_text())
        if any(shipped[name] != json.loads(json.dumps(size)) for name, size in sizes.items()):
            raise ValueError(f"scale {scale.name} has another {part} than ships; expected --scale small")
    temporary = work / "shipped.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        for part in PARTS:
            shutil.copytree(folder / part, temporary / part)
    except shutil.Error as error:  # holds a list of (from, to, why)
        shutil.rmtree(temporary, ignore_errors=True)
        raise OSError(f"{work}: {error.args[0][0][2]}") from error
    for part in PARTS:
        os.replace(temporary / part, work / part)
    temporary.rmdir()


def write(scale: Scale, work: Path, folder: Path = SHIPPED["emojiworld"]) -> Path:
    """Replaces the shipped bundle, in bfloat16: half the size, and no difference to see."""
    pipeline = assemble(scale, work).to(torch.bfloat16)
    pipeline.autoencoder.register_to_config(_name_or_path="")  # of this machine
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    pipeline.save_pretrained(temporary)
    for part in ("curation", "benchmark"):  # `write_curation`'s and `write_evaluators`'
        if (folder / part).exists():
            os.replace(folder / part, temporary / part)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"wrote {folder} ({size / 1e6:.1f} MB)", flush=True)
    return folder


def write_curation(trained: Path, folder: Path = SHIPPED["emojiworld"] / "curation") -> Path:
    """Replaces those of curation's shipped networks that are trained, in half precision."""
    return _write_networks(CURATION_NETWORKS, trained, folder)


def write_evaluators(trained: Path, folder: Path = SHIPPED["emojiworld"] / "benchmark") -> Path:
    """Replaces those of the benchmark's shipped networks that are trained, in half precision."""
    return _write_networks({**NETWORKS, "quality": QualityHead}, trained, folder)


def _write_networks(networks: Mapping[str, Any], trained: Path, folder: Path) -> Path:
    for role, network in networks.items():
        if not (trained / role / "config.json").exists():
            continue
        temporary = folder / f"{role}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(trained / role, temporary)
        model = network.from_pretrained(trained / role, **OPTIONS.get(role, {})).half()
        if isinstance(model, ConfigMixin):
            model.register_to_config(_name_or_path="")  # of this machine
        model.save_pretrained(temporary)
        shutil.rmtree(folder / role, ignore_errors=True)
        os.replace(temporary, folder / role)
    return folder
