"""The plan of a training run as text: `alchemist train paper --dry-run --gpus 256 --gpu a100-80gb`.

Nothing is loaded and no GPU is touched; numbers are training/plan.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from video_alchemist.dataset.buckets import GPUS as TABLE_6_GPUS
from video_alchemist.dataset.buckets import table_6
from video_alchemist.model.hardware import GIB
from video_alchemist.training.memory import StepMemory, step_memory
from video_alchemist.training.plan import Cluster, StagePlan, frozen_parameters, make_cluster, plan, smaller
from video_alchemist.training.stages import Stage

NODE = 8  # GPUs of one machine, over which HSDP divides a copy of the weights
CHOICES = (  # of what is trained in stage II, from the cheapest on
    Stage("new layers", personalization=True, trainable="personalization", steps=10_000, warmup=0),
    Stage("LoRA", personalization=True, trainable="lora", steps=10_000, warmup=0),
    Stage("everything", personalization=True, trainable="all", steps=10_000, warmup=0),
)


def dry_run(
    preset: Any, gpus: int = 1, gpu: str = "a100-80gb", *, mfu: float = 0.35, precomputed: bool = False
) -> str:
    """The report on a presets.Preset. precomputed: latents and text embeddings are read, not made."""
    cluster = make_cluster(preset.training, gpus, gpu, mfu)
    card, plans = cluster.card, plan(preset, cluster, precomputed)
    speed = f"{card.flops / 1e12:.0f} TFLOP/s dense bf16, " if card.flops else ""
    copies = f"one copy of the weights over {cluster.shard}" if gpus > 1 else "alone"
    sections = [
        [f"{preset.name} on {gpus} x {card.name} ({speed}{_gib(card.usable)} of {_gib(card.memory)} GiB), {copies}"],
        _parameters(preset, plans),
        _memory(plans, cluster),
        _buckets(plans[-1], cluster),
        _stages(preset, plans, cluster),
        _choices(preset, cluster),
        _advice(preset, plans, cluster),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def _parameters(preset: Any, plans: Sequence[StagePlan]) -> list[str]:
    parts = plans[-1].parts
    columns = [f"{name} {_count(count)}" for name, count in sorted(parts.items(), key=lambda item: -item[1])]
    totals = dict.fromkeys((plan.stage.personalization, plan.counts.total) for plan in plans)
    named = [f"{_count(total)} {'with' if on else 'without'} personalisation" for on, total in totals]
    frozen = [f"{part} {_count(count)}" for part, count in frozen_parameters(preset).items()]
    return ["parameters: " + ", ".join(named), "  " + ", ".join(columns), "  frozen beside them: " + ", ".join(frozen)]


def _memory(plans: Sequence[StagePlan], cluster: Cluster) -> list[str]:
    """Memory by kind in the fullest bucket of each stage, as asked for and under HSDP."""
    columns: list[tuple[str, StepMemory]] = []
    for one in plans:
        columns.append((one.stage.name, one.fullest.checkpointed))
    hsdp = cluster.shard > NODE and cluster.gpus % NODE == 0
    if hsdp:
        last = plans[-1]
        memory = step_memory(last.counts, NODE, last.fullest.checkpointed.activations)
        columns.append((f"{last.stage.name}, HSDP", memory))
    table = [["GiB of one GPU", *(name for name, _ in columns)]]
    for field in fields(StepMemory):
        table.append([field.name, *(_gib(getattr(memory, field.name)) for _, memory in columns)])
    table.append(["total", *(_gib(memory.total) for _, memory in columns)])
    note = f"; HSDP: a copy over the {NODE} GPUs of a machine" if hsdp else ""
    return [f"memory in the fullest bucket, with activation checkpointing{note}", *_aligned(table)]


def _buckets(last: StagePlan, cluster: Cluster) -> list[str]:
    usable = cluster.card.usable
    weight = sum(row.bucket.weight for row in last.buckets)
    header = ["bucket", "drawn", "clips", "tokens", "PFLOP", "seconds", "GiB kept", "GiB checkpointed", "fits"]
    table = [header]
    for row in last.buckets:
        fits = "yes" if row.kept.total <= usable else "checkpointed" if row.checkpointed.total <= usable else "NO"
        if fits == "NO":
            fits = f"NO, {row.most_clips} clips do" if row.most_clips else "NO, not even one clip"
        table.append([
            row.bucket.name, f"{row.bucket.weight / weight:.1%}", str(row.bucket.batch_size),
            f"{row.bucket.batch_size * row.tokens:,}", f"{row.flops / 1e15:.2f}",
            f"{row.seconds:.2f}" if row.seconds else "-", _gib(row.kept.total), _gib(row.checkpointed.total), fits,
        ])  # fmt: skip
    return [f"micro-batches of one GPU, stage {last.stage.name}", *_aligned(table)]


def _stages(preset: Any, plans: Sequence[StagePlan], cluster: Cluster) -> list[str]:
    table = [["stage", "trains", "of", "steps", "samples", "GPU-days", "days"]]
    for one in plans:
        table.append([
            one.stage.name, _count(one.counts.trained), _count(one.counts.total), f"{one.stage.steps:,}",
            _count(one.samples), f"{one.gpu_days:,.1f}" if one.gpu_days else "-",
            f"{one.gpu_days / cluster.gpus:,.1f}" if one.gpu_days else "-",
        ])  # fmt: skip
    lines = [f"stages at an MFU of {cluster.mfu:.0%}, encoding by the frozen networks left out", *_aligned(table)]
    if preset.buckets == table_6():
        clips = plans[0].clips * TABLE_6_GPUS
        first, second = clips * 256 / TABLE_6_GPUS * 60e3, clips * 64 / TABLE_6_GPUS * 40e3
        lines.append(
            f'Table 6 says "234M" samples and "39M": its batch sizes, {clips:.1f} clips on average, must be those of '
            f"{TABLE_6_GPUS} GPUs; x 256 / {TABLE_6_GPUS} x 60k steps = {_count(first)}, x 64 / {TABLE_6_GPUS} x 40k = "
            f"{_count(second)} (App. B.2: 256 GPUs in stage I, 64 in II)"
        )
    return lines


def _choices(preset: Any, cluster: Cluster) -> list[str]:
    """What else stage II could train, where it starts from open weights."""
    if not preset.training.stages[0].personalization:
        return []
    usable, frozen = cluster.card.usable, frozen_parameters(preset)
    table = [["stage II trains", "parameters", "encoders loaded", "precomputed", "fits", "GPU-hours of 10k steps"]]
    for choice in CHOICES:
        (read,) = plan(preset, cluster, precomputed=True, stages=[choice])
        lean = read.fullest.checkpointed.total
        whole = lean + 2 * (frozen["autoencoder"] + frozen["text_encoder"])
        fits = "yes" if whole <= usable else "precomputed" if lean <= usable else "NO"
        hours = f"{24 * read.gpu_days:,.0f}" if read.gpu_days else "-"
        table.append([choice.name, _count(read.counts.trained), _gib(whole), _gib(lean), fits, hours])
    return ["what stage II could train alone: GiB in its fullest bucket, activations checkpointed", *_aligned(table)]


def _advice(preset: Any, plans: Sequence[StagePlan], cluster: Cluster) -> list[str]:
    """What to do where a bucket does not fit."""
    usable = cluster.card.usable
    rows = [row for one in plans for row in one.buckets]
    if all(row.kept.total <= usable for row in rows):
        return ["every bucket fits in every stage"]
    recompute = "--set parallel.activation_checkpointing=true (a third more FLOPs)"
    if all(row.checkpointed.total <= usable for row in rows):
        return [f"every bucket fits in every stage with {recompute}"]
    fitting = smaller(preset, plans)
    if not fitting:
        full = max((one.fullest.checkpointed for one in plans), key=lambda memory: memory.total)
        return [
            f"no clip fits: all but activations takes {_gib(full.total - full.activations)} of {_gib(usable)} GiB; "
            "divide the weights over more GPUs, precompute latents and text, or train less (LoRA, the new layers)"
        ]
    tokens = min(row.tokens * row.most_clips for row in rows if row.most_clips)
    names = ", ".join(sorted({bucket.name for bucket in preset.buckets} - {bucket.name for bucket in fitting}))
    left_out = f"; not one clip fits of {names}" if names else ""
    return [
        f"every bucket fits with {recompute} and at most {tokens:,} tokens in a micro-batch:",
        f"  --set tokens_per_gpu={tokens}{left_out}",
    ]


# ------------------------------------------------------------------------------------------------------------------
# Text


def _count(number: float) -> str:
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.{1 if number < 100 * limit else 0}f}{unit}"
    return f"{number:.0f}"


def _gib(number: float) -> str:
    return f"{number / GIB:,.1f}"


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  " + "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in table
    ]
