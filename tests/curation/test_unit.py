"""The way of clips through the steps: what comes into a batch, and how many wait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_stage import annotate

from video_alchemist.curation.clip import Clip, Outcome, Pixels, Rejected, Source, Step
from video_alchemist.curation.codes import CODES
from video_alchemist.curation.journal import Blame, Journal
from video_alchemist.curation.unit import FAILURES, IO_ERROR, Walk


def clips(count: int) -> list[Clip]:
    return [Clip(f"{n:02d}", Source(f"{n:02d}", "")) for n in range(count)]


def walk(steps: Sequence[Step], roots: Sequence[Clip], folder: Path, blame: Blame | None = None) -> Walk:
    stage = annotate(versions={step.name: step.version for step in steps})
    return Walk(stage, steps, roots, blame or Blame(), Journal(folder / "journal", "0"))


def test_batches_are_full_and_few_clips_wait(tmp_path: Path) -> None:
    """Guards against a unit whose frames are all in memory at once, and GPUs fed with the crumbs of each batch."""
    seen: list[tuple[str, int]] = []

    def step(name: str, batch: int, outcome: object) -> Step:
        def run(some: Sequence[Clip]) -> list[Outcome]:
            seen.append((name, len(some)))
            return [outcome(clip) for clip in some]  # type: ignore[operator]

        return Step(name, run, batch=batch)

    split = step("split", 1, lambda clip: tuple(replace(clip, id=f"{clip.id}{k}") for k in range(3)))
    odd = step("odd", 2, lambda clip: clip if int(clip.id) % 2 else Rejected(clip, "no_motion"))
    done = walk([split, odd, step("model", 4, lambda clip: clip)], clips(4), tmp_path)
    waiting = [sum(map(len, done.queues[1:])) for _ in done]
    assert [count for name, count in seen if name == "odd"] == [2] * 6
    assert [count for name, count in seen if name == "model"] == [4]
    assert max(waiting) <= 3 + 1 + 3
    assert sorted(clip.id for clip in done.kept) == ["001", "011", "021", "031"]


def test_rejects_know_their_step_and_forget_their_frames(tmp_path: Path) -> None:
    """Guards against rejects that fill the memory until their unit is written."""
    frames = np.zeros((1, 2, 2, 3), np.uint8)
    roots = [replace(clip, pixels=Pixels(frames, frames, frames)) for clip in clips(1)]
    done = walk([Step("motion", lambda some: [Rejected(clip, "no_motion") for clip in some])], roots, tmp_path)
    list(done)
    assert done.rejected == [Rejected(clips(1)[0], "no_motion", step="motion")]
    assert done.rejected[0].clip.pixels is None


def test_quarantined_and_single_clips_keep_their_place(tmp_path: Path) -> None:
    """Guards against outcomes that are given to the wrong clip of a batch."""
    batches: list[list[str]] = []

    def run(some: Sequence[Clip]) -> list[Outcome]:
        batches.append([clip.id for clip in some])
        return [replace(clip, caption=clip.id) for clip in some]

    blame = Blame(singly=frozenset({("s", "01")}), quarantined={("s", "02"): ("crashed", "why"), ("t", "03"): ("", "")})
    done = walk([Step("s", run)], clips(5), tmp_path, blame)
    list(done)
    assert batches == [["01"], ["00", "03", "04"]]
    assert [(clip.id, clip.caption) for clip in done.kept] == [(id, id) for id in ("00", "01", "03", "04")]
    assert [(one.clip.id, one.code, one.detail) for one in done.rejected] == [("02", "crashed", "why")]


def test_wrong_number_of_outcomes_is_a_failure(tmp_path: Path) -> None:
    """Guards against a step that drops a clip in silence."""
    done = walk([Step("drop", lambda some: list(some)[1:])], clips(2), tmp_path)
    list(done)
    assert [(one.code, one.detail) for one in done.rejected] == [
        ("failed", "ValueError: 0 outcomes of 1 clips; expected one each, none empty")
    ] * 2


def test_engine_codes_are_known() -> None:
    """Guards against rejects that no report can explain, or that are tried again against what their code says."""
    assert FAILURES <= CODES.keys()
    assert [code for code in sorted(FAILURES) if CODES[code].transient] == [IO_ERROR]


def test_interrupt_is_not_a_failure(tmp_path: Path) -> None:
    """Guards against Ctrl-C that rejects the clip at hand."""

    def run(some: Sequence[Clip]) -> list[Outcome]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(walk([Step("s", run)], clips(1), tmp_path))
