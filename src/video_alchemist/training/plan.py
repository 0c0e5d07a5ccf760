"""A training run's cost in numbers: FLOPs, memory, samples and GPU-days of every stage and bucket (Tables 5 and 6).

seconds of a micro-batch = clips x FLOPs of a clip / (MFU x the card's FLOP/s)
GPU-days = GPUs x steps x micro-batches of a GPU x mean seconds / 86,400
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from video_alchemist.dataset.buckets import Bucket, bucket_tokens
from video_alchemist.model.flops import options, parameter_counts, step_flops
from video_alchemist.model.hardware import Gpu, find_gpu
from video_alchemist.model.transformer import AlchemistTransformer
from video_alchemist.pretrained.outline import outline
from video_alchemist.training.config import TrainConfig
from video_alchemist.training.memory import Activations, Conditions, Counts, StepMemory, activations, step_memory
from video_alchemist.training.stages import Stage
from video_alchemist.training.state import add_lora, never_trained, trained_names, unadapted

CAPTION_TOKENS = 128  # where the text encoder does not pad: a caption of some 90 words


@dataclass(frozen=True)
class Cluster:
    gpus: int
    card: Gpu
    mfu: float
    shard: int  # GPUs that one copy of the weights is divided over


@dataclass(frozen=True)
class BucketPlan:
    """One bucket on one GPU: a micro-batch. Memory without and with activation checkpointing."""

    bucket: Bucket
    tokens: int  # of one clip
    flops: float  # nothing computed twice
    seconds: float  # 0 where the card's speed is not known
    kept: StepMemory
    checkpointed: StepMemory
    most_clips: int  # that fit with activation checkpointing


@dataclass(frozen=True)
class StagePlan:
    stage: Stage
    parts: dict[str, int]  # parameters
    counts: Counts
    clips: float  # of a micro-batch, on average
    samples: float
    gpu_days: float
    buckets: tuple[BucketPlan, ...]

    @property
    def fullest(self) -> BucketPlan:
        """The bucket that needs most memory."""
        return max(self.buckets, key=lambda row: row.checkpointed.total)


def make_cluster(config: TrainConfig, gpus: int, gpu: str, mfu: float) -> Cluster:
    card = find_gpu(gpu)
    shard = config.parallel.shard or max(1, gpus // config.parallel.replicate)
    if gpus < 1 or gpus % shard:
        raise ValueError(f"{gpus} GPUs, one copy of the weights over {shard}; expected a multiple of {shard}")
    if not 0 < mfu <= 1:
        raise ValueError(f"mfu is {mfu}; expected above 0, at most 1")
    return Cluster(gpus, card, mfu, shard)


def plan(
    preset: Any, cluster: Cluster, precomputed: bool = False, stages: Sequence[Stage] | None = None
) -> list[StagePlan]:
    """The stages of a presets.Preset (or other ones). Every GPU draws the same bucket at a step.

    precomputed: latents and text embeddings are read, so that only the image encoder is loaded.
    """
    stages = [stage for stage in (preset.training.stages if stages is None else stages) if stage.steps]
    return [
        _plan_stage(preset, stage, parts, counts, cluster)
        for stage, (parts, counts) in zip(stages, counted(preset, stages, precomputed), strict=True)
    ]


def counted(
    preset: Any, stages: Sequence[Stage], precomputed: bool = False
) -> list[tuple[dict[str, int], Counts]]:
    """Parameters of every stage's transformer by part, and all that memory depends on. stages: of the whole run."""
    frozen = frozen_parameters(preset)
    averaged: dict[str, int] = {}
    found = []
    for stage in stages:
        network = _outline(preset, stage)
        sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
        trained = {unadapted(name): sizes[name] for name in trained_names(network, stage)}
        averaged |= trained  # a parameter has an average from the first stage on that trains it
        parts = parameter_counts(network)
        counts = Counts(
            total=parts.pop("total"),
            block=sum(parameter.numel() for parameter in network.blocks[0].parameters()),
            depth=len(network.blocks),
            trained=sum(trained.values()),
            averaged=sum(averaged.values()),
            frozen=frozen["image_encoder"] if precomputed else sum(frozen.values()),
            halved=sum(sizes[name] for name in never_trained(network, stages)) if _halves(preset.training) else 0,
        )
        found.append((parts, counts))
    return found


