"""SIGKILL of a run and all its processes at random moments, resumed each time: the same shards, byte for byte."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from tiny_stage import clips_of, expected, published

SCRIPT = Path(__file__).with_name("kill_run.py")
PATIENCE = 300.0  # seconds


def start(out: Path, executor: str, delay: float) -> subprocess.Popen[bytes]:
    path = os.pathsep.join([str(SCRIPT.parents[2] / "src"), str(SCRIPT.parent)])
    environment = os.environ | {"PYTHONPATH": path}
    command = [sys.executable, str(SCRIPT), str(out), executor, str(delay)]
    return subprocess.Popen(command, env=environment, start_new_session=True)


def traces(out: Path) -> int:
    """Changes as soon as a run works: finished units, and batches that were begun in others."""
    begun = 0
    for path in out.glob(".work/*/*.journal"):
        with suppress(FileNotFoundError):  # finished meanwhile
            begun += path.read_text().count('"start"')
    return begun + 1000 * sum(1 for _ in out.glob(".work/*/*.receipt.json"))


def kill_at_random(out: Path, executor: str, kills: int, whole: dict[str, bytes]) -> None:
    """Kills runs, soon after they began to work or later, until it was done often enough; begins anew when one ends."""
    rng = random.Random(0)
    done = 0
    while done < kills:
        before, process = traces(out), start(out, executor, 0.005)
        patience = time.monotonic() + PATIENCE
        while process.poll() is None and traces(out) == before and time.monotonic() < patience:
            time.sleep(0.005)
        time.sleep(rng.expovariate(1 / 0.3))
        if process.poll() is None:
            if rng.random() < 0.7:
                os.killpg(process.pid, signal.SIGKILL)
            else:  # its workers live on until they notice, while the next run begins
                process.kill()
            done += 1
        process.wait()
        if process.returncode == 0:
            assert published(out) == whole
            shutil.rmtree(out)
        else:
            assert process.returncode == -signal.SIGKILL
    assert start(out, executor, 0.0).wait(PATIENCE) == 0
    assert published(out) == whole


def uninterrupted(out: Path) -> dict[str, bytes]:
    assert start(out, "inline", 0.0).wait(PATIENCE) == 0
    kept, rejected = clips_of(out)
    assert kept == expected(40)
    assert rejected == {f"s{n:03d}": "too_short" for n in range(3, 40, 7)}
    return published(out)


def test_killed_local_run_gives_the_same_bytes(tmp_path: Path) -> None:
    """Guards against clips that a kill loses, doubles or blames."""
    kill_at_random(tmp_path / "killed; ä b", "local", 6, uninterrupted(tmp_path / "whole"))


@pytest.mark.slow
def test_killed_twenty_times(tmp_path: Path) -> None:
    """Guards against rarer moments."""
    kill_at_random(tmp_path / "killed", "local", 20, uninterrupted(tmp_path / "whole"))


@pytest.mark.slow
def test_killed_twenty_times_under_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against actors of a cluster that outlive their run, and write into the next."""
    ray = pytest.importorskip("ray")
    path = os.pathsep.join([str(SCRIPT.parents[2] / "src"), str(SCRIPT.parent)])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 by default, which beside other work is to stand still
    context = ray.init(num_cpus=4, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
    try:
        monkeypatch.setenv("RAY_ADDRESS", context.address_info["gcs_address"])
        kill_at_random(tmp_path / "killed", "ray", 20, uninterrupted(tmp_path / "whole"))
    finally:
        ray.shutdown()
