"""A run's plan: Table 6's samples, memory against what autograd really keeps, and what to do where nothing fits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from video_alchemist.dataset.buckets import Bucket
from video_alchemist.model.hardware import GIB, GPUS, find_gpu
from video_alchemist.model.memory import MemoryMeter
from video_alchemist.model.transformer import AlchemistTransformer
from video_alchemist.presets import Preset, emojiworld, paper, wan_1_3b
from video_alchemist.training.config import LoraConfig, ParallelConfig, TrainConfig
from video_alchemist.training.dry_run import dry_run
from video_alchemist.training.memory import Activations, Conditions, Counts, activations, step_memory
from video_alchemist.training.plan import counted, make_cluster, plan, smaller
from video_alchemist.training.stages import Stage
from video_alchemist.training.state import add_lora, trained_names

SMALL = {
    "in_channels": 4, "hidden_size": 64, "depth": 4, "num_heads": 4, "text_dim": 32, "image_dim": 48, "dropout": 0.1
}  # fmt: skip
WAN = {
    "modulation": "shared_table", "qk_norm": "across_heads", "ffn_size": 96, "text_projection": True,
    "text_norm": True, "text_bias": True,
}  # fmt: skip
CONDITIONS = Conditions(text_tokens=12, images=2, image_tokens=16)
NEW, ALL = (Stage("s", True, trainable, steps=1, warmup=0) for trainable in ("personalization", "all"))  # type: ignore[arg-type]
LORA = Stage("s", True, "lora", steps=1, warmup=0)
LATENT, CLIPS = (5, 24, 32), 2  # 960 tokens


def real_step(network: AlchemistTransformer) -> tuple[int, int]:
    """Bytes that autograd keeps, each storage once, and the most that lives at any moment of the step."""
    kept: dict[int, int] = {}
    given = {parameter.untyped_storage()._cdata for parameter in network.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in given:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    z = torch.randn(CLIPS, network.config["in_channels"], *LATENT)
    text, mask = torch.randn(CLIPS, 12, network.config["text_dim"]), torch.ones(CLIPS, 12, dtype=torch.bool)
    images = torch.randn(CLIPS, 2, 16, network.config["image_dim"])
    words = torch.randn(CLIPS, 2, network.config["word_length"] * network.config["text_dim"])
    with MemoryMeter(network) as meter:
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            references, reference_mask = network.bind(images, words)
            velocity = network(z, torch.rand(CLIPS), text, mask, references, reference_mask)
            loss = (velocity - z).square().mean()
        loss.backward()
    return sum(kept.values()), meter.peak


@pytest.mark.parametrize(("options", "stage"), [({}, ALL), ({}, LORA), (WAN, ALL), (WAN, NEW)])
def test_activations_are_what_autograd_keeps(options: dict[str, Any], stage: Stage) -> None:
    """Guards against a plan that says a bucket fits when it does not: within 15 %, with and without recomputation."""
    config = {**SMALL, **options}
    tokens = LATENT[0] * LATENT[1] * LATENT[2] // 4
    predicted = activations(config, CONDITIONS, stage, torch.float32)(tokens, CLIPS)
    for checkpointing in (False, True):
        network = AlchemistTransformer(**config).train()
        if stage.trainable == "lora":
            add_lora(network, LoraConfig())
        trained = trained_names(network, stage)
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in trained)
        if checkpointing:
            network.enable_gradient_checkpointing()
        kept, peak = real_step(network)
        assert predicted.peak(checkpointing) == pytest.approx(peak, rel=0.15)
        if not checkpointing:
            assert predicted.ends + predicted.depth * predicted.block == pytest.approx(kept, rel=0.15)


def test_weights_take_twenty_bytes_a_parameter() -> None:
    """Guards against a forgotten kind: fp32 weights, gradients, two moments and an average, in equal shards."""
    counts = Counts(total=1000, block=100, depth=10, trained=1000, averaged=1000, frozen=50)
    alone, shared = (step_memory(counts, shard, 7.0) for shard in (1, 8))
    kept = alone.parameters + alone.gradients + alone.optimizer + alone.ema
    assert kept == 20 * 1000
    assert shared.parameters + shared.gradients + shared.optimizer + shared.ema == kept / 8
    # Two blocks and the gradients of one, also in fp32; the frozen networks in bfloat16.
    assert alone.gathered == shared.gathered == 2 * 200 + 6 * 100
    assert (alone.frozen, alone.total) == (100, 20_000 + 1000 + 100 + 7)
    new = step_memory(replace(counts, trained=100, averaged=100), 1, 0.0)
    assert (new.parameters, new.gradients, new.optimizer, new.ema) == (4000, 400, 800, 400)


def test_a_frozen_backbone_takes_half() -> None:
    """Guards against a plan with float32 masters of what no stage trains, or without those of what a later one does."""
    new, low, everything = (replace(one, name=name) for name, one in (("new", NEW), ("lora", LORA), ("all", ALL)))

    def counts_of(*stages: Stage, **parallel: Any) -> list[Counts]:
        training = TrainConfig(stages=stages, parallel=ParallelConfig(**parallel))
        return [counts for _, counts in counted(small(wan_1_3b(), training=training), stages)]

    first, second = counts_of(new, low)
    adapters = second.total - first.total
    assert (first.trained, second.trained) == (first.averaged, adapters)
    assert second.averaged == first.trained + adapters
    assert 0.9 * (first.total - first.trained) < first.halved < first.total - first.trained  # tables stay float32
    assert second.halved == first.halved
    saved = step_memory(replace(first, halved=0), 1, 0.0).total - step_memory(first, 1, 0.0).total
    assert saved == 2 * first.halved
    for stages, options in (((new, everything), {}), ((new,), {"precision": "float32"})):
        assert [counts.halved for counts in counts_of(*stages, **options)] == [0] * len(stages)


def test_checkpointing_keeps_what_blocks_receive() -> None:
    """Guards against a formula that charges all blocks for one that is computed anew."""
    one = Activations(boundary=1, block=30, ends=5, passing=2, depth=10)
    assert (one.peak(False), one.peak(True)) == (5 + 300 + 2, 5 + 10 + 30 + 2)


def small(preset: Preset, **options: Any) -> Preset:
    """A preset whose transformer is small, so that the test is."""
    sizes = {"hidden_size": 64, "depth": 2, "num_heads": 4}
    return replace(preset, transformer={**preset.transformer, **sizes}, **options)


def test_table_6_gives_the_papers_samples() -> None:
    """Guards against batch sizes read as of all GPUs, or of one: Table 6 says 234M and 39M samples."""
    preset = small(paper())
    cluster = make_cluster(preset.training, 256, "a100-80gb", 0.35)
    first, *second = plan(preset, cluster)
    assert first.clips * 16 == pytest.approx(235.2, abs=0.05)
    assert first.samples == pytest.approx(225.8e6, rel=1e-3)
    assert sum(stage.samples for stage in second) * 64 / 256 == pytest.approx(37.6e6, rel=1e-3)
    assert [stage.stage.steps for stage in (first, *second)] == [60_000, 10_000, 30_000]
    text = dry_run(preset, 256, "a100-80gb")
    assert "235.2 clips on average, must be those of 16 GPUs; x 256 / 16 x 60k steps = 226M" in text
    assert all(bucket.name in text for bucket in preset.buckets)


def test_gpu_days_go_by_the_mfu() -> None:
    """Guards against a speed that the report names and does not reckon with."""
    preset = small(paper(), buckets=(Bucket((256, 144), 17, 64, 1.0),))
    slow, fast = (plan(preset, make_cluster(preset.training, 8, "h200", mfu))[0].gpu_days for mfu in (0.2, 0.4))
    assert slow == pytest.approx(2 * fast)
    assert "at an MFU of 40%" in dry_run(preset, 8, "h200", mfu=0.4)


def test_gpu_days_are_flops_over_speed() -> None:
    """Guards against micro-batches, GPUs or buckets' weights counted twice or not at all."""
    stage = Stage("I", personalization=False, trainable="all", steps=1000, warmup=0)
    buckets = (Bucket((64, 64), 1, 4, 30.0), Bucket((64, 64), 17, 2, 10.0))
    preset = replace(emojiworld(), buckets=buckets, training=TrainConfig(stages=(stage,), micro_batches=8))
    (one,) = plan(preset, make_cluster(preset.training, 2, "h100-80gb", 0.5))
    flops = sum(0.75 * row.flops if row.bucket == buckets[0] else 0.25 * row.flops for row in one.buckets)
    assert one.gpu_days == pytest.approx(1000 * 8 * flops / (0.5 * GPUS["h100-80gb"].flops) / 86_400)
    assert one.samples == 1000 * 8 * (0.75 * 4 + 0.25 * 2)


