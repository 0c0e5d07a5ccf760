"""The shipped judges on videos with one known fault: each must see it, by a margin (all of them: docs/benchmark.md).

Few samples of one subject each, and films of three frames, so that it takes seconds.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from video_alchemist.benchmark.metrics import METRICS, ROLES
from video_alchemist.benchmark.results import Result
from video_alchemist.benchmark.samples import BenchmarkData
from video_alchemist.benchmark.score import score
from video_alchemist.benchmark.statistics import mean_by_id
from video_alchemist.cli.bench import emojiworld_models, protocol_of
from video_alchemist.emojiworld.benchmark_data import prepare_world
from video_alchemist.emojiworld.faults import FAULTS, write_faults
from video_alchemist.video import read_video

WHO = ("subject_similarity", "subject_similarity_assigned")
SHOWN = {  # by fault, what is measured of it
    "true": None, "stranger": WHO, "missing": (*WHO, "missing_share"), "doubled": ("duplication",),
    "noisy": ("learned_quality",),
}  # fmt: skip
QUICK = [metric for metric in METRICS if "optical_flow" not in ROLES[metric]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> BenchmarkData:
    return prepare_world(tmp_path_factory.mktemp("known") / "data", 8, networks=None)


@pytest.fixture(scope="module")
def videos(data: BenchmarkData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    alone = [one for one in data.ids("subject") if len(data[one].targets) == 1][:3]
    assert list(write_faults(data, folder, tuple(SHOWN), 3, alone)) == alone
    list(write_faults(data, folder, ("still", "running"), ids=alone[:1]))
    return folder


def judge(
    videos: Path, data: BenchmarkData, result: Path, metrics: list[str] = QUICK, workers: int = 1, batch: int = 8
) -> Result:
    return score(videos, data, result, protocol_of("paper"), emojiworld_models(), metrics, "all", workers, batch=batch)


@pytest.fixture(scope="module")
def results(videos: Path, data: BenchmarkData, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    folder = tmp_path_factory.mktemp("results")
    return {
        fault: judge(videos / fault, data, folder / fault, list(metrics or QUICK)) for fault, metrics in SHOWN.items()
    }


@pytest.mark.parametrize(
    ("fault", "metric", "margin"),
    [
        ("stranger", "subject_similarity", -0.3),
        ("stranger", "subject_similarity_assigned", -0.3),
        ("missing", "subject_similarity", -0.6),
        ("missing", "missing_share", 0.6),
        ("doubled", "duplication", 0.4),  # one of the three is hardly seen by the small detector
        ("noisy", "learned_quality", -0.1),
    ],
)
def test_each_fault_is_seen(results: dict[str, Result], fault: str, metric: str, margin: float) -> None:
    """Guards against a metric, or a network, that no longer tells what it is for."""
    before, after = (mean_by_id(results[one].pairs(metric)) for one in ("true", fault))
    assert before.keys() == after.keys()
    assert np.mean([after[one] - before[one] for one in before]) / margin > 1


@pytest.mark.parametrize(("fault", "moves"), [("still", 0.0), ("running", 1.0)])
def test_dynamic_degree_of_stills_and_runs(
    videos: Path, data: BenchmarkData, tmp_path: Path, fault: str, moves: float
) -> None:
    """Guards against a flow network, or a threshold, that takes noise for motion."""
    result = judge(videos / fault, data, tmp_path, ["dynamic_degree"])
    assert list(result.values["dynamic_degree"].values()) == [moves]


def test_faults_change_what_they_say(videos: Path) -> None:
    """Guards against a study of videos that have no fault at all."""
    for one in sorted((videos / "true").glob("*.mp4")):
        films = [read_video(videos / fault / one.name)[0].astype(int) for fault in SHOWN]
        assert all(np.abs(film - films[0]).mean() > 2 for film in films[1:])
    still = read_video(next((videos / "still").glob("*.mp4")))[0].astype(int)
    assert np.abs(still - still[0]).mean() < 1


def test_every_fault_befalls_some_clip(data: BenchmarkData, tmp_path: Path) -> None:
    """Guards against a fault that no clip of a study can have."""
    for _ in write_faults(data, tmp_path, num_frames=2):
        pass
    assert {path.name for path in tmp_path.iterdir()} == set(FAULTS)


def test_batches_of_any_size_give_the_same_rows(
    results: dict[str, Result], videos: Path, data: BenchmarkData, tmp_path: Path
) -> None:
    """Guards against frames that see each other in a batch. Sums in another order: equal to 1e-4."""
    (one,) = (path.name for path in (videos / "still").glob("*.mp4"))
    (tmp_path / "videos").mkdir()
    shutil.copy(videos / "true" / one, tmp_path / "videos")
    single = judge(tmp_path / "videos", data, tmp_path / "single", batch=1)
    sample = one.removesuffix(".mp4")
    for metric, values in results["true"].values.items():
        expected = {key: value for key, value in values.items() if key[0] == sample}
        found = {key: value for key, value in single.values[metric].items() if key[0] == sample}
        assert expected and found == {
            key: None if value is None else pytest.approx(value, abs=1e-4) for key, value in expected.items()
        }


@pytest.mark.slow
def test_two_workers_give_the_same_rows(
    results: dict[str, Result], videos: Path, data: BenchmarkData, tmp_path: Path
) -> None:
    """Guards against networks that answer otherwise in another process: the same bytes."""
    judge(videos / "true", data, tmp_path / "two", workers=2)
    for name in ("rows.parquet", "summary.json"):
        assert (tmp_path / "two" / name).read_bytes() == (results["true"].folder / name).read_bytes()
