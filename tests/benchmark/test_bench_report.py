"""The report: right numbers at the right place, the paper's never mistaken for ours, nothing asked of a network."""

from __future__ import annotations

import base64
import csv
import dataclasses
import hashlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from video_alchemist.benchmark import published
from video_alchemist.benchmark.protocol import Protocol, official, paper
from video_alchemist.benchmark.report import write_report
from video_alchemist.benchmark.report_gallery import choose
from video_alchemist.benchmark.report_plots import intervals
from video_alchemist.benchmark.report_tables import Cell, ablation, comparison, contrasts, everything, written
from video_alchemist.benchmark.results import Result, write_result
from video_alchemist.benchmark.rows import Row

IDS = [f"clip-{i:02d}" for i in range(20)]
SUBJECT = ("text_similarity", "video_similarity", "subject_similarity", "dynamic_degree", "flicker")
FACE = ("text_similarity", "face_similarity")


def make(
    folder: Path, name: str, shift: float = 0.0, mode: str = "subject", protocol: Protocol | None = None, **changes: Any
) -> Result:
    """Every value of sample i is (i + metric's place) / 100 + shift; the last sample has no text similarity."""
    folder.mkdir()
    metrics = SUBJECT if mode == "subject" else FACE
    rows = [
        (0, Row(one, metric, None if (i, k) == (19, 0) else (i + k) / 100 + shift))
        for i, one in enumerate(IDS)
        for k, metric in enumerate(metrics)
    ]
    facts = {
        "name": name, "generation": {"variant": "single" if mode == "subject" else "face"}, "mode": mode,
        "protocol": dataclasses.asdict(protocol or paper()), "data": {"fingerprint": "f" * 64, "source": "world"},
        "models": {"image_text": "clip@1"}, "versions": {}, "package": "video-alchemist 0.1.0", "videos": name,
        "seeds": [0], "counts": {"expected": 20, "found": 20}, "missing": [], "short": [], "unreadable": [],
        "failed": [], "extra": [], "dropped": [], "not_asked": [], "metrics": list(metrics),
    } | changes  # fmt: skip
    samples = {one: {"prompt": f"A <dog> & {one}", "words": {"dog": "subject"}} for one in IDS}
    (folder / "samples.json").write_text(json.dumps(samples))
    (folder / "pictures").mkdir()
    for one in IDS:
        for kind in (one, f"{one}.references"):
            Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "pictures" / f"{kind}.jpg")
    return write_result(folder, rows, facts)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[Result]:
    root = tmp_path_factory.mktemp("results")
    return [
        make(root / "ours", "Ours <b>|"),
        make(root / "other", "Other", 0.05, missing=["clip-07"]),
        make(root / "faces", "Ours <b>|", 0.2, mode="face"),
        make(root / "parity", "Ours <b>|", 0.1, protocol=official(49, world_size=8)),
    ]


