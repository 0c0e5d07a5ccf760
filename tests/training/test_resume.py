"""A run that is killed at any moment and started again is the run that was never killed, bit for bit."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from test_parallel import start_ranks
from tiny_training import STEPS, run_variant

from video_alchemist.training.checkpoint import trained_transformer
from video_alchemist.training.plot import read_metrics

PATIENCE = 300.0  # seconds


def kill_at_random(process: subprocess.Popen[str], run: Path) -> None:
    """SIGKILL at a random step of stage II, anywhere in the step."""
    rng, patience = random.Random(time.time_ns()), time.monotonic() + PATIENCE
    rows = rng.randint(7, 15)
    while process.poll() is None and len(read_metrics(run)) < rows and time.monotonic() < patience:
        time.sleep(0.002)
    time.sleep(rng.random() * 0.05)
    process.kill()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in the other process: sums over several threads round otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def assert_same(out: Path, first: str, second: str) -> None:
    ours, theirs = (trained_transformer(out / name).state_dict() for name in (first, second))
    assert ours.keys() == theirs.keys()
    expected, found = (read_metrics(out / name) for name in (first, second))
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    for key in ("loss", "grad_norm", "seen", "loss_by_time"):
        assert [row[key] for row in found] == [row[key] for row in expected]


@pytest.mark.parametrize("while_writing", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_killed_run_is_the_whole_run(tmp_path: Path, while_writing: bool) -> None:
    """Guards against any state that lives outside the checkpoint: RNG, data position, moments, averages, layers."""
    environment = {"DIE_WRITING": "00000006"} if while_writing else {}
    process = start_ranks(tmp_path, f"killed={STEPS}", world=1, **environment)[0]
    run_variant(tmp_path, "whole")
    if not while_writing:
        kill_at_random(process, tmp_path / "killed")
    errors = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == -signal.SIGKILL, errors[-3000:]
    if while_writing:
        left = sorted(path.name for path in (tmp_path / "killed/checkpoints").iterdir())
        assert left == ["00000003", "00000006.tmp"]
    run_variant(tmp_path, "killed")
    assert_same(tmp_path, "whole", "killed")
    assert list((tmp_path / "killed/checkpoints").glob("*.tmp")) == []
