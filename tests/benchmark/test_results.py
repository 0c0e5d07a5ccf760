"""Result folders: the same bytes for the same input, refused when they are not whole, and told apart."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from video_alchemist.benchmark.protocol import official, paper
from video_alchemist.benchmark.results import FORMAT, Result, diff, read_result, write_official_json, write_result
from video_alchemist.benchmark.rows import Row

METRICS = ("text_similarity", "subject_similarity", "face_similarity", "dynamic_degree")
IDS = ("a", "b", "c", "d", "e")


def rows(shift: float = 0.0, seeds: Sequence[int] = (0,)) -> list[tuple[int, Row]]:
    found = []
    for seed in seeds:
        for k, metric in enumerate(METRICS):
            for i, one in enumerate(IDS):
                found.append((seed, Row(one, metric, k + i / 10 + shift + seed, frames=3)))
        found += [(seed, Row(one, "subject_similarity", 0.5, "dog", 2)) for one in IDS]
    return found


def facts(**changes: Any) -> dict[str, Any]:
    return {
        "name": "ours", "generation": None, "mode": "subject", "protocol": dataclasses.asdict(paper()),
        "data": {"fingerprint": "f" * 64, "source": "world"}, "models": {"detector": "dino@1", "image_text": "clip@1"},
        "versions": {}, "package": "video-alchemist 0.1.0", "videos": "v", "seeds": [0], "counts": {}, "missing": [],
        "short": [], "unreadable": [], "failed": [], "extra": [], "dropped": [],
        "not_asked": [], "metrics": list(METRICS),
    } | changes  # fmt: skip


def make(folder: Path, shift: float = 0.0, **changes: Any) -> Result:
    folder.mkdir()
    return write_result(folder, rows(shift, changes.get("seeds", (0,))), facts(**changes))


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    """Guards against results that depend on the order in which workers finish, or on the clock."""
    make(tmp_path / "one")
    shuffled = rows()
    random.Random(0).shuffle(shuffled)
    (tmp_path / "two").mkdir()
    write_result(tmp_path / "two", shuffled, facts())
    for name in ("rows.parquet", "summary.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    table = read_result(tmp_path / "one").table
    assert table.column_names == ["id", "seed", "metric", "word", "value", "frames", "note"]
    keys = [(row["id"], row["seed"], row["metric"], row["word"]) for row in table.to_pylist()]
    assert keys == sorted(keys) and len(keys) == 25


def test_means_are_over_samples(tmp_path: Path) -> None:
    """Guards against words in means, seeds as samples of their own, and NaN in JSON for a single sample."""
    said = make(tmp_path / "two seeds", seeds=[0, 2]).summary["metrics"]["subject_similarity"]
    assert said["mean"] == pytest.approx(1 + 0.2 + 1) and said["num_ids"] == 5
    assert said["between_seeds"] == pytest.approx(2**0.5)  # of means 1.2 and 3.2
    folder = tmp_path / "single"
    folder.mkdir()
    write_result(folder, [(0, Row("a", "sharpness", 0.25))], facts(metrics=["sharpness"]))
    said = json.loads((folder / "summary.json").read_text())["metrics"]["sharpness"]
    assert said == {"mean": 0.25, "low": None, "high": None, "num_ids": 1, "between_seeds": None, "undefined": 0}


def test_what_is_no_result_is_refused(tmp_path: Path) -> None:
    """Guards against a table of numbers that are not those that were measured."""
    with pytest.raises(ValueError, match="holds no summary.json; expected a folder that `alchemist bench score` wrote"):
        read_result(tmp_path)
    folder = make(tmp_path / "result").folder
    text = (folder / "summary.json").read_text()
    (folder / "summary.json").write_text(text.replace(f'"format": {FORMAT}', '"format": 9'))
    with pytest.raises(ValueError, match=f"of format 9; this version reads {FORMAT}"):
        read_result(folder)
    (folder / "summary.json").write_text(text[:100])
    with pytest.raises(ValueError, match="is damaged"):
        read_result(folder)
    (folder / "summary.json").write_text(text)
    (folder / "rows.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="is not what it names"):
        read_result(folder)
    (folder / "rows.parquet").unlink()
    with pytest.raises(ValueError, match="is missing"):
        read_result(folder)


def test_differences_are_named(tmp_path: Path) -> None:
    """Guards against two runs that are taken for the same though models, protocol or single rows differ."""
    a = make(tmp_path / "a")
    assert not diff(a, make(tmp_path / "same")) and diff(a, a).lines() == ["no difference"]
    changed = rows()
    changed[7] = (0, Row("c", "subject_similarity", 1.2 - 0.03))
    changed[8] = (0, Row("d", "subject_similarity", None, note="failed"))
    del changed[4::5]  # "e", of all metrics
    (tmp_path / "b").mkdir()
    models = {"detector": "dino@2", "image_text": "clip@1"}
    b = write_result(tmp_path / "b", changed, facts(models=models, protocol=dataclasses.asdict(official(49))))
    found = diff(a, b)
    assert found.inputs["models.detector"] == ("dino@1", "dino@2")
    assert found.inputs["protocol.num_frames"] == (None, 49) and "models.image_text" not in found.inputs
    assert found.only_a == ("e",) and found.only_b == ()
    assert found.metrics["subject_similarity"].differing == ("c", "d")
    assert found.metrics["subject_similarity"].largest == pytest.approx(0.03)
    assert found.metrics["text_similarity"].differing == ()
    assert "subject_similarity: 1.2 | 1.09; 2 videos by 0.03 at most: c, d" in found.lines()


def test_official_file(tmp_path: Path) -> None:
    """The released code's keys and layout, of the videos that 2 processes do not drop (the last of 5)."""
    protocol = dataclasses.asdict(official(49, world_size=2))
    subject = make(tmp_path / "subject", protocol=protocol, dropped=["e"])
    path = tmp_path / "method.json"
    assert write_official_json(subject, path) == pytest.approx(
        {"text_clip_similarity": 0.15, "subject_dino_similarity": 1.15, "dynamic_degree_score": 3.15}
    )
    lines = path.read_text().splitlines()
    assert lines[0] == "{" and lines[1].startswith('    "text_clip_similarity": 0.15') and lines[-1] == "}"
    face = write_official_json(make(tmp_path / "face", protocol=protocol, mode="face"), path)
    assert list(face) == ["text_clip_similarity", "arcface_similarity", "dynamic_degree_score"]
    (tmp_path / "broken").mkdir()
    spoilt = [*rows()[:-1], (0, Row("e", "dynamic_degree", None, note="too short: 4 frames"))]
    broken = write_result(tmp_path / "broken", spoilt, facts(protocol=protocol))
    with pytest.raises(ValueError, match="no method.json: the released code ends with an error at videos like e"):
        write_official_json(broken, path)
    with pytest.raises(ValueError, match="scored by protocol 'paper'; expected 'official'"):
        write_official_json(make(tmp_path / "paper"), path)
