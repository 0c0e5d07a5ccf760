"""Table 3's ablation "no word token" on EmojiWorld: the shipped transformer, trained on by clips with its word tokens
and without them, judged by binding."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import torch

from video_alchemist.emojiworld.recipes import bundle, scores, studies, transformer
from video_alchemist.emojiworld.recipes.judges import Judges
from video_alchemist.emojiworld.recipes.scale import Scale
from video_alchemist.model.transformer import AlchemistTransformer
from video_alchemist.sampling.pipeline import SHIPPED
from video_alchemist.training.stages import Stage

SHARE = 0.07  # of the shipped transformer's steps by clips


def run(
    scale: Scale, work: Path, device: str, time_limit: float | None, num_samples: int, num_steps: int | None = None
) -> dict[str, dict[str, float]]:
    """Trains both from where they stand; writes each one's binding accuracy to `ablation.json` once it is done."""
    steps = max(1, int(SHARE * scale.stage_two_clip_steps))
    stage = Stage("II-clips", personalization=True, trainable="all", steps=steps, warmup=steps // 4, decay=steps // 2)
    config = replace(transformer.train_config(scale), stages=(stage,))
    shipped = AlchemistTransformer.from_pretrained(SHIPPED["emojiworld"] / "transformer", torch_dtype=torch.float32)
    result: dict[str, dict[str, float]] = {}
    for name, binds in (("word tokens", True), ("no word tokens", False)):
        folder = work / f"ablation-{'with' if binds else 'without'}-words.run"
        trained = transformer.train(
            scale,
            work,
            device,
            time_limit,
            run=folder,
            config=config,
            initial=copy.deepcopy(shipped) if binds else without_words(shipped),
        )
        if trained.stopped != "done":
            return result
        pipeline = bundle.assemble(scale, work, folder.name.removesuffix(".run")).to(device)
        pipeline.set_progress_bar_config(disable=True)
        study = studies.binding(Judges.load(work, device), scale, "train", num_samples)
        sheets = work / "scores"
        sheets.mkdir(exist_ok=True)
        measured = scores.score(
            pipeline, replace(study, name=f"{study.name} {name}", bounds=False), scale, num_steps, sheets
        )
        result[name] = measured["generated"]["accuracy"]
        (work / "ablation.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


def without_words(trained: AlchemistTransformer) -> AlchemistTransformer:
    """The same weights, but for those that read word tokens."""
    config = {name: value for name, value in trained.config.items() if not name.startswith("_")}
    plain = AlchemistTransformer(**{**config, "word_binding": False})
    weights = trained.state_dict()
    weights["binding.projection.weight"] = weights["binding.projection.weight"][:, : config["image_dim"]]
    plain.load_state_dict(weights)
    return plain
