"""A transformer of 30k parameters, random batches for it, and runs of a few steps; worker processes import it, too."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from video_alchemist.dataset.batch import Batch
from video_alchemist.model.transformer import AlchemistTransformer
from video_alchemist.training.config import CheckpointConfig, OptimizerConfig, ParallelConfig, TrainConfig
from video_alchemist.training.stages import Stage
from video_alchemist.training.trainer import Trained, train

STAGES = (
    Stage("I", personalization=False, trainable="all", steps=6, warmup=0),
    Stage("II-new", personalization=True, trainable="personalization", steps=6, warmup=4),
    Stage("II-all", personalization=True, trainable="all", steps=8, warmup=0),
)
STEPS = 20


def make_transformer(personalization: bool = False, **changes: Any) -> AlchemistTransformer:
    torch.manual_seed(0)
    sizes: dict[str, Any] = dict(
        in_channels=4, hidden_size=32, depth=2, num_heads=2, mlp_ratio=2.0, text_dim=8, image_dim=16, word_length=2
    )
    return AlchemistTransformer(**{**sizes, "personalization": personalization, **changes})


def make_batch(size: int, generator: torch.Generator, with_images: bool = True) -> Batch:
    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    batch = Batch(normal(size, 4, 1, 4, 4), normal(size, 5, 8), torch.ones(size, 5, dtype=torch.bool))
    if not with_images:
        return batch
    words = torch.tensor([[0, 1], [3, -1]]).expand(size, -1, -1)
    image_mask = torch.ones(size, 2, dtype=torch.bool)
    return Batch(batch.z0, batch.text_tokens, batch.text_mask, normal(size, 2, 3, 16), words, image_mask)


@dataclass(frozen=True)
class RandomSource:
    size: int = 2
    with_images: bool = True
    nan_at: int = -1
    missing_at: int = -1

    def batch(self, index: int) -> Batch:
        if index == self.missing_at:
            raise ValueError("shard 3 is missing; expected clips-00003.tar")
        # Every third batch is without pictures: ranks must agree nevertheless on what has a gradient.
        with_images = self.with_images and index % 3 > 0
        batch = make_batch(self.size, torch.Generator().manual_seed(index), with_images)
        if index == self.nan_at:
            batch.z0[0, 0, 0, 0, 0] = float("nan")
        return replace(batch, bucket="4x4x1", ids=tuple(f"clip-{index}-{i}" for i in range(self.size)))


def config(learning_rate: float = 1e-2, **changes: Any) -> TrainConfig:
    optimizer = OptimizerConfig(learning_rate=learning_rate)
    return TrainConfig(**{"stages": STAGES, "optimizer": optimizer, "checkpoint": CheckpointConfig(8), **changes})


LORA = Stage("II-lora", personalization=True, trainable="lora", steps=8, warmup=0)  # after II-new, in bfloat16
FROZEN = (replace(STAGES[1], steps=4), LORA)

VARIANTS = {
    "fsdp": ParallelConfig(),
    "hsdp, checkpointed": ParallelConfig(shard=1, replicate=2, activation_checkpointing=True),
}


def run_variant(out: Path, name: str, max_steps: int = STEPS) -> Trained:
    """The same run whatever the variant: two micro-batches a step on however many ranks, or as the name says.

    Only the first rank has weights to begin with.
    """
    parallel = VARIANTS.get(name, ParallelConfig())
    stages = STAGES
    if name.startswith("frozen"):
        parallel, stages = ParallelConfig(precision="bfloat16"), FROZEN
    every = CheckpointConfig(every=3 if name == "killed" else 50)
    number = {"whole": 1, "killed": 1, "four": 4, "four-alone": 4}.get(name, 2)
    settings = config(1e-3, parallel=parallel, micro_batches=number, checkpoint=every, stages=stages)
    with torch.device("meta" if dist.is_initialized() and dist.get_rank() > 0 else "cpu"):
        transformer = make_transformer()
    return train(transformer, RandomSource(), settings, out / name, max_steps=max_steps)