def test_what_does_not_fit_is_made_smaller() -> None:
    """Guards against advice that does not fit either."""
    preset = small(paper(), buckets=(Bucket((256, 144), 17, 64, 1.0), Bucket((256, 144), 289, 64, 1.0)))
    plans = plan(preset, make_cluster(preset.training, 1, "4GB", 0.35), precomputed=True)
    (fits, tight) = plans[-1].buckets
    assert tight.checkpointed.total > plans[-1].buckets[0].checkpointed.total
    assert 0 < tight.most_clips < 64
    fitting = smaller(preset, plans)
    again = plan(replace(preset, buckets=fitting), make_cluster(preset.training, 1, "4GB", 0.35), precomputed=True)
    assert all(row.checkpointed.total <= find_gpu("4GB").usable for one in again for row in one.buckets)
    assert fitting[0].batch_size == min(64, fits.most_clips)
    assert "--set tokens_per_gpu=" in dry_run(preset, 1, "4GB", precomputed=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, "a100-90gb"), "gpu 'a100-90gb'; expected one of .*; nearest: a100-80gb"),
        ((0, "h200"), "0 GPUs"),
        ((1, "h200", 1.5), "mfu is 1.5"),
    ],
)
def test_mistakes(arguments: tuple[Any, ...], message: str) -> None:
    """Guards against a report on a card that nobody has."""
    gpus, gpu, *mfu = arguments
    with pytest.raises(ValueError, match=message):
        dry_run(emojiworld(), gpus, gpu, **({"mfu": mfu[0]} if mfu else {}))
    assert find_gpu("24GB").memory == 24 * GIB and find_gpu("24GB").flops == 0
