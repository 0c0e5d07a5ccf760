"""Which step lies in which stage, and its learning rate (App. B.2, Table 6)."""

from __future__ import annotations

import pytest

from video_alchemist.training.stages import PAPER_STAGES, Stage, learning_rate_at, stage_at, total_steps


@pytest.mark.parametrize(
    ("step", "name"),
    [(0, "I"), (59_999, "I"), (60_000, "II-new"), (69_999, "II-new"), (70_000, "II-all"), (99_999, "II-all")],
)
def test_paper_stages(step: int, name: str) -> None:
    """Guards against boundaries off by one: 60k steps, then 10k of the new layers, then 30k of all."""
    assert stage_at(step, PAPER_STAGES)[0].name == name
    assert total_steps(PAPER_STAGES) == 100_000


def test_step_after_the_last_is_refused() -> None:
    """Guards against a run that trains on in silence."""
    with pytest.raises(ValueError, match="step 100000 .* expected 0 to 99999"):
        stage_at(100_000, PAPER_STAGES)


def test_learning_rate_warms_up_in_its_stage_only() -> None:
    """Guards against a warm-up counted from the start of the run, or one that starts at zero."""
    rates = {step: learning_rate_at(step, PAPER_STAGES, 1e-4) for step in (0, 60_000, 60_499, 60_999, 65_000, 70_000)}
    assert rates == pytest.approx({0: 1e-4, 60_000: 1e-7, 60_499: 5e-5, 60_999: 1e-4, 65_000: 1e-4, 70_000: 1e-4})
    own = (Stage("I", False, "all", steps=10, warmup=0, learning_rate=3e-4),)
    assert learning_rate_at(0, own, 1e-4) == 3e-4


def test_learning_rate_decays_at_the_end_of_its_stage() -> None:
    """Guards against a decay that ends at zero one step early, or reaches into the next stage."""
    stages = (Stage("I", False, "all", steps=10, warmup=0, decay=4), Stage("II-all", True, "all", steps=5, warmup=0))
    rates = [learning_rate_at(step, stages, 1.0) for step in range(15)]
    assert rates == pytest.approx([1.0] * 7 + [0.75, 0.5, 0.25] + [1.0] * 5)


def test_impossible_stage_is_refused() -> None:
    """Guards against a stage that would train nothing."""
    with pytest.raises(ValueError, match="expected personalization=True"):
        Stage("I", personalization=False, trainable="personalization", steps=1, warmup=0)
    with pytest.raises(ValueError, match="expected one of 'all', 'personalization', 'lora'"):
        Stage("I", personalization=False, trainable="none", steps=1, warmup=0)  # type: ignore[arg-type]
