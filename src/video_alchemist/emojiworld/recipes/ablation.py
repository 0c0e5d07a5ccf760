"""Table 3's ablation "no word token" on EmojiWorld: stage II anew, with and without binding, judged by binding."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from video_alchemist.emojiworld.recipes import bundle, scores, studies, transformer
from video_alchemist.emojiworld.recipes.judges import Judges
from video_alchemist.emojiworld.recipes.scale import Scale
from video_alchemist.model.transformer import AlchemistTransformer
from video_alchemist.sampling.pipeline import SHIPPED

SHARE = 0.1  # of the shipped transformer's steps of stage II


def run(
    scale: Scale, work: Path, device: str, time_limit: float | None, num_samples: int, num_steps: int | None = None
) -> dict[str, dict[str, float]]:
    """Trains both from where they stand; writes each one's binding accuracy to `ablation.json` once it is done."""
    short = replace(
        scale,
        stage_one_steps=0,
        stage_two_new_steps=max(1, int(SHARE * scale.stage_two_new_steps)),
        stage_two_image_steps=max(1, int(SHARE * scale.stage_two_image_steps)),
        stage_two_clip_steps=max(1, int(SHARE * scale.stage_two_clip_steps)),
    )
    shipped = AlchemistTransformer.from_pretrained(SHIPPED["emojiworld"] / "transformer", torch_dtype=torch.float32)
    result: dict[str, dict[str, float]] = {}
    for name, binds in (("word tokens", True), ("no word tokens", False)):
        folder = work / f"ablation-{'with' if binds else 'without'}-words.run"
        trained = transformer.train(
            short, work, device, time_limit, run=folder, initial=without_personalization(shipped, binds)
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


def without_personalization(trained: AlchemistTransformer, word_binding: bool) -> AlchemistTransformer:
    """Stage I's part of a trained transformer, that stage II will add binding to, with or without word tokens."""
    config = {name: value for name, value in trained.config.items() if not name.startswith("_")}
    torch.manual_seed(0)
    plain = AlchemistTransformer(**{**config, "personalization": False, "word_binding": word_binding})
    weights = trained.state_dict()
    plain.load_state_dict({name: weights[name] for name in plain.state_dict()})
    return plain
