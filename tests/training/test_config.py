"""Overrides from the command line, and what config.json holds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from video_alchemist.training.config import TrainConfig, as_json, differences, override


@pytest.mark.parametrize(
    ("assignment", "read", "value"),
    [
        ("optimizer.learning_rate=3e-4", lambda c: c.optimizer.learning_rate, 3e-4),
        ("seed = 7", lambda c: c.seed, 7),
        ("parallel.compile=true", lambda c: c.parallel.compile, True),
        ("tracker=wandb", lambda c: c.tracker, "wandb"),
        ("base_latent=[32, 18]", lambda c: c.base_latent, (32, 18)),
        ("shift=3", lambda c: c.shift, 3.0),
        ("optimizer.betas=[0.8, 0.95]", lambda c: c.optimizer.betas, (0.8, 0.95)),
        ("stages.II-new.steps=5", lambda c: c.stages[1].steps, 5),
        ("stages.I.learning_rate=2e-4", lambda c: c.stages[0].learning_rate, 2e-4),
        ("stages.I.learning_rate=null", lambda c: c.stages[0].learning_rate, None),
        ("stages.II-all.trainable=personalization", lambda c: c.stages[2].trainable, "personalization"),
    ],
)
def test_override(assignment: str, read: Any, value: Any) -> None:
    """Guards against a key that is not reached, a wrong type, and a change of the defaults themselves."""
    found = read(override(TrainConfig(), assignment))
    assert found == value and type(found) is type(value)
    assert TrainConfig() == TrainConfig()


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optimizer.lerning_rate=1", "unknown key 'optimizer.lerning_rate'.*nearest: learning_rate"),
        ("optimiser.eps=1", "unknown key.*nearest: optimizer"),
        ("stages.II-nwe.steps=1", "unknown key.*nearest: II-new"),
        ("seed.x=1", "seed is a value, not a group; nearest: seed"),
        ("optimizer=1", "optimizer is a group; expected one of optimizer.learning_rate"),
        ("stages.I=1", "stages.I is a group; expected one of stages.I.name"),
        ("seed", "expected key=value"),
        ("seed=1.5", "seed is '1.5'; expected int"),
        ("seed=true", "seed is 'true'; expected int"),
        ("optimizer.eps=small", "optimizer.eps is 'small'; expected float"),
        ("optimizer.betas=0.9", "optimizer.betas is '0.9'; expected tuple"),
        ("stages.I.trainable=new", "expected .*'all'.*'personalization'"),
        ("parallel.precision=half", "expected one of 'auto', 'float32', 'bfloat16', 'mixed'"),
        ("text_drop=1.1", "text_drop is 1.1; expected 0 to 1"),
        ("checkpoint.every=0", "every is 0; expected at least 1"),
        ("optimzer.lr=1", "unknown key 'optimzer.lr'.*nearest: optimizer"),
        ("micro_batches=-1", "micro_batches is -1; expected 0 or more"),
        ("parallel.shard=-1", "shard is -1; expected 0 or more"),
    ],
)
def test_wrong_override_says_what_is_right(assignment: str, message: str) -> None:
    """Guards against a misspelt key or value that is taken in silence."""
    with pytest.raises(ValueError, match=message):
        override(TrainConfig(), assignment)


def test_defaults_are_table_6() -> None:
    """Guards against drift from the paper: AdamW, 1e-4, [0.9, 0.99], 0.01, 0.05, dropout 0.1, drops 10 %."""
    config = TrainConfig()
    optimizer = config.optimizer
    assert (optimizer.learning_rate, optimizer.betas, optimizer.weight_decay) == (1e-4, (0.9, 0.99), 0.01)
    assert optimizer.gradient_clipping == 0.05
    assert (config.dropout, config.text_drop, config.image_drop) == (0.1, 0.1, 0.1)


def test_differences_name_keys() -> None:
    """Guards against a resumed run that hides that its configuration changed."""
    before, after = as_json(TrainConfig()), as_json(override(TrainConfig(), "optimizer.eps=1e-6"))
    assert json.loads(json.dumps(before)) == before
    assert differences(before, after) == ["optimizer.eps: 1e-08 -> 1e-06"]


def test_stages_that_lose_personalization_are_refused() -> None:
    """Guards against an order of stages that the trainer could not follow."""
    with pytest.raises(ValueError, match="lacks the personalization"):
        TrainConfig(stages=tuple(reversed(TrainConfig().stages)))
