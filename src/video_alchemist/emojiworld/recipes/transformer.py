"""The shipped diffusion transformer: the paper's two stages (App. B.2) on EmojiWorld, pictures first, then clips."""

from __future__ import annotations

from pathlib import Path

import torch

from video_alchemist.emojiworld.recipes.encoded import WORD_LENGTH, EncodedWorld, precompute
from video_alchemist.emojiworld.recipes.scale import Scale
from video_alchemist.model.transformer import AlchemistTransformer
from video_alchemist.training.config import CheckpointConfig, OptimizerConfig, TrainConfig
from video_alchemist.training.stages import Stage
from video_alchemist.training.trainer import train as run_training


def stages(scale: Scale) -> tuple[Stage, ...]:
    """Stage I and II of the paper; the second half of stage II goes from single frames to clips."""
    return (
        Stage("I", personalization=False, trainable="all", steps=scale.stage_one_steps, warmup=100),
        Stage(
            "II-new", personalization=True, trainable="personalization", steps=scale.stage_two_new_steps, warmup=100
        ),
        Stage("II-all", personalization=True, trainable="all", steps=scale.stage_two_image_steps, warmup=0),
        Stage("II-clips", personalization=True, trainable="all", steps=scale.stage_two_clip_steps, warmup=100),
    )


def train_config(scale: Scale) -> TrainConfig:
    # Table 6 trains 10B parameters at 1e-4; a model a thousandth of that size bears, and in our time needs, more.
    return TrainConfig(
        seed=0,
        stages=stages(scale),
        optimizer=OptimizerConfig(learning_rate=scale.learning_rate),
        checkpoint=CheckpointConfig(every=500, keep=2),
        ema_decay=scale.ema_decay,
        dropout=0.0,  # a small model on endless data underfits; nothing to regularise
    )


def build(scale: Scale, **ablation: bool) -> AlchemistTransformer:
    torch.manual_seed(0)
    return AlchemistTransformer(
        in_channels=scale.latent_channels,
        text_dim=scale.text_encoder["d_model"],
        image_dim=scale.image_encoder["hidden_size"],
        word_length=WORD_LENGTH,
        personalization=False,
        **scale.transformer,
        **ablation,
    )


def train(scale: Scale, work: Path, device: str, time_limit: float | None, name: str = "transformer", **ablation: bool) -> Path:
    """Trains from where it stands; returns the run's folder."""
    pictures = precompute(scale, work, device, clips=False, count=scale.image_scenes)

    def source(stage: Stage) -> EncodedWorld:
        if stage.name == "II-clips":
            clips = precompute(scale, work, device, clips=True, count=scale.clip_scenes)
            return EncodedWorld(clips, scale.clip_batch, seed=2, references=True)
        return EncodedWorld(pictures, scale.image_batch, seed=1, references=stage.personalization)

    run = work / f"{name}.run"
    run_training(build(scale, **ablation), source, train_config(scale), run, time_limit=time_limit, device=device)
    return run
