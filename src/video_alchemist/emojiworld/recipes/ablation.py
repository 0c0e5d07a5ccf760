"""Table 3's ablation "no word token" on EmojiWorld: short trainings with and without binding, judged by binding."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from video_alchemist.emojiworld.recipes import bundle, scores, studies, transformer
from video_alchemist.emojiworld.recipes.judges import Judges
from video_alchemist.emojiworld.recipes.scale import Scale

SHARE = 0.25  # of the shipped transformer's steps


def run(scale: Scale, work: Path, device: str, time_limit: float | None, num_samples: int) -> dict[str, float]:
    """Trains both from where they stand; writes `ablation.json` with each one's binding accuracy once both are done."""
    short = replace(
        scale,
        stage_one_steps=max(1, int(SHARE * scale.stage_one_steps)),
        stage_two_new_steps=max(1, int(SHARE * scale.stage_two_new_steps)),
        stage_two_image_steps=max(1, int(SHARE * scale.stage_two_image_steps)),
        stage_two_clip_steps=max(1, int(SHARE * scale.stage_two_clip_steps)),
    )
    result: dict[str, float] = {}
    for name, binds in (("word tokens", True), ("no word tokens", False)):
        folder = work / f"ablation-{'with' if binds else 'without'}-words.run"
        trained = transformer.train(short, work, device, time_limit, run=folder, word_binding=binds)
        if trained.stopped != "done":
            return result
        pipeline = bundle.assemble(scale, work, folder.name.removesuffix(".run")).to(device)
        pipeline.set_progress_bar_config(disable=True)
        study = studies.binding(Judges.load(work, device), scale, "train", num_samples)
        sheets = work / "scores"
        sheets.mkdir(exist_ok=True)
        measured = scores.score(
            pipeline, replace(study, name=f"{study.name} {name}", bounds=False), scale, None, sheets
        )
        result[name] = measured["generated"]["accuracy"]["mean"]
        (work / "ablation.json").write_text(json.dumps(result, indent=1) + "\n")
    return result