@pytest.fixture(scope="module")
def report(results: list[Result], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report([one.folder for one in results], tmp_path_factory.mktemp("report")).parent


class Reader(HTMLParser):
    """Checks that tags are closed in order, and gathers attributes and texts by tag."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.rows: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += f" {data}" if self.rows[-1][-1] else data


@pytest.fixture(scope="module")
def page(report: Path) -> tuple[str, Reader]:
    text = (report / "report.html").read_text()
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    return text, reader


def test_page_needs_nothing_else(page: tuple[str, Reader], report: Path, results: list[Result]) -> None:
    """Guards against resources of other hosts, scripts that the page's own policy blocks, and unescaped names."""
    text, reader = page
    assert "http" not in re.sub(r"http-equiv", "", text)
    links = [value or "" for name, value in reader.attributes if name in ("src", "href")]
    assert all(link.startswith(("data:image/jpeg;base64,", "#")) for link in links)
    script = re.search(r"<script>(.*)</script>", text, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert "<dog>" not in text and "Ours <b>" not in text and "A &lt;dog&gt; &amp; clip-00" in text
    write_report([one.folder for one in results], report.parent / "again")
    for name in ("report.html", "report.md", "report.csv", "report.json"):
        assert (report.parent / "again" / name).read_bytes() == (report / name).read_bytes()


def test_table_1(results: list[Result], page: tuple[str, Reader]) -> None:
    """Modes of a method share a line, protocols have a table each, and the paper's rows are marked in each."""
    first, second = comparison(results)
    assert (first.title, second.title) == ("Protocol paper", "Protocol official")
    assert second.text.startswith("First 49 frames on 8 processes; video-alchemist 0.1.0, settings ")
    assert "they do not compare" in first.text
    assert [line.label for line in first.lines if not line.published] == ["Ours <b>|", "Other"]
    assert [line.label for line in second.lines if not line.published] == ["Ours <b>|"]
    ours, other = first.lines[:2]
    assert [cell.text for cell in ours.cells] == [
        "single",
        "0.090",
        "0.105",
        "0.115",
        "0.125",
        "0.290",
        "",
        "0.305",
        "",
    ]
    assert [cell.strong for cell in other.cells[1:5]] == [True] * 4 and other.cells[5:] == (Cell(),) * 4
    copied = [line for line in first.lines if line.published]
    assert all(published.MARK in line.label for line in copied) and len(copied) == 12
    alchemist = next(line for line in copied if line.label.startswith("Video Alchemist"))
    assert [cell.text for cell in alchemist.cells] == "single 0.269 0.732 0.617 0.466 0.273 0.687 0.382 0.424".split()
    text, reader = page
    assert text.count('<tr class="published">') == 2 * 12 + 4  # and Table 3's beside the one group that has two results
    assert any(row[:2] == ["Ours <b>|", "single"] and row[2].startswith("0.090") for row in reader.rows)


def test_tests_are_paired_and_adjusted(results: list[Result]) -> None:
    """The same shift of all samples is sure, whatever the samples' spread; videos without a value are left out."""
    found = {test.metric: test for test in contrasts(results[:2])}
    assert found["subject_similarity"].difference == pytest.approx(0.05)
    assert found["subject_similarity"].sure and found["subject_similarity"].num_ids == 20
    assert found["text_similarity"].num_ids == 19
    assert all(test.p_value < test.adjusted or test.p_value == test.adjusted == 1 for test in found.values())
    assert not any(test.sure for test in contrasts([results[0], results[0]]))


def test_ablation_rows_stand_beside_the_papers(tmp_path: Path) -> None:
    """Guards against variants of ours that cannot be told from the paper's, or stand far from what they repeat."""
    whole, change = make(tmp_path / "a", "Ours"), make(tmp_path / "b", "no word token", -0.05)
    (grid,) = ablation([whole, change])
    labels = [(line.label, line.published) for line in grid.lines]
    assert labels[:2] == [("Ours", False), ("Use CLIP (published, Table 3)", True)]
    assert labels[2:4] == [("no word token", False), ("No word token (published, Table 3)", True)]
    assert len(labels) == 6 and grid.lines[2].cells[2].small == "−0.050 *"


def test_spread_between_seeds_is_shown(tmp_path: Path) -> None:
    """Guards against an interval over samples that is taken for all that can vary."""
    one = make(tmp_path / "a", "Ours")
    said = {**one.summary["metrics"], "flicker": {**one.summary["metrics"]["flicker"], "between_seeds": 0.0321}}
    grid = everything([replace(one, summary={**one.summary, "metrics": said})])[0]
    assert "seeds ± 0.032" in next(line for line in grid.lines if line.label.startswith("Flicker")).cells[0].small


def test_our_metrics_stand_apart_from_the_papers(results: list[Result], report: Path) -> None:
    """Guards against measures of ours taken for the paper's."""
    labels = [line.label for line in everything(results[:1])[0].lines]
    assert labels[3:] == ["Dync-D ↑", "Not in the paper:", "Flicker ↓"]
    assert "Not in the paper:" not in [line.label for grid in everything(results[2:3]) for line in grid.lines]
    rows = csv.DictReader(io.StringIO((report / "report.csv").read_text()))
    assert {(row["metric"], row["in_paper"]) for row in rows} >= {("flicker", "no"), ("dynamic_degree", "yes")}


def test_other_formats_tell_origins_apart(report: Path) -> None:
    """Guards against the paper's numbers taken for measured ones by whoever reads the files."""
    rows = list(csv.DictReader(io.StringIO((report / "report.csv").read_text())))
    assert {row["origin"] for row in rows} == {"measured", "published, Table 1", "published, Table 3"}
    (ours,) = [
        row for row in rows
        if row["origin"] == "measured" and row["method"] == "Other" and row["metric"] == "subject_similarity"
    ]  # fmt: skip
    assert float(ours["mean"]) == pytest.approx(0.165) and ours["num_ids"] == "20" and ours["references"] == "single"
    content = json.loads((report / "report.json").read_text())
    assert len(content["results"]) == 4 and len(content["tests"]) == 5
    assert len(content["published"]["rows"]) == len(published.ROWS)
    text = (report / "report.md").read_text()
    assert "> Other, subject mode, paper: 1 missing (clip-07)" in text
    assert "| *ELITE (published, Table 1)* | single | 0.245 | 0.620 | 0.359 |" in text
    assert "| Ours <b>\\| | single | 0.090 (" in text


def test_gallery_is_bounded_and_sortable(page: tuple[str, Reader]) -> None:
    """Guards against pages of gigabytes, and samples without a value that break the order."""
    values = {f"{i:04d}": float(i) for i in range(1000)}
    chosen = choose(values, 60)
    assert len(chosen) == 180 and chosen == sorted(chosen, reverse=True)
    assert chosen[:60] == [f"{i:04d}" for i in range(999, 939, -1)] and chosen[-1] == "0000"
    assert len(choose({one: 0.0 for one in IDS}, 8)) == 20 and choose({"a": 1.0}, 60) == ["a"]
    assert 12 < len(choose({one: 0.0 for one in IDS}, 6)) <= 18
    text, reader = page
    rows = [json.loads(value or "") for name, value in reader.attributes if name == "data-values"]
    assert len(rows) == 20 and rows[0][0][2] == 0.21 and rows[0][0][0] is None  # clip-19, the best, has no text value
    assert text.count("data:image/jpeg") == 20 * (1 + 2)  # ours once, by whatever protocol


def test_small_and_single_values_are_drawn() -> None:
    """Guards against a division by zero where all means are one, and zeros where values are small."""
    assert [written(one) for one in (0.2694, 0.0012345, 0.0, -0.5, 123.456)] == [
        "0.269",
        "0.0012",
        "0.000",
        "-0.500",
        "123.5",
    ]
    assert "whisker" not in intervals([("one", 0.5, None, None)])
    assert intervals([("one", 0.0, 0.0, 0.0), ("two", 0.0, 0.0, 0.0)]).count("<circle") == 2


def test_names_are_told_apart(tmp_path: Path) -> None:
    """Guards against two results of one name that overwrite each other in a table, and an empty report."""
    paths = [make(tmp_path / one, "videos", i / 10).folder for i, one in enumerate(("first", "second"))]
    write_report(paths, tmp_path / "out")
    text = (tmp_path / "out/report.md").read_text()
    assert "| videos (first) | single | 0.090" in text and "| videos (second) | single | **0.190**" in text
    with pytest.raises(ValueError, match="a result is named twice"):
        write_report([paths[0], paths[0]], tmp_path / "out")
    with pytest.raises(ValueError, match="no result to report"):
        write_report([], tmp_path / "out")
    with pytest.raises(ValueError, match="holds no summary.json"):
        write_report([tmp_path], tmp_path / "out")
