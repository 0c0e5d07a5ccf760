"""Weights, averages and moments as they grow from stage to stage."""

from __future__ import annotations

import pytest
import torch
from tiny_training import STAGES, config, make_transformer

from video_alchemist.training import parallel
from video_alchemist.training.config import ParallelConfig
from video_alchemist.training.stages import Stage
from video_alchemist.training.state import build, description, enter, hollow


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
