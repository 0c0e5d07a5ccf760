"""`alchemist bench` from one end to the other, on metrics that need no network, and what users get wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from video_alchemist.benchmark.results import read_result
from video_alchemist.benchmark.samples import BenchmarkData
from video_alchemist.cli.bench import protocol_of
from video_alchemist.cli.main import main
from video_alchemist.emojiworld.benchmark_data import prepare_world
from video_alchemist.emojiworld.files import write_world_shards

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main([str(one) for one in arguments])
        said = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return stopped.value.code, said.out, said.err

    return call


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bench") / "data"
    prepare_world(out, 8, networks=None)
    return out


def test_world_data_is_held_out_and_of_every_mode(data: Path) -> None:
    """Guards against samples of concepts that the model was trained on, and against modes without any."""
    opened = BenchmarkData(data)
    assert opened.source == "world" and len(opened.ids("all")) == 8
    assert opened.ids("subject") and opened.ids("multi") and opened.ids("background")
    assert {opened.record(one)["provenance"]["profile"] for one in opened.ids("all")}  # it says who annotated


def test_from_data_to_report(data: Path, tmp_path: Path, run: Run) -> None:
    """Guards against verbs that do not fit together, and a report that forgets one of two methods."""
    for method in ("first_frame", "ground_truth"):
        arguments = ["--data", data, "--method", method, "--num-samples", 3, "-o", tmp_path / method]
        code, said, _ = run("bench", "generate", *arguments)
        assert code == 0 and "0 failed" in said
        arguments = ["bench", "score", tmp_path / method, "--data", data, "-o", tmp_path / f"{method}-result"]
        assert run(*arguments, "--metric", "flicker", "--metric", "sharpness")[0] == 0
    result = read_result(tmp_path / "first_frame-result")
    assert set(result.values["flicker"].values()) == {0.0}  # a still
    code, said, _ = run("bench", "diff", tmp_path / "first_frame-result", tmp_path / "ground_truth-result")
    assert code == 0 and "flicker" in said
    results = [tmp_path / f"{method}-result" for method in ("first_frame", "ground_truth")]
    assert run("bench", "report", *results, "-o", tmp_path / "report")[0] == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert "first_frame" in page and "ground_truth" in page
    assert json.loads((tmp_path / "report" / "report.json").read_text())


def test_several_seeds_are_one_result(data: Path, tmp_path: Path, run: Run) -> None:
    """Guards against seeds that are made but not scored, or that all begin at 0; and against a video that is missing
    and of which nobody is told."""
    videos, result = tmp_path / "videos", tmp_path / "result"
    arguments = ["--method", "first_frame", "--num-samples", 2, "--seed", 5, "--seeds", 2]
    assert run("bench", "generate", "--data", data, *arguments, "-o", videos)[0] == 0
    assert sorted(path.name for path in videos.iterdir()) == ["generation.json", "seed-5", "seed-6"]
    assert run("bench", "score", videos, "--data", data, "-o", result, "--metric", "flicker")[0] == 0
    summary = read_result(result).summary
    assert summary["seeds"] == [5, 6] and summary["counts"]["expected"] == 4
    assert summary["metrics"]["flicker"]["between_seeds"] == 0.0  # stills, of the same frame
    gone = min((videos / "seed-6").iterdir())
    gone.unlink()
    said = run("bench", "score", videos, "--data", data, "-o", result, "--metric", "flicker")[1]
    assert f"1 missing (seed-6/{gone.stem});" in said and "missing and unreadable ones show nobody" in said


def test_shards_of_any_kind_can_be_data(tmp_path: Path, run: Run) -> None:
    """Guards against a benchmark for EmojiWorld alone."""
    for _ in write_world_shards(tmp_path / "shards", 4):
        pass
    code, said, _ = run("bench", "prepare", "--shards", tmp_path / "shards", "-o", tmp_path / "data")
    assert code == 0 and said.startswith("subject ")
    assert BenchmarkData(tmp_path / "data").source == "shards"


def test_official_scores_are_left_where_its_tools_look(data: Path, tmp_path: Path, run: Run) -> None:
    """Guards against an official protocol that runs without its number of frames, or writes no official file."""
    run("bench", "generate", "--data", data, "--method", "ground_truth", "-o", tmp_path / "videos")
    arguments = ["bench", "score", tmp_path / "videos", "--data", data, "-o", tmp_path / "result"]
    arguments += ["--protocol", "official", "--metric", "sharpness"]
    code, _, error = run(*arguments)
    assert code == 2 and "--num-frames" in error
    assert run(*arguments, "--num-frames", 9)[0] == 0
    assert (tmp_path / "result" / "official.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "-o", "out"], "expected one of --world"),
        (["prepare", "--world", "--truth", "--num-samples", "0", "-o", "out"], "num_samples is 0"),
        (["prepare", "--annotation", "a", "-o", "out"], "--annotation and --videos go together"),
        (["generate", "--data", "nowhere", "-o", "out"], "no benchmark.json"),
        (["generate", "--data", "DATA", "--method", "magic", "-o", "out"], "magic"),
        (["score", "nowhere", "--data", "DATA", "-o", "out", "--metric", "flicker"], "nowhere"),
        (["score", "DATA", "--data", "DATA", "-o", "out", "--protocol", "papers"], "expected paper or official"),
        (["score", "DATA", "--data", "DATA", "-o", "out", "--set", "detector_score=1"], "detection_score"),
        (["score", "DATA", "--data", "DATA", "-o", "out", "--metric", "sharpnes"], "sharpness"),
        (["report", "nowhere"], "nowhere"),
    ],
)
def test_what_users_get_wrong(
    arguments: list[str], message: str, data: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against tracebacks, and half-written output."""
    monkeypatch.chdir(tmp_path)
    code, _, error = run("bench", *(str(data) if one == "DATA" else one for one in arguments))
    assert code == 2 and message in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_small_networks_are_judged_at_their_own_thresholds() -> None:
    """Guards against the paper's thresholds for networks that are never that sure, and the other way round."""
    assert protocol_of("paper").detection_score < 0.4 == protocol_of("paper", small=False).detection_score
    assert protocol_of("official", 17, 2).drop_tail_of == 2
