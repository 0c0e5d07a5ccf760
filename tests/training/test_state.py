"""Weights, averages and moments as they grow from stage to stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_training import FROZEN, LORA, STAGES, RandomSource, config, make_transformer

from video_alchemist.training import parallel
from video_alchemist.training.checkpoint import trained_adapter, trained_transformer
from video_alchemist.training.config import OptimizerConfig, ParallelConfig
from video_alchemist.training.plot import read_metrics
from video_alchemist.training.stages import Stage
from video_alchemist.training.state import build, description, enter, exact_names, hollow
from video_alchemist.training.trainer import train


@pytest.fixture
def ranks():
    with parallel.joined(ParallelConfig(), "cpu") as one:
        yield one


def test_new_layers_join_the_average_as_they_are(ranks) -> None:
    """Guards against an average that is reset at a boundary, or whose new layers are drawn apart from the weights."""
    state = enter(build(make_transformer(), ranks, config()), STAGES[0], ranks, config())
    torch.nn.init.ones_(parallel.local(state.ema["patch_embedding.weight"]))
    grown = enter(state, STAGES[1], ranks, config())
    new = dict(grown.transformer.personalization_parameters())
    assert new and all(torch.equal(grown.ema[name].full_tensor(), p.full_tensor()) for name, p in new.items())
    assert grown.transformer.binding.projection.weight.full_tensor().any()
    assert (grown.ema["patch_embedding.weight"].full_tensor() == 1).all()
    assert grown.transformer.patch_embedding.weight.full_tensor().std() > 0
    assert enter(grown, STAGES[2], ranks, config()) is grown


def test_average_in_closed_form(ranks) -> None:
    """Guards against the average and the weights swapped: decays 1/10, 2/11, then the bound."""
    state = enter(build(make_transformer(), ranks, config()), STAGES[0], ranks, config())
    average, weight = state.ema["patch_embedding.bias"], state.transformer.patch_embedding.bias
    torch.nn.init.zeros_(parallel.local(average))
    torch.nn.init.ones_(parallel.local(weight.detach()))
    values = []
    for num_updates, bound in ((0, 0.9), (1, 0.9), (1000, 0.5)):
        state.update_ema(num_updates, bound)
        values.append(average.full_tensor()[0].item())
    assert values == pytest.approx([0.9, 1 - 0.1 * 2 / 11, 1 - 0.1 / 11])


def test_layers_are_built_again_from_their_description() -> None:
    """Guards against a checkpoint that cannot be read without the program that wrote it; and shapes cost no memory."""
    network = make_transformer(personalization=True)
    stage = Stage("lora", personalization=True, trainable="lora", steps=1, warmup=0)
    from video_alchemist.training.state import add_layers

    add_layers(network, stage, config())
    again = hollow(description(network))
    assert {name: p.shape for name, p in again.named_parameters()} == {
        name: p.shape for name, p in network.named_parameters()
    }
    assert {p.device.type for p in again.parameters()} == {"meta"}


def test_averages_begin_with_training(ranks) -> None:
    """Guards against a second copy of a frozen backbone (14B parameters of Wan), and none once it is trained."""
    state = enter(build(make_transformer(), ranks, config()), STAGES[1], ranks, config())
    assert state.ema.keys() == {name for name, _ in state.transformer.personalization_parameters()}
    state = enter(state, STAGES[2], ranks, config())
    assert state.ema.keys() == {name for name, _ in state.transformer.named_parameters()}


def test_averages_survive_adapters(ranks) -> None:
    """Guards against averages of the backbone that are lost with the names that its layers had before LoRA."""
    state = enter(build(make_transformer(True), ranks, config()), STAGES[2], ranks, config())
    torch.nn.init.ones_(parallel.local(state.ema["blocks.0.self_attn.qkv.weight"]))
    grown = enter(state, LORA, ranks, config())
    assert (grown.ema["blocks.0.self_attn.qkv.base_layer.weight"].full_tensor() == 1).all()
    assert len(grown.ema) == len(dict(grown.transformer.named_parameters()))


WAN = {"self_conditioning": True, "modulation": "shared_table", "text_norm": True}  # parts of it stay in float32


@pytest.fixture
def half():
    with parallel.joined(ParallelConfig(precision="bfloat16"), "cpu") as one:
        yield one


def test_what_no_stage_trains_is_kept_in_bfloat16(half) -> None:
    """Guards against masters of a backbone that stays frozen, and against rounding what is or was trained."""
    settings = config(stages=FROZEN)
    state = enter(build(make_transformer(**WAN), half, settings), FROZEN[0], half, settings)
    state = enter(state, LORA, half, settings)
    trained = {name for name, _ in state.transformer.named_parameters() if "lora_" in name or name in state.ema}
    exact = trained | exact_names(state.transformer)
    assert len(trained) < len(exact)
    for name, parameter in state.transformer.named_parameters():
        assert parameter.dtype == (torch.float32 if name in exact else torch.bfloat16), name
    assert {average.dtype for average in state.ema.values()} == {torch.float32}
    for stages, options in ((STAGES, {}), (FROZEN, {"frozen_precision": "float32"})):
        settings = config(stages=stages, parallel=ParallelConfig(**options))
        state = enter(build(make_transformer(), half, settings), stages[-1], half, settings)
        assert {parameter.dtype for parameter in state.transformer.parameters()} == {torch.float32}


def test_a_frozen_backbone_in_bfloat16_changes_no_bit(tmp_path: Path) -> None:
    """Guards against a second rounding: losses and what is trained are those of float32 masters, also over a resume;
    and against a run that cannot go on to train everything."""
    low, high = (
        config(stages=FROZEN, parallel=ParallelConfig(precision="bfloat16", frozen_precision=kept))  # type: ignore[arg-type]
        for kept in ("compute", "float32")
    )
    for name, settings in (("low", low), ("high", high)):
        for steps in (6, 8):
            train(make_transformer(**WAN), RandomSource(), settings, tmp_path / name, max_steps=steps)
    losses, expected = ([row["loss"] for row in read_metrics(tmp_path / name)] for name in ("low", "high"))
    assert losses == expected and len(losses) == 8
    found, full = (
        {**trained_adapter(folder), **dict(trained_transformer(folder).personalization_parameters())}
        for folder in (tmp_path / "low", tmp_path / "high")
    )
    assert found.keys() == full.keys() and all(torch.equal(found[name], full[name]) for name in full)
    everything = replace(low, stages=(*FROZEN, replace(STAGES[2], name="II-end", steps=2)))
    train(make_transformer(**WAN), RandomSource(), everything, tmp_path / "low")
    assert len(read_metrics(tmp_path / "low")) == 14


def test_what_starts_closed_may_learn_faster(ranks) -> None:
    """Guards against a factor that misses attention to references, or reaches what was trained before it came: with
    Adam the first step is as long as the learning rate."""
    settings = replace(config(), optimizer=OptimizerConfig(learning_rate=0.01, weight_decay=0.0, reference_factor=3.0))
    state = enter(build(make_transformer(personalization=True), ranks, settings), STAGES[2], ranks, settings)
    before = {name: p.full_tensor().clone() for name, p in state.transformer.named_parameters()}
    for group in state.optimizer.param_groups:
        group["lr"] *= group["factor"]
    for parameter in state.transformer.parameters():
        parameter.grad = torch.ones_like(parameter)
    state.optimizer.step()
    for name, parameter in state.transformer.named_parameters():
        faster = name.endswith(("reference_attn.key_value.kv.weight", "reference_attn.out.weight"))
        step = (before[name] - parameter.full_tensor()).mean().item()
        assert step == pytest.approx(0.03 if faster else 0.01, rel=1e-3), name


def test_the_factor_reaches_the_optimiser_in_training(tmp_path: Path) -> None:
    """Guards against a learning rate written over the factor at every step."""
    runs = {}
    for factor in (1.0, 3.0):
        settings = replace(config(), optimizer=replace(config().optimizer, reference_factor=factor))
        train(make_transformer(), RandomSource(), settings, tmp_path / str(factor), max_steps=8)
        runs[factor] = dict(trained_transformer(tmp_path / str(factor)).named_parameters())
    same = [name for name in runs[1.0] if torch.equal(runs[1.0][name], runs[3.0][name])]
    assert "patch_embedding.weight" in same and "blocks.0.reference_attn.out.weight" not in same