def _halves(config: TrainConfig) -> bool:
    """Whether a GPU keeps in bfloat16 what no stage trains."""
    return config.parallel.precision in ("auto", "bfloat16") and config.parallel.frozen_precision == "compute"


def frozen_parameters(preset: Any) -> dict[str, int]:
    """Of the networks beside the transformer."""
    sources = {
        "autoencoder": preset.autoencoder,
        "text_encoder": preset.text_encoder,
        "image_encoder": preset.image_encoder.model,
    }
    with torch.device("meta"):
        return {part: sum(p.numel() for p in outline(source, part).parameters()) for part, source in sources.items()}


def _outline(preset: Any, stage: Stage) -> AlchemistTransformer:
    """A stage's transformer without weights, adapters included."""
    with torch.device("meta"):
        network = AlchemistTransformer(**{**options(preset.transformer), "personalization": stage.personalization})
        if stage.trainable == "lora":
            add_lora(network, preset.training.lora)
    return network


def _plan_stage(preset: Any, stage: Stage, parts: dict[str, int], counts: Counts, cluster: Cluster) -> StagePlan:
    training: TrainConfig = preset.training
    config = {**options(preset.transformer), "personalization": stage.personalization, "dropout": training.dropout}
    conditions = Conditions(
        text_tokens=512 if preset.pad_text else CAPTION_TOKENS,
        images=config["max_images"] * stage.personalization,
        image_tokens=preset.image_encoder.tokens,
    )
    rule = activations(config, conditions, stage)
    rows = tuple(
        _plan_bucket(bucket, config, conditions, stage, rule, counts, cluster) for bucket in preset.buckets
    )
    weight = sum(row.bucket.weight for row in rows)
    clips = sum(row.bucket.weight * row.bucket.batch_size for row in rows) / weight
    seconds = sum(row.bucket.weight * row.seconds for row in rows) / weight
    micro_batches = max(training.micro_batches, cluster.gpus)
    return StagePlan(
        stage,
        parts,
        counts,
        clips,
        samples=stage.steps * micro_batches * clips,
        gpu_days=stage.steps * micro_batches * seconds / 86_400,
        buckets=rows,
    )


def _plan_bucket(
    bucket: Bucket,
    config: Mapping[str, Any],
    conditions: Conditions,
    stage: Stage,
    rule: Callable[[int, int], Activations],
    counts: Counts,
    cluster: Cluster,
) -> BucketPlan:
    tokens = bucket_tokens(bucket, patch=tuple(config["patch_size"]))
    references = conditions.reference_tokens
    flops = bucket.batch_size * step_flops(config, tokens, conditions.text_tokens, references, stage.trainable)

    def memory(clips: int, checkpointing: bool) -> StepMemory:
        return step_memory(counts, cluster.shard, rule(tokens, clips).peak(checkpointing))

    most = 0
    while most < 2 * bucket.batch_size and memory(most + 1, True).total <= cluster.card.usable:
        most += 1
    return BucketPlan(
        bucket,
        tokens,
        flops,
        flops / (cluster.mfu * cluster.card.flops) if cluster.card.flops else 0.0,
        memory(bucket.batch_size, False),
        memory(bucket.batch_size, True),
        most,
    )


def smaller(preset: Any, plans: Sequence[StagePlan]) -> tuple[Bucket, ...]:
    """The preset's buckets, with no more clips than fit in every stage; those of which not one fits are left out."""
    most = {bucket.name: min(row.most_clips for plan in plans for row in plan.buckets if row.bucket == bucket)
            for bucket in preset.buckets}  # fmt: skip
    return tuple(
        replace(bucket, batch_size=min(bucket.batch_size, most[bucket.name]))
        for bucket in preset.buckets
        if most[bucket.name]
    )
