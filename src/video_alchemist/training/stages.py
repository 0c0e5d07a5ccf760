"""The two stages of training as data (§3.2, App. B.2, Table 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Trainable = Literal["all", "personalization", "lora"]


@dataclass(frozen=True)
class Stage:
    """A stretch of optimiser steps. Stage II is a "personalization" part, then an "all" part (App. B.2)."""

    name: str
    personalization: bool  # Table 6, "Image conditioning"
    trainable: Trainable  # "personalization", "lora": the backbone is fixed
    steps: int
    warmup: int  # steps of linear warm-up of the learning rate
    learning_rate: float | None = None  # None = the optimiser's
    decay: int = 0  # last steps of the stage, over which the learning rate falls linearly to 0; the paper has none

    def __post_init__(self) -> None:
        if self.steps < 0 or self.warmup < 0 or self.decay < 0:
            raise ValueError(
                f"stage {self.name}: steps {self.steps}, warmup {self.warmup}, decay {self.decay}; "
                "expected none below 0"
            )
        if self.trainable not in get_args(Trainable):
            choices = ", ".join(map(repr, get_args(Trainable)))
            raise ValueError(f"stage {self.name}: trainable is {self.trainable!r}; expected one of {choices}")
        if self.trainable == "personalization" and not self.personalization:
            raise ValueError(f"stage {self.name} trains only personalization layers; expected personalization=True")


PAPER_STAGES = (
    # "we ... train the video backbone without the cross-attention layer for personalization for 60k steps"
    Stage("I", personalization=False, trainable="all", steps=60_000, warmup=0),
    # "a 1k-step linear warmup and only train the newly introduced cross-attention layer ... at the first 10k steps"
    Stage("II-new", personalization=True, trainable="personalization", steps=10_000, warmup=1_000),
    # "For the following 30k steps, we fine-tune the entire video model with the image encoder frozen."
    Stage("II-all", personalization=True, trainable="all", steps=30_000, warmup=0),
)


def total_steps(stages: Sequence[Stage]) -> int:
    return sum(stage.steps for stage in stages)


def stage_at(step: int, stages: Sequence[Stage]) -> tuple[Stage, int]:
    """The stage in which the step numbered `step` (from 0) lies, and the number of its first step."""
    first = 0
    for stage in stages:
        if first <= step < first + stage.steps:
            return stage, first
        first += stage.steps
    raise ValueError(f"step {step} lies outside the {first} steps of the stages; expected 0 to {first - 1}")


def learning_rate_at(step: int, stages: Sequence[Stage], learning_rate: float) -> float:
    """Constant after a linear warm-up in each stage (Table 6, App. B.2), but for the decay of a stage that has one."""
    stage, first = stage_at(step, stages)
    rate = learning_rate if stage.learning_rate is None else stage.learning_rate
    left = first + stage.steps - step
    return rate * min(1.0, (step - first + 1) / max(1, stage.warmup), left / max(1, stage.decay))
