"""Workers that die, hang or cannot start, in local processes and under Ray."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from tiny_stage import annotate, background, clips_of, expected, finish, make_steps, published, sources

from video_alchemist.curation.clip import Source, Step
from video_alchemist.curation.engine import Limits, run
from video_alchemist.curation.executors import Executor, Inline, Processes
from video_alchemist.curation.manifest import freeze
from video_alchemist.curation.ray_executor import RayActors
from video_alchemist.curation.receipts import Receipt
from video_alchemist.curation.stage import Stage

COUNT = 10
LENIENT = Limits(failure_share=1.0)


def curate(
    out: Path, executor: Executor, given: list[Source], *stages: Stage, unit_size: int = 5, limits: Limits = LENIENT
) -> dict[str, list[Receipt]]:
    return run(out, freeze(given, out, unit_size), stages or (annotate(),), executor, finish, limits=limits)


def test_processes_give_what_inline_gives(tmp_path: Path) -> None:
    """Guards against results that depend on who worked, and against models loaded for every unit."""
    loads = tmp_path / "loads"
    given = sources(COUNT, s001="raise@look")
    curate(tmp_path / "inline", Inline(), given, annotate(), background())
    curate(tmp_path / "local", Processes(2), given, annotate(loads=loads), background(loads=loads), unit_size=2)
    assert clips_of(tmp_path / "local") == clips_of(tmp_path / "inline")
    curate(tmp_path / "same", Processes(1), given, annotate(), background())
    assert published(tmp_path / "same") == published(tmp_path / "inline")
    assert len(loads.read_text().splitlines()) <= 4 < 10


def test_crash_is_blamed_on_one_clip(tmp_path: Path) -> None:
    """Guards against a decoder that crashes and takes a batch, a unit or the run with it."""
    given = [
        replace(one, path=str(tmp_path / one.id))
        for one in sources(COUNT, s004="segfault@measure", s007="segfault_once@look")
    ]
    loads = tmp_path / "loads"
    results = curate(tmp_path / "out", Processes(1), given, annotate(loads=loads))
    kept, rejected = clips_of(tmp_path / "out")
    bad = [id for id in expected(COUNT) if id.startswith("s004")]
    assert kept == [id for id in expected(COUNT) if id not in bad]
    assert rejected == {"s003": "too_short"} | dict.fromkeys(bad, "crashed")
    assert len(bad) == 2 and len(loads.read_text().splitlines()) == 1 + 3 + 2 + 1
    trouble = results["annotate"][0].trouble
    assert [one["clip"] for one in trouble] == bad
    assert trouble[0]["detail"] == "the process died of SIGSEGV"
    assert trouble[0]["memory"] > 0  # a process that dies young was seen once, as it started
    assert "last words" in trouble[0]["stderr"] and "in misbehave" in trouble[0]["stderr"]


def test_who_kills_only_in_company_is_kept(tmp_path: Path) -> None:
    """Guards against clips lost, or an endless circle, where only a whole batch is too much for the memory."""
    curate(tmp_path, Processes(1), sources(5, s000="segfault_in_company@look"))
    assert clips_of(tmp_path) == (expected(5), {"s003": "too_short"})


def test_hanging_clip_is_killed_and_blamed(tmp_path: Path) -> None:
    """Guards against a run that waits for ever for one video."""
    limits = replace(LENIENT, time_limit=0.4)
    curate(tmp_path, Processes(1), sources(5, s001="hang@look"), limits=limits)
    kept, rejected = clips_of(tmp_path)
    assert kept == [id for id in expected(5) if not id.startswith("s001")]
    assert rejected == {"s001": "timed_out", "s003": "too_short"}
    text = (tmp_path / "examples-rejects-00000.jsonl").read_text()
    assert "no answer within 0.4 s" in text


def test_quarantine_outlives_the_unit(tmp_path: Path) -> None:
    """Guards against a known culprit that kills again because its unit is done again for another clip."""
    mark, loads = tmp_path / "plugged in", tmp_path / "loads"
    given = [replace(one, path=str(mark)) for one in sources(5, s001="unplugged@look", s002="segfault@look")]
    curate(tmp_path / "out", Processes(1), given, annotate(loads=loads))
    assert clips_of(tmp_path / "out")[1] == {"s001": "io_error", "s002": "crashed", "s003": "too_short"}
    mark.touch()
    curate(tmp_path / "out", Processes(1), given, annotate(loads=loads))
    assert clips_of(tmp_path / "out")[1] == {"s002": "crashed", "s003": "too_short"}
    assert len(loads.read_text().splitlines()) == 4 + 1


def crashing_steps() -> list[Step]:
    os.kill(os.getpid(), signal.SIGKILL)
    return make_steps()


def wrong_steps() -> list[Step]:
    raise ValueError("model 'no/such'; expected a folder or a hub id")


def buggy_steps() -> list[Step]:
    return {}["detector"]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (crashing_steps, OSError, "workers died 3 times outside of any step .* on unit 0: SIGKILL"),
        (wrong_steps, ValueError, "model 'no/such'; expected a folder"),
        (buggy_steps, RuntimeError, "in a worker process:.*in buggy_steps.*KeyError: 'detector'"),
    ],
)
def test_worker_that_cannot_start_stops_the_run(tmp_path: Path, make: object, error: type, words: str) -> None:
    """Guards against clips blamed for a model that is not there, and against workers started for ever."""
    with pytest.raises(error, match=f"(?s){words}"):
        curate(tmp_path, Processes(1), sources(2), annotate(make_steps=make))
    assert published(tmp_path) == {}


def environment_steps(file: Path) -> list[Step]:
    with file.open("a") as out:
        out.write(f"{os.environ.get('CUDA_VISIBLE_DEVICES')} {os.environ.get('OMP_NUM_THREADS')}\n")
    return make_steps()


def test_each_process_sees_its_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against workers that all sit on the first GPU, or on GPUs of others, and that fight for cores."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)))
    stage = annotate(make_steps=partial(environment_steps, tmp_path / "seen"))
    curate(tmp_path / "out", Processes(2, gpus=2), sources(2), stage, unit_size=1)
    assert set((tmp_path / "seen").read_text().splitlines()) <= {"4 3", "7 3"}
    assert (os.environ["CUDA_VISIBLE_DEVICES"], "OMP_NUM_THREADS" in os.environ) == ("4,7", False)


def test_wrong_numbers_are_named() -> None:
    """Guards against a run that waits for zero workers."""
    with pytest.raises(ValueError, match="0 workers; expected at least 1"):
        Processes(0)
    with pytest.raises(ValueError, match="-1 GPUs; expected positive"):
        RayActors(1, gpus=-1)
    with pytest.raises(ValueError, match="time_limit=0.*expected a positive time limit"):
        Limits(time_limit=0)


@pytest.fixture
def with_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if not importlib.util.find_spec("ray"):
        pytest.skip("Ray is not installed")
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2] / "src"), str(Path(__file__).parent)])
    )
    monkeypatch.delenv("RAY_worker_niceness", raising=False)
    yield
    import ray

    ray.shutdown()


def nice_steps(file: Path) -> list[Step]:
    with file.open("a") as out:
        out.write(f"{os.nice(0)}\n")
    return make_steps()


@pytest.mark.slow
def test_ray_gives_what_inline_gives(tmp_path: Path, with_ray: None) -> None:
    """Guards against an executor that crashes differently, pools that wait for CPUs nobody has, and Ray's niceness of
    15, which beside other work is next to standing still."""
    mark = tmp_path / "lost"
    deeds = {"s000": "lose_machine_once@look", "s001": "raise@look", "s004": "segfault@measure"}
    given = [replace(one, path=str(mark)) for one in sources(COUNT, **deeds)]
    mark.touch()
    curate(tmp_path / "local", Processes(1), given, annotate(), background())
    mark.unlink()
    first = annotate(make_steps=partial(nice_steps, tmp_path / "nice"))
    results = curate(tmp_path / "ray", RayActors(3, cpus=2.0), given, first, background())
    assert mark.exists() and set((tmp_path / "nice").read_text().splitlines()) == {str(os.nice(0))}
    assert published(tmp_path / "ray") == published(tmp_path / "local")
    assert "in misbehave" in results["annotate"][0].trouble[0]["stderr"]
    with pytest.raises(ValueError, match="model 'no/such'"):
        curate(tmp_path / "wrong", RayActors(1), given, annotate(make_steps=partial(wrong_steps)))
    with pytest.raises(ValueError, match="2 workers want 1000 GPUs"):
        curate(tmp_path / "gpus", RayActors(2, gpus=500), given)
