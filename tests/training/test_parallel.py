"""Two ranks train as one does: the same losses, the same weights, whatever the sharding."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
import torch
from tiny_training import STEPS, VARIANTS, RandomSource, config, make_transformer, run_variant

from video_alchemist.training.checkpoint import newest, read_state, trained_transformer
from video_alchemist.training.config import ParallelConfig
from video_alchemist.training.plot import read_metrics
from video_alchemist.training.trainer import train

SCRIPT = Path(__file__).with_name("tiny_run.py")


def start_ranks(out: Path, *runs: str, world: int = 2, **environment: str) -> list[subprocess.Popen[str]]:
    """The processes that torchrun would start."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    path = os.pathsep.join([str(SCRIPT.parents[2] / "src"), str(SCRIPT.parent)])
    group = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": str(world), "PYTHONPATH": path}
    command = [sys.executable, str(SCRIPT), str(out), *runs]
    common = os.environ | environment | group
    return [
        subprocess.Popen(command, env=common | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(world)
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One rank's whole run; two ranks' runs of every variant; and one begun by one rank, taken on by two."""
    out = tmp_path_factory.mktemp("runs")
    run_variant(out, "changing", 7)
    ranks = start_ranks(out, *(f"{name}={STEPS}" for name in VARIANTS), "changing=13", "four=4", "frozen=8")
    run_variant(out, "alone")
    run_variant(out, "four-alone", 4)
    run_variant(out, "frozen-alone", 8)
    for process in ranks:
        errors = process.communicate(timeout=300)[1]
        assert process.returncode == 0, errors[-3000:]
    run_variant(out, "changing")
    return out


def assert_alike(runs: Path, name: str, alone: str = "alone") -> None:
    """Losses to 1e-5 over all steps, averaged weights to 1e-3."""
    expected, found = read_metrics(runs / alone), read_metrics(runs / name)
    for key, tolerance in (("loss", 1e-5), ("grad_norm", 1e-4), ("seen", 0)):
        assert [row[key] for row in found] == pytest.approx([row[key] for row in expected], rel=tolerance)
    ours, theirs = trained_transformer(runs / alone).state_dict(), trained_transformer(runs / name).state_dict()
    assert ours.keys() == theirs.keys()
    for tensor_name, tensor in ours.items():
        torch.testing.assert_close(theirs[tensor_name], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_two_ranks_are_one(runs: Path, name: str) -> None:
    """Guards against gradients summed for averaged, draws that differ by rank, averages of one rank's shard, and
    weights that the second rank, which is given none, does not get from the first.

    Each step is two micro-batches: both on the one rank, one on each of two. Some have no pictures.
    """
    assert len(read_metrics(runs / name)) == STEPS
    assert_alike(runs, name)


def test_ranks_accumulate(runs: Path) -> None:
    """Guards against a rank's second micro-batch that replaces its first, or counts otherwise: four, two on each."""
    assert_alike(runs, "four", "four-alone")


def test_ranks_share_a_frozen_backbone(runs: Path) -> None:
    """Guards against units of bfloat16 backbone and float32 adapters that FSDP does not divide as it does others."""
    assert_alike(runs, "frozen", "frozen-alone")


def test_ranks_may_change_on_the_way(runs: Path) -> None:
    """Guards against checkpoints that only as many ranks can read as wrote them: 1 to step 7, 2 to 13, then 1 again."""
    assert_alike(runs, "changing")
    path = newest(runs / "changing" / "checkpoints")
    assert path is not None and read_state(path)["step"] == STEPS
    written = {one.name: len(read_state(one)["files"]) for one in (runs / "changing" / "checkpoints").iterdir()}
    assert written == {"00000007": 1, "00000013": 2, "00000020": 1}


@pytest.mark.parametrize(
    ("parallel", "ranks"), [(ParallelConfig(shard=3, replicate=2), 6), (ParallelConfig(replicate=2), 2)]
)
def test_impossible_meshes(tmp_path: Path, parallel: ParallelConfig, ranks: int) -> None:
    """Guards against a mesh that is silently another than the one asked for."""
    with pytest.raises(ValueError, match=f" is {ranks} ranks; expected the 1 there are"):
        train(make_transformer(), RandomSource(), config(parallel=parallel), tmp_path)


@pytest.mark.parametrize("precision", ["bfloat16", "mixed"])
def test_bfloat16_compute_keeps_float32_weights(tmp_path: Path, precision: Literal["bfloat16", "mixed"]) -> None:
    """Guards against weights, moments or averages that lose their small updates, as bfloat16's 8 bits would."""
    settings = config(parallel=ParallelConfig(precision=precision))
    wan = {"self_conditioning": True, "modulation": "shared_table", "text_norm": True}  # parts of it stay in float32
    train(make_transformer(**wan), RandomSource(), settings, tmp_path, max_steps=3)
    low = [row["loss"] for row in read_metrics(tmp_path)]
    train(make_transformer(**wan), RandomSource(), config(), tmp_path / "full", max_steps=3)
    full = [row["loss"] for row in read_metrics(tmp_path / "full")]
    assert low == pytest.approx(full, rel=0.02) and low != full
    weights = trained_transformer(tmp_path, averaged=False).state_dict()
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert any((tensor != tensor.bfloat16()).any() for tensor in weights.values())
