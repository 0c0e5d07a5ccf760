"""`alchemist train emojiworld`: the transformer's two stages on the shipped networks, in a run folder of its own."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from video_alchemist.dataset.shards import read_manifest
from video_alchemist.emojiworld.recipes.scale import BASE, SMALL

PRESETS = {"emojiworld": SMALL, "emojiworld-base": BASE}


def parse_time(text: str) -> float:
    """Seconds of '90s', '9m', '1.5h' or '30'."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if match is None:
        raise ValueError(f"time {text!r}; expected a number with s, m or h, for example 9m")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def train_preset(
    preset: str,
    run: Path,
    max_steps: int | None,
    time_limit: str | None,
    settings: list[str],
    export: Path | None,
    data: str | Path | None = None,
) -> None:
    """Trains until the stages' end, `max_steps` or `time_limit`, whichever comes first; then exports.

    data: a folder of shards, or an fsspec URL of one; None = EmojiWorld, rendered.
    """
    if preset not in PRESETS:
        near = difflib.get_close_matches(preset, PRESETS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(PRESETS)}"
        raise ValueError(f"preset {preset!r}; {hint}")
    limit = None if time_limit is None else parse_time(time_limit)
    if data is not None:
        read_manifest(data)
    if max_steps is not None and max_steps < 1:
        raise ValueError(f"max_steps is {max_steps}; expected at least 1")

    import torch

    from video_alchemist.emojiworld.recipes.transformer import train, train_config
    from video_alchemist.sampling.pipeline import SHIPPED, AlchemistPipeline
    from video_alchemist.training.checkpoint import trained_transformer
    from video_alchemist.training.config import override

    scale, networks = PRESETS[preset], SHIPPED["emojiworld"]
    config = train_config(scale)
    for setting in settings:
        config = override(config, setting)
    pipeline = AlchemistPipeline.from_pretrained("emojiworld", torch_dtype=torch.float32)
    shipped = (pipeline.text_encoder.config.d_model, pipeline.image_encoder.config.hidden_size)
    wanted = (scale.text_encoder["d_model"], scale.image_encoder["hidden_size"])
    if shipped != wanted:
        raise ValueError(
            f"{preset} wants encoders of widths {wanted}, those that ship have {shipped}; run `make weights`"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    trained = train(
        scale, run, device, limit, run=run, networks=networks, config=config, max_steps=max_steps, data=data
    )
    print(f"{run}: step {trained.step} ({trained.stopped})", flush=True)
    if export is not None:
        pipeline.register_modules(transformer=trained_transformer(run))
        pipeline.save_pretrained(export)
        print(export, flush=True)
