"""`alchemist train emojiworld` without shards: the two stages on clips that are rendered here, in a run folder."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from video_alchemist.emojiworld.recipes.scale import BASE, SMALL

if TYPE_CHECKING:
    from video_alchemist.training.config import TrainConfig

WORLDS = {"emojiworld": SMALL, "emojiworld-base": BASE}
SHOWN = 3  # scenes of held-out concepts that the contact sheets are of


def parse_time(text: str) -> float:
    """Seconds of '90s', '9m', '1.5h' or '30'."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if match is None:
        raise ValueError(f"time {text!r}; expected a number with s, m or h, for example 9m")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def train_world(
    preset: str, config: TrainConfig, run: Path, limits: Mapping[str, Any], export: Path | None
) -> None:
    """Trains until the stages' end or a limit (max_steps, time_limit), whichever comes first; then exports."""
    import torch

    from video_alchemist.emojiworld.recipes.transformer import train
    from video_alchemist.sampling.pipeline import SHIPPED, AlchemistPipeline
    from video_alchemist.training.checkpoint import trained_transformer
    from video_alchemist.training.validation import ContactSheet

    scale, networks = WORLDS[preset], SHIPPED["emojiworld"]
    pipeline = AlchemistPipeline.from_pretrained("emojiworld", torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    shipped = (pipeline.text_encoder.config.d_model, pipeline.image_encoder.config.hidden_size)
    wanted = (scale.text_encoder["d_model"], scale.image_encoder["hidden_size"])
    if shipped != wanted:
        raise ValueError(
            f"{preset} wants encoders of widths {wanted}, those that ship have {shipped}; run `make weights`"
        )
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    pipeline.to(device)
    sheet = ContactSheet(pipeline, held_out_conditions()) if config.sample_every else None
    trained = train(scale, run, device, run=run, networks=networks, config=config, on_sample=sheet, **limits)
    if not trained.first:
        return
    print(f"{run}: step {trained.step} ({trained.stopped})", flush=True)
    if export is not None:
        pipeline.register_modules(transformer=trained_transformer(run))
        pipeline.save_pretrained(export)
        print(export, flush=True)


def held_out_conditions() -> list[Any]:
    """Captions of scenes that training never shows, with a picture of each word."""
    from video_alchemist.emojiworld.assets import load_assets
    from video_alchemist.emojiworld.files import example, numbered_scene
    from video_alchemist.records import Condition

    assets, conditions = load_assets(), []
    for number in range(SHOWN):
        clip = example(numbered_scene(assets, 1, number, "test_concept"), assets, str(number), num_frames=1)
        chosen = {(one.word, one.occurrence): one for one in reversed(clip.references)}
        conditions.append(Condition(clip.caption, tuple(chosen.values())))
    return conditions
