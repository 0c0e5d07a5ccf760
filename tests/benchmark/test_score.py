"""Scoring a folder: the same rows whoever works and whatever is killed, and nothing skipped in silence."""

from __future__ import annotations

import json
import random
import shutil
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))  # for `plain_metrics`, which worker processes import, too
import plain_metrics

from video_alchemist.benchmark import workers
from video_alchemist.benchmark.metrics import METRICS
from video_alchemist.benchmark.models import EvaluationModels, ModelNames
from video_alchemist.benchmark.prepare import prepare_shards
from video_alchemist.benchmark.protocol import official, paper
from video_alchemist.benchmark.results import Result, read_result
from video_alchemist.benchmark.samples import BenchmarkData
from video_alchemist.benchmark.score import score
from video_alchemist.dataset.shards import write_backgrounds, write_manifest, write_shard
from video_alchemist.video import read_video, write_video

COUNT, NUM_FRAMES = 8, 6
IDS = [f"clip-{i}" for i in range(COUNT)]


def write_noise(path: Path, seed: int, num_frames: int = NUM_FRAMES) -> None:
    frames = np.random.default_rng(seed).integers(0, 255, (num_frames, 4, 8, 3), dtype=np.uint8)
    write_video(path, frames.repeat(8, axis=1).repeat(8, axis=2), 12.0)


@pytest.fixture(scope="module")
def data(tiny_clips: Any, tmp_path_factory: pytest.TempPathFactory) -> BenchmarkData:
    """A robot and a dog, eight times."""
    folder = tmp_path_factory.mktemp("data")
    shards = folder / "shards"
    shards.mkdir()
    write_noise(folder / "clip.mp4", 0)
    record, frames = tiny_clips[1]
    files = {"mp4": (folder / "clip.mp4").read_bytes()}
    for name, pixels in frames.items():
        Image.fromarray(pixels).save(folder / name)
        files[name] = (folder / name).read_bytes()
    records = [record | {"id": one, "provenance": {"source": one}} for one in IDS]
    write_shard(shards, 0, records, dict.fromkeys(IDS, files))
    write_backgrounds(shards, 0, {})
    write_manifest(shards, {0: COUNT})
    return prepare_shards(shards, folder)


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("noise")
    for i, one in enumerate(IDS):
        write_noise(folder / f"{one}.mp4", i)
    return folder


