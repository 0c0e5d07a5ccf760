"""The shipped diffusion transformer: the paper's two stages (App. B.2) on EmojiWorld, pictures first, then clips."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from video_alchemist.emojiworld.recipes.encoded import WORD_LENGTH, EncodedWorld, precompute
from video_alchemist.emojiworld.recipes.scale import Scale
from video_alchemist.model.transformer import AlchemistTransformer
from video_alchemist.training import parallel
from video_alchemist.training.config import CheckpointConfig, OptimizerConfig, ParallelConfig, TrainConfig
from video_alchemist.training.plot import curves
from video_alchemist.training.stages import Stage
from video_alchemist.training.trainer import OnSample, Trained
from video_alchemist.training.trainer import train as run_training

SHIPPED_PART = "transformer"  # in a working folder: what recipe "shipped" put there to begin with


def stages(scale: Scale) -> tuple[Stage, ...]:
    """Stage I and II of the paper; the second half of stage II goes from single frames to clips."""
    clip_steps = scale.stage_two_clip_steps
    return (
        Stage("I", personalization=False, trainable="all", steps=scale.stage_one_steps, warmup=100),
        Stage("II-new", personalization=True, trainable="personalization", steps=scale.stage_two_new_steps, warmup=100),
        Stage("II-all", personalization=True, trainable="all", steps=scale.stage_two_image_steps, warmup=0),
        Stage("II-clips", personalization=True, trainable="all", steps=clip_steps, warmup=100, decay=clip_steps // 4),
    )


def train_config(scale: Scale) -> TrainConfig:
    # Table 6 trains 10B parameters at 1e-4; a model a thousandth of that size bears, and in our time needs, more.
    return TrainConfig(
        seed=0,
        stages=stages(scale),
        optimizer=OptimizerConfig(learning_rate=scale.learning_rate, reference_factor=scale.reference_factor),
        localization_weight=scale.localization_weight,
        shift=scale.training_shift,
        checkpoint=CheckpointConfig(every=500, keep=2),
        ema_decay=scale.ema_decay,
        parallel=ParallelConfig(precision="mixed" if knows_bfloat16() else "auto"),
        data_workers=scale.workers if scale.workers > 1 else 0,
        dropout=0.0,  # a small model on endless data underfits; nothing to regularise
    )


def knows_bfloat16() -> bool:
    """Whether this is a CPU that multiplies bfloat16 faster than float32."""
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # not in every torch that we admit
    return not torch.cuda.is_available() and any(known.get(name) for name in ("avx512_bf16", "amx_bf16"))


def beginning(scale: Scale, work: Path) -> tuple[AlchemistTransformer, TrainConfig]:
    """A new transformer and both stages; or the shipped one, and stage II's last part."""
    if not (work / SHIPPED_PART).exists():
        return build(scale), train_config(scale)
    shipped = AlchemistTransformer.from_pretrained(work / SHIPPED_PART, torch_dtype=torch.float32)
    return shipped, replace(train_config(scale), stages=stages(scale)[-1:])


def build(scale: Scale) -> AlchemistTransformer:
    torch.manual_seed(0)
    return AlchemistTransformer(
        in_channels=scale.latent_channels,
        text_dim=scale.text_encoder["d_model"],
        image_dim=scale.image_encoder["hidden_size"],
        word_length=WORD_LENGTH,
        personalization=False,
        **scale.transformer,
    )


def train(
    scale: Scale,
    work: Path,
    device: str,
    time_limit: float | None,
    *,
    run: Path | None = None,
    networks: Path | None = None,
    config: TrainConfig | None = None,
    max_steps: int | None = None,
    on_sample: OnSample | None = None,
    initial: AlchemistTransformer | None = None,
) -> Trained:
    """Trains from where it stands. The encoded world is kept in `work`; the run's own folder is `work/transformer.run`.

    networks: folder of the frozen networks, where they are not in `work`. initial, config: weights to begin with and
    what is done with them, see `beginning`.
    """

    def encoded(clips: bool) -> Path:
        count = scale.clip_scenes if clips else scale.image_scenes
        made = precompute(scale, work, device, clips, count, networks) if dist.get_rank() == 0 else None
        return parallel.agreed(made)  # the other ranks wait for it

    def source(stage: Stage, micro_batches: int) -> EncodedWorld:
        if stage.name == "II-clips":
            return EncodedWorld(
                encoded(clips=True),
                scale.clip_batch,
                seed=2,
                references=True,
                micro_batches=micro_batches,
                localization_every=scale.clip_localization_every,
                subject_weight=scale.subject_weight,
                emphasis=scale.action_emphasis,
            )
        return EncodedWorld(encoded(clips=False), scale.image_batch, seed=1, references=stage.personalization)

    run = run or work / "transformer.run"
    first, usual = beginning(scale, work) if initial is None or config is None else (initial, config)
    trained = run_training(
        initial or first,
        source,
        config or usual,
        run,
        time_limit=time_limit,
        max_steps=max_steps,
        device=device,
        on_sample=on_sample,
    )
    if trained.first:
        curves(run)
    return trained
