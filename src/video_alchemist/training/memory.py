"""What a training step holds in the memory of one GPU, by kind, before anything is loaded.

Weights are counted from the configuration. What autograd keeps of a step grows linearly with depth, tokens and samples,
so the real network runs forward and backward on tensors without data (model/memory.py), two and three blocks deep, at
two lengths, and lines are drawn through that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

import torch
from torch import Tensor

from video_alchemist.model.flops import options
from video_alchemist.model.memory import MemoryMeter, dry, make
from video_alchemist.model.transformer import AlchemistTransformer
from video_alchemist.training.stages import Stage, Trainable
from video_alchemist.training.state import BACKBONE_ATTENTION, trained_names

PROBE_SIDE, PROBE_FRAMES = 32, (8, 16)  # patches: long enough for activations to outweigh a layer's weights


@dataclass(frozen=True)
class Conditions:
    """What one sample is conditioned on."""

    text_tokens: int
    images: int
    image_tokens: int  # of one image

    @property
    def reference_tokens(self) -> int:
        return self.images * self.image_tokens


@dataclass(frozen=True)
class Activations:
    """Bytes of one micro-batch's activations."""

    boundary: float  # what a block receives: all that activation checkpointing keeps of it
    block: float  # what autograd keeps of one block
    ends: float  # of all before and after the blocks, and of the conditions; less what the first block spares
    passing: float  # what comes and goes at the worst moment
    depth: int

    def peak(self, checkpointing: bool) -> float:
        if checkpointing:
            return max(self.ends, 0) + self.depth * self.boundary + self.block + self.passing
        return self.ends + self.depth * self.block + self.passing


def activations(
    config: Mapping[str, Any], conditions: Conditions, stage: Stage, dtype: torch.dtype = torch.bfloat16
) -> Callable[[int, int], Activations]:
    """(tokens of a clip, clips) -> activations; all of them in the dtype that blocks compute in, as under FSDP."""
    config = options(config)
    patch = tuple(config["patch_size"])
    fixed = tuple((name, value) for name, value in config.items() if name not in ("patch_size", "depth"))
    lengths = [PROBE_FRAMES[i] * PROBE_SIDE**2 for i in (0, 1)]
    blocks, ends, passing = _probes(fixed, patch, conditions, stage.personalization, stage.trainable, dtype)

    def at(tokens: int, clips: int) -> Activations:
        return Activations(
            boundary=clips * tokens * config["hidden_size"] * dtype.itemsize,
            block=clips * _line(lengths, blocks, tokens),
            ends=clips * _line(lengths, ends, tokens),
            passing=max(0, _line(lengths, passing, tokens * clips)),  # with one layer's gradient, once for all clips
            depth=config["depth"],
        )

    return at


@cache
def _probes(
    fixed: tuple[tuple[str, Any], ...],
    patch: tuple[int, int, int],
    conditions: Conditions,
    personalization: bool,
    trainable: Trainable,
    dtype: torch.dtype,
) -> tuple[list[float], list[float], list[float]]:
    """Bytes of a block, of the ends and passing, of one clip at both lengths.

    Where frozen layers before the first trained one keep nothing, the ends are negative.
    """
    stage = Stage("probe", personalization, trainable, steps=1, warmup=0)
    blocks, ends, passing = [], [], []
    for frames in PROBE_FRAMES:
        latent = (frames * patch[0], PROBE_SIDE * patch[1], PROBE_SIDE * patch[2])
        (two, two_peak), (three, three_peak) = (
            run_step({**dict(fixed), "patch_size": patch, "depth": depth}, conditions, stage, latent, dtype)
            for depth in (2, 3)
        )
        blocks.append(three - two)
        ends.append(two - 2 * (three - two))
        passing.append(max(three_peak - three, two_peak - two))
    return blocks, ends, passing


def _line(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """The line through two points."""
    return ys[0] + (x - xs[0]) * (ys[1] - ys[0]) / (xs[1] - xs[0])


def run_step(
    config: Mapping[str, Any],
    conditions: Conditions,
    stage: Stage,
    latent: tuple[int, int, int],
    dtype: torch.dtype,
) -> tuple[float, float]:
    """Bytes of activations between forward and backward of one clip, and the most at any moment."""
    config = {**options(config), "personalization": stage.personalization}
    with dry():
        network = make(lambda: AlchemistTransformer(**config), dtype).train()
        trained = trained_names(network, stage)
        for name, parameter in network.named_parameters():
            # An adapter keeps what its layer would keep if it were trained; PEFT would slow this down.
            adapted = stage.trainable == "lora" and any(f".{part}." in name for part in BACKBONE_ATTENTION)
            parameter.requires_grad_(name in trained or (adapted and parameter.ndim == 2))
            if parameter.requires_grad:  # FSDP reduces a gradient as soon as it is there
                parameter.register_post_accumulate_grad_hook(_drop_gradient)
        z = torch.empty(1, config["in_channels"], *latent, dtype=dtype)
        text = torch.empty(1, conditions.text_tokens, config["text_dim"], dtype=dtype)
        mask = torch.ones(1, conditions.text_tokens, dtype=torch.bool)
        with MemoryMeter(network) as meter:
            given: dict[str, Any] = {}
            if stage.personalization and conditions.images:
                shape = (1, conditions.images)
                images = torch.empty(*shape, conditions.image_tokens, config["image_dim"], dtype=dtype)
                words = torch.empty(*shape, config["word_length"] * config["text_dim"], dtype=dtype)
                given["references"], given["reference_mask"] = network.bind(images, words)
            velocity = network(z, torch.rand(1), text, mask, **given)
            loss = (velocity.float() - z.float()).square().mean()
            kept = meter.live
            loss.backward()
    return kept, meter.peak


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


# ------------------------------------------------------------------------------------------------------------------
# Weights


@dataclass(frozen=True)
class Counts:
    """Numbers of parameters."""

    total: int  # of the transformer, adapters included
    block: int  # of one block
    depth: int
    trained: int  # in this stage
    averaged: int  # in this stage or before: what the moving average covers
    frozen: int  # of the networks beside it; 0 where what they make is precomputed
    halved: int = 0  # kept in bfloat16, as no stage trains them


@dataclass(frozen=True)
class StepMemory:
    """Bytes on one GPU while a step runs, by kind."""

    parameters: float
    gradients: float
    optimizer: float
    ema: float
    gathered: float
    frozen: float
    activations: float

    @property
    def total(self) -> float:
        return sum(getattr(self, field.name) for field in fields(self))


def step_memory(counts: Counts, shard: int, activation: float) -> StepMemory:
    """FSDP2 (training/parallel.py): weights, gradients, average and AdamW's two moments in `shard` parts, all in fp32
    but for weights that no stage trains.

    In bfloat16 and whole: what lies outside of the blocks, the block that computes and the next one, which arrives;
    one block's gradients, also in fp32 for their sum over GPUs; the frozen networks.
    """
    outside = counts.total - counts.depth * counts.block
    trained_of_block = counts.block * counts.trained / counts.total
    return StepMemory(
        parameters=(4 * counts.total - 2 * counts.halved) / shard,
        gradients=4 * counts.trained / shard,
        optimizer=8 * counts.trained / shard,
        ema=4 * counts.averaged / shard,
        gathered=2 * (outside + 2 * counts.block) + (2 + 4) * trained_of_block,
        frozen=2 * counts.frozen,
        activations=activation,
    )