@pytest.fixture
def videos(noise: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(noise, tmp_path / "method")


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """What was measured since it was last asked: "metric sample", sorted."""
    log = tmp_path / "log"
    monkeypatch.setenv(plain_metrics.LOG, str(log))

    def read() -> list[str]:
        lines = sorted(log.read_text().splitlines()) if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    return read


def run(
    videos: Path, data: BenchmarkData, result: Path, metrics: str = "brightness contrast", **options: Any
) -> Result:
    options = {"protocol": paper(), "names": ModelNames(), "known": plain_metrics.KNOWN} | options
    roles = {"roles": plain_metrics.ROLES} | options
    return score(videos, data, result, metrics=metrics.split(), **roles)


def contents(result: Path) -> dict[str, bytes]:
    return {name: (result / name).read_bytes() for name in ("rows.parquet", "summary.json")}


def rows(result: Result, metric: str) -> dict[str, tuple[float | None, str]]:
    """By sample, value and note of whole videos."""
    found = [row for row in result.table.to_pylist() if row["metric"] == metric and not row["word"]]
    return {row["id"]: (row["value"], row["note"]) for row in found}


def test_rows_and_summary(noise: Path, data: BenchmarkData, tmp_path: Path) -> None:
    """Guards against values under the wrong sample, words that enter means, and a folder that cannot be read back."""
    result = run(noise, data, tmp_path / "result", "brightness undefined")
    expected = {one: read_video(noise / f"{one}.mp4")[0].mean() / 255 for one in IDS}
    assert {one: value for one, (value, _) in rows(result, "brightness").items()} == pytest.approx(expected)
    assert rows(result, "undefined") == {one: (None, "never") for one in IDS}
    assert result.table.num_rows == 8 * (1 + 2) + 8
    said = result.summary["metrics"]["brightness"]
    assert said["mean"] == pytest.approx(np.mean(list(expected.values())))
    assert said["low"] < said["mean"] < said["high"] and (said["num_ids"], said["undefined"]) == (8, 0)
    assert result.summary["metrics"]["undefined"] == {
        "mean": None, "low": None, "high": None, "num_ids": 0, "between_seeds": None, "undefined": 8,
    }  # fmt: skip
    again = read_result(tmp_path / "result")
    assert again.table.equals(result.table) and again.summary == result.summary
    assert (tmp_path / "result/pictures/clip-3.jpg").is_file()


def test_only_what_is_not_known_is_measured(
    videos: Path, data: BenchmarkData, tmp_path: Path, measured: Callable[[], list[str]]
) -> None:
    """Guards against work done twice, and against values of an old video, protocol or model used again."""
    result = tmp_path / "result"
    run(videos, data, result, "brightness")
    assert measured() == [f"brightness {one}" for one in IDS]
    both = run(videos, data, result)
    assert measured() == [f"contrast {one}" for one in IDS]
    assert contents(result) == contents(run(videos, data, tmp_path / "fresh").folder)
    measured()
    write_noise(videos / "clip-5.mp4", 99)
    changed = run(videos, data, result)
    assert measured() == ["brightness clip-5", "contrast clip-5"]
    assert changed.summary["inputs_sha256"] != both.summary["inputs_sha256"]
    run(videos, data, result, protocol=official(NUM_FRAMES))
    assert len(measured()) == 16
    run(videos, data, result, protocol=official(NUM_FRAMES, world_size=3))
    assert measured() == []  # which videos enter the mean is no matter of a video


def test_another_model_is_asked_anew(
    noise: Path, data: BenchmarkData, tmp_path: Path, measured: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against values of other weights in the same folder; metrics that do not ask the model keep theirs."""
    monkeypatch.setattr(EvaluationModels, "load", lambda self, roles: self)
    weights = tmp_path / "weights.bin"
    options = {"names": ModelNames(detector=str(weights)), "roles": {**plain_metrics.ROLES, "contrast": ("detector",)}}
    weights.write_bytes(b"1")
    first = run(noise, data, tmp_path / "result", **options)
    weights.write_bytes(b"2")
    measured()
    second = run(noise, data, tmp_path / "result", **options)
    assert measured() == [f"contrast {one}" for one in IDS]
    assert first.summary["models"]["detector"] != second.summary["models"]["detector"]


def test_a_model_that_is_missing(noise: Path, data: BenchmarkData, tmp_path: Path) -> None:
    """Guards against videos blamed for a model that is not there, and metrics left out in silence."""
    known = {name: METRICS[name] for name in ("sharpness", "flicker")}
    options: dict[str, Any] = {"known": known, "roles": {"sharpness": ("detector",), "flicker": ()}}
    with pytest.raises(ValueError, match="no model plays the detector"):
        run(noise, data, tmp_path / "result", "sharpness", **options)
    with pytest.raises(ValueError, match="'./no such folder' is not there"):
        run(noise, data, tmp_path / "result", "sharpness", names=ModelNames(detector="./no such folder"), **options)
    rest = score(noise, data, tmp_path / "result", paper(), ModelNames(), **options)
    assert rest.metrics == ["flicker"] and rest.summary["left_out"] == {"sharpness": "no detector"}
    broken = tmp_path / "detector"
    broken.mkdir()
    with pytest.raises(ValueError, match="detector"):
        run(noise, data, tmp_path / "result", "sharpness", names=ModelNames(detector=str(broken)), **options)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_two_workers_give_the_same(
    noise: Path, data: BenchmarkData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against rows that depend on who measured, or on the order in which they came. Forked, for these metrics
    need no network and a fresh process takes seconds to import; the slow tests spawn."""
    monkeypatch.setattr(workers, "get_context", lambda method: get_context("fork"))
    one = run(noise, data, tmp_path / "one")
    two = run(noise, data, tmp_path / "two", workers=2)
    assert contents(one.folder) == contents(two.folder)


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "workers"), [("local", 2), ("local", 3), ("ray", 1), ("ray", 2)])
def test_more_workers_give_the_same(
    noise: Path, data: BenchmarkData, tmp_path: Path, engine: str, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against the same under Ray, and against errors that lose their kind on the way."""
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parents[2] / 'src'}:{Path(__file__).parent}")
    if engine == "ray":
        pytest.importorskip("ray")
    one = run(noise, data, tmp_path / "one")
    more = run(noise, data, tmp_path / "more", engine=engine, workers=workers)
    assert contents(one.folder) == contents(more.folder)
    with pytest.raises(RuntimeError, match="(?s)broken fails for each of the first 5 videos.*KeyError"):
        run(noise, data, tmp_path / "broken", "broken", engine=engine, workers=workers)


def kill_at_random(noise: Path, data: BenchmarkData, folder: Path, kills: int, method: str, workers: int) -> None:
    """Kills runs after some records were written; one that ends before starts anew."""
    rng = random.Random(0)
    whole = contents(run(noise, data, folder / "whole").folder)
    killed = folder / "killed"
    options = {"workers": workers}
    while kills:
        process = get_context(method).Process(target=run, args=(noise, data, killed), kwargs=options)
        process.start()
        wanted = len(list(killed.rglob("*.json"))) + rng.randint(0, 2)
        while process.is_alive() and len(list(killed.rglob("*.json"))) < wanted:
            time.sleep(0.001)
        time.sleep(rng.random() * 0.02)
        process.kill()
        process.join()
        kills -= process.exitcode != 0
        if (killed / "summary.json").exists():
            assert contents(killed) == whole
            shutil.rmtree(killed)
    assert contents(run(noise, data, killed).folder) == whole


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_run_gives_the_same(noise: Path, data: BenchmarkData, tmp_path: Path) -> None:
    """Guards against half-written records, and rows that a SIGKILL loses or doubles."""
    kill_at_random(noise, data, tmp_path, 4, "fork", 1)


@pytest.mark.slow
def test_killed_run_with_workers_gives_the_same(noise: Path, data: BenchmarkData, tmp_path: Path) -> None:
    """Guards against workers that outlive their run."""
    kill_at_random(noise, data, tmp_path, 4, "spawn", 2)


def test_odd_videos_are_named(videos: Path, data: BenchmarkData, tmp_path: Path) -> None:
    """Guards against videos that are skipped in silence, and against a run that one bad file ends."""
    (videos / "clip-0.mp4").unlink()
    (videos / "clip-1.mp4").write_bytes(b"not a video")
    write_noise(videos / "clip-2.mp4", 2, NUM_FRAMES - 1)
    write_noise(videos / "clip-3.mp4", 3, NUM_FRAMES - 2)
    write_noise(videos / "stranger.mp4", 9)
    (videos / "clip-4.mp4").rename(videos / "clip-4.mkv")
    shutil.copy(videos / "clip-5.mp4", videos / "clip-5.mov")
    result = run(videos, data, tmp_path / "result", protocol=official(NUM_FRAMES))
    lists = {kind: result.summary[kind] for kind in ("missing", "unreadable", "short", "extra", "failed")}
    assert lists == {
        "missing": ["clip-0"], "unreadable": ["clip-1"], "short": ["clip-2", "clip-3"],
        "extra": ["clip-5.mov", "stranger.mp4"], "failed": [],
    }  # fmt: skip
    assert result.summary["counts"] == {
        "expected": 8, "found": 7, "missing": 1, "short": 2, "unreadable": 1, "failed": 0, "extra": 2, "dropped": 0,
        "not_asked": 0,
    }  # fmt: skip
    found = rows(result, "contrast")
    assert list(found) == IDS
    notes = {one: note for one, (value, note) in found.items() if value is None}
    assert notes.keys() == {"clip-0", "clip-1", "clip-3"}
    assert notes["clip-0"] == "no video" and notes["clip-1"].startswith("unreadable")
    assert "4 frames; expected at least 6" in notes["clip-3"]
    said = result.summary["metrics"]["contrast"]
    assert (said["num_ids"], said["undefined"]) == (5, 3)


def test_who_is_absent_counts_as_the_protocol_says(videos: Path, data: BenchmarkData, tmp_path: Path) -> None:
    """Guards against a method that gains by making no video of what is hard: §4.2's "missing subjects" are worth 0. The
    released code takes the mean over the files that are there."""
    (videos / "clip-0.mp4").unlink()
    (videos / "clip-1.mp4").write_bytes(b"not a video")
    names = ("subject_similarity", "face_similarity", "missing_share", "text_similarity")
    known: dict[str, Any] = {name: plain_metrics.KNOWN["brightness"] for name in names}
    options: dict[str, Any] = {"known": known, "roles": dict.fromkeys(names, ())}
    result = run(videos, data, tmp_path / "paper", " ".join(names), **options)
    for one, note in (("clip-0", "no video"), ("clip-1", "unreadable: no video that can be decoded")):
        found = {row["metric"]: (row["value"], row["note"]) for row in result.table.to_pylist() if row["id"] == one}
        # A dog without a face crop: there is no face to be missing.
        assert found == {
            "subject_similarity": (0.0, note), "missing_share": (1.0, note), "face_similarity": (None, note),
            "text_similarity": (None, note),
        }  # fmt: skip
    official_one = run(videos, data, tmp_path / "official", " ".join(names), **options, protocol=official(NUM_FRAMES))
    assert official_one.summary["metrics"]["subject_similarity"]["num_ids"] == 6


def test_only_what_was_asked_for_is_expected(videos: Path, data: BenchmarkData, tmp_path: Path) -> None:
    """Guards against a part of the samples, made on purpose, that counts as full of missing videos."""
    for one in IDS[5:]:
        (videos / f"{one}.mp4").unlink()
    (videos / "clip-1.mp4").unlink()
    (videos / "generation.json").write_text(json.dumps({"mode": "all", "seeds": [3], "samples": IDS[:5]}))
    result = run(videos, data, tmp_path / "result")
    assert result.summary["missing"] == ["clip-1"] and result.summary["not_asked"] == IDS[5:]
    assert (result.summary["counts"]["expected"], result.summary["counts"]["not_asked"]) == (5, 3)
    assert {seed for _, seed, _ in result.values["contrast"]} == {3}
    (videos / "generation.json").write_text(json.dumps({"mode": "face", "samples": ["stranger"]}))
    with pytest.raises(ValueError, match="holds videos of other samples, mode 'face'"):
        run(videos, data, tmp_path / "result")


def test_one_bad_video_is_a_row_and_all_stop_the_run(
    noise: Path, data: BenchmarkData, tmp_path: Path, measured: Callable[[], list[str]]
) -> None:
    """Guards against a metric's error that ends hours of work, and one that is in all rows and nobody sees."""
    result = run(noise, data, tmp_path / "odd", "brightness only_odd")
    assert rows(result, "only_odd")["clip-2"] == (None, "failed: ZeroDivisionError: an even number")
    assert rows(result, "only_odd")["clip-3"] == (1.0, "")
    assert result.summary["failed"] == ["clip-0", "clip-2", "clip-4", "clip-6"]
    measured()
    run(noise, data, tmp_path / "odd", "brightness only_odd")
    assert measured() == [f"only_odd clip-{i}" for i in (0, 2, 4, 6)]  # what failed is tried again
    with pytest.raises(RuntimeError, match="(?s)broken fails for each of the first 5 videos.*KeyError: 'no such key'"):
        run(noise, data, tmp_path / "broken", "brightness broken")
    assert measured() == sorted(f"{name} {one}" for name in ("brightness", "broken") for one in IDS[:5])
    with pytest.raises(MemoryError):
        run(noise, data, tmp_path / "memory", "short_of_memory")


def test_seeds_are_one_result(noise: Path, data: BenchmarkData, tmp_path: Path) -> None:
    """Guards against seeds that overwrite each other, or count as samples of their own in intervals."""
    videos = tmp_path / "videos"
    for seed in (0, 7):
        shutil.copytree(noise, videos / f"seed-{seed}")
    write_noise(videos / "seed-7" / "clip-1.mp4", 50)
    (videos / "seed-7" / "clip-2.mp4").unlink()
    result = run(videos, data, tmp_path / "result")
    assert result.summary["seeds"] == [0, 7] and result.summary["missing"] == ["seed-7/clip-2"]
    assert result.summary["metrics"]["contrast"]["num_ids"] == 8
    values = result.values["contrast"]
    assert len(values) == 16
    assert values["clip-1", 0, ""] != values["clip-1", 7, ""] and values["clip-3", 0, ""] == values["clip-3", 7, ""]
    shutil.copy(noise / "clip-0.mp4", videos)
    with pytest.raises(ValueError, match="holds seed-0/ and clip-0.mp4 beside it"):
        run(videos, data, tmp_path / "result")


def test_wrong_requests_are_refused(noise: Path, data: BenchmarkData, tmp_path: Path) -> None:
    """Guards against an empty result where a path, a name or the layout is wrong."""
    nested = tmp_path / "nested"
    shutil.copytree(noise, nested / "inner")
    for videos, message in (
        (tmp_path / "nowhere", "no folder"),
        (nested, "no video of the 8 samples but 8 others, such as inner/clip-0.mp4; expected clip-0.mp4"),
    ):
        with pytest.raises(ValueError, match=message):
            run(videos, data, tmp_path / "result")
    with pytest.raises(ValueError, match="did you mean 'contrast'"):
        run(noise, data, tmp_path / "result", "contrasts")
    with pytest.raises(ValueError, match="engine 'rey'.*did you mean 'ray'"):
        run(noise, data, tmp_path / "result", engine="rey")
    with pytest.raises(ValueError, match="8 videos for 16 processes"):
        run(noise, data, tmp_path / "result", protocol=official(NUM_FRAMES, world_size=16))


def test_dropped_tail_leaves_means(noise: Path, data: BenchmarkData, tmp_path: Path) -> None:
    """The released code's mean is of the first N // world * world videos; ours says which it leaves out."""
    result = run(noise, data, tmp_path / "result", protocol=official(NUM_FRAMES, world_size=3))
    assert result.summary["dropped"] == ["clip-6", "clip-7"]
    values = [rows(result, "contrast")[one][0] for one in IDS[:6]]
    assert result.summary["metrics"]["contrast"]["mean"] == pytest.approx(np.mean(values))
    assert len(rows(result, "contrast")) == 8
