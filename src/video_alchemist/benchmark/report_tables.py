"""The report's tables as data, before they are Markdown or HTML (§4.2, Tables 1 and 3).

A group is a protocol, the data it was used on and a mode: only results of one group compare.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from video_alchemist.benchmark import published
from video_alchemist.benchmark.published import PublishedRow
from video_alchemist.benchmark.results import Result
from video_alchemist.benchmark.statistics import holm, mean_by_id, paired_test
from video_alchemist.dataset.storage import json_line

TABLE_1 = {  # columns of Table 1, by mode
    "subject": ("text_similarity", "video_similarity", "subject_similarity", "dynamic_degree"),
    "face": ("text_similarity", "video_similarity", "face_similarity", "dynamic_degree"),
}
HIGHER = {  # whether more is better; a metric that is not named here has no better side
    **dict.fromkeys(published.COLUMNS, True),
    "background_similarity": True,
    "subject_similarity_assigned": True,
    "face_similarity_assigned": True,
    "identity_margin": True,
    "sharpness": True,
    "motion_smoothness": True,
    "learned_quality": True,
    "copy_paste": False,
    "copy_paste_excess": False,
    "identity_mixing": False,
    "missing_share": False,
    "duplication": False,
    "flicker": False,
}
GIVEN = {  # Table 1's "Reference Images"
    "text": "none",
    "single": "single",
    "face": "single",
    "multiple": "multiple",
    "faces": "multiple",
    "background": "multiple, background",
}
SEEDS = ", and the standard deviation between seeds, if there are several"
NOT_IN_PAPER = "Not in the paper:"
SURE = 0.05  # of p values, adjusted for their number


@dataclass(frozen=True)
class Cell:
    """text: what counts. small: what stands under it. strong: the best of its column."""

    text: str = ""
    small: str = ""
    strong: bool = False


@dataclass(frozen=True)
class Line:
    """published: copied from the paper, and to be marked as such."""

    label: str
    cells: tuple[Cell, ...]
    published: bool = False


@dataclass(frozen=True)
class Grid:
    """heads: (name, what stands over it) of every column, that of labels first."""

    title: str
    text: str
    heads: tuple[tuple[str, str], ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Contrast:
    """A paired test of one metric against the group's first result; adjusted by Holm for all tests of the group."""

    metric: str
    first: str
    other: str
    difference: float
    p_value: float
    adjusted: float
    num_ids: int

    @property
    def sure(self) -> bool:
        return self.adjusted < SURE


def label(metric: str) -> str:
    """Name and better side: "Subj-S ↑"."""
    arrow = {True: " ↑", False: " ↓", None: ""}[HIGHER.get(metric)]
    return published.COLUMNS.get(metric, metric.replace("_", " ").capitalize()) + arrow


def protocol_name(summary: dict[str, Any]) -> str:
    """Name and version: of the package, and of the settings."""
    protocol = summary["protocol"]
    digest = hashlib.sha256(json_line(protocol)).hexdigest()[:8]
    frames = f"first {protocol['num_frames']} frames" if protocol["num_frames"] else "all frames"
    tail = f" on {protocol['drop_tail_of']} processes" if protocol["drop_tail_of"] > 1 else ""
    return f"{protocol['name']} ({frames}{tail}; {summary['package']}, settings {digest})"


def given(result: Result) -> str:
    generation = result.summary["generation"] or {}
    return GIVEN.get(generation.get("variant") or "", "–")


def groups(results: Sequence[Result]) -> dict[tuple[str, str, str], list[Result]]:
    """By (protocol, data, mode), in the order given."""
    found: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        summary = result.summary
        key = (protocol_name(summary), summary["data"]["fingerprint"], summary["mode"])
        found.setdefault(key, []).append(result)
    return found


def _grid(protocol: str, mode: str, text: str, heads: tuple[tuple[str, str], ...], lines: tuple[Line, ...]) -> Grid:
    """protocol: as `protocol_name` says it."""
    name, _, version = protocol.removesuffix(")").partition(" (")
    title = f"{mode} mode, protocol {name}" if mode else f"protocol {name}"
    return Grid(title[0].upper() + title[1:], f"{version[0].upper()}{version[1:]}. {text}", heads, lines)


# ------------------------------------------------------------------------------------------------------------------
# Table 1


def comparison(results: Sequence[Result]) -> list[Grid]:
    """Table 1's layout: a table a protocol and data set; methods as rows, subject mode beside face mode."""
    by_protocol: dict[tuple[str, str], list[Result]] = {}
    for (protocol, data, _), members in groups(results).items():
        by_protocol.setdefault((protocol, data), []).extend(members)
    heads = (("method", ""), ("references", ""), *((label(m), f"{mode} mode") for mode, m in _columns()))
    copied = tuple(_published_lines(published.TABLE_1))
    grids = []
    for (protocol, data), members in by_protocol.items():
        source = members[0].summary["data"]["source"]
        paper = "" if source == "official" else " The paper's rows are of other data and models: they do not compare."
        text = f"Data: {source}, {data[:12]}. In small: 95 % interval of the mean over samples{SEEDS}.{paper}"
        lines = tuple(_table_1_lines([one for one in members if one.summary["mode"] in TABLE_1]))
        if lines:
            grids.append(_grid(protocol, "", text, heads, lines + copied))
        for mode in dict.fromkeys(one.summary["mode"] for one in members if one.summary["mode"] not in TABLE_1):
            chosen = [one for one in members if one.summary["mode"] == mode]
            metrics = [metric for metric in published.COLUMNS if any(metric in one.metrics for one in chosen)]
            columns = tuple((label(metric), f"mode {mode}") for metric in metrics)
            rows = [Line(one.name, (Cell(given(one)), *(_cell(one, m) for m in metrics))) for one in chosen]
            grids.append(_grid(protocol, "", text, (*heads[:2], *columns), tuple(_strongest(rows, metrics))))
    return grids


def _columns() -> list[tuple[str, str]]:
    return [(mode, metric) for mode, metrics in TABLE_1.items() for metric in metrics]


def _table_1_lines(results: Sequence[Result]) -> list[Line]:
    """Results of one name and kind of references share a line; a second one of a mode begins another."""
    rows: list[tuple[str, str, dict[str, Result]]] = []
    for result in results:
        mode = result.summary["mode"]
        row = next((r for r in rows if r[:2] == (result.name, given(result)) and mode not in r[2]), None)
        if row is None:
            rows.append(row := (result.name, given(result), {}))
        row[2][mode] = result
    lines = [
        Line(name, (Cell(kind), *(_cell(by_mode.get(mode), metric) for mode, metric in _columns())))
        for name, kind, by_mode in rows
    ]
    return _strongest(lines, [metric for _, metric in _columns()])


def _cell(result: Result | None, metric: str) -> Cell:
    if result is None or metric not in result.metrics:
        return Cell()
    said = result.summary["metrics"][metric]
    if said["mean"] is None:
        return Cell("–", "no value")
    interval = "" if said["low"] is None else f"{written(said['low'])} to {written(said['high'])}"
    seeds = "" if said["between_seeds"] is None else f"seeds ± {written(said['between_seeds'])}"
    return Cell(written(said["mean"]), ", ".join(filter(None, (interval, seeds))))


def written(value: float) -> str:
    """Three decimals as in the paper, but for what is too small or too large for them."""
    size = abs(value)
    return f"{value:.1f}" if size >= 10 else f"{value:.3f}" if size >= 0.02 or not size else f"{value:.2g}"


def _strongest(lines: Sequence[Line], metrics: Sequence[str]) -> list[Line]:
    """With the best of several in each column set off; the first column of cells says what was given."""
    best = {}
    for i, metric in enumerate(metrics, start=1):
        values = [float(line.cells[i].text) for line in lines if line.cells[i].text not in ("", "–")]
        if len(values) > 1 and metric in HIGHER:
            best[i] = (max if HIGHER[metric] else min)(values)
    return [
        Line(
            line.label,
            tuple(
                Cell(one.text, one.small, i in best and one.text not in ("", "–") and float(one.text) == best[i])
                for i, one in enumerate(line.cells)
            ),
        )
        for line in lines
    ]


def _published_lines(rows: Sequence[PublishedRow]) -> list[Line]:
    """Rows of both modes that share method and kind of references share a line."""
    merged: dict[tuple[str, str], dict[str, PublishedRow]] = {}
    for row in rows:
        merged.setdefault((row.label, GIVEN[row.variant]), {})[row.mode] = row
    lines = []
    for (name, kind), by_mode in merged.items():
        values = [by_mode[mode].values.get(metric) if mode in by_mode else None for mode, metric in _columns()]
        cells = [Cell() if value is None else Cell(f"{value:.3f}") for value in values]
        lines.append(Line(name, (Cell(kind), *cells), published=True))
    return lines


# ------------------------------------------------------------------------------------------------------------------
# Tests, and Table 3


def contrasts(members: Sequence[Result]) -> list[Contrast]:
    """Each further result of a group against its first, on the samples that both have."""
    found = []
    for other in members[1:]:
        for metric in [one for one in members[0].metrics if one in other.metrics]:
            a, b = mean_by_id(other.pairs(metric)), mean_by_id(members[0].pairs(metric))
            if a.keys() & b.keys():
                found.append((metric, other.name, paired_test(a, b)))
    adjusted = holm({str(i): test.p_value for i, (_, _, test) in enumerate(found)})
    return [
        Contrast(metric, members[0].name, name, test.difference, test.p_value, adjusted[str(i)], test.num_ids)
        for i, (metric, name, test) in enumerate(found)
    ]


def significance(results: Sequence[Result]) -> list[Grid]:
    """Paired tests: a table a group, metrics as rows, the other results as columns."""
    grids = []
    for (protocol, _, mode), members in groups(results).items():
        if len(members) < 2:
            continue
        first, others = members[0], members[1:]
        done = {(test.other, test.metric): test for test in contrasts(members)}
        lines = [
            Line(label(metric), tuple(_tested(done.get((one.name, metric))) for one in others))
            for metric in first.metrics
        ]
        text = (
            f"Difference to {first.name}, mean over the samples that both have; sign-flip permutation test. "
            f"p adjusted for {len(done)} tests (Holm); strong below {SURE}."
        )
        heads = (("metric", ""), *((one.name, "") for one in others))
        grids.append(_grid(protocol, mode, text, heads, tuple(lines)))
    return grids


def _tested(test: Contrast | None) -> Cell:
    if test is None:
        return Cell("–")
    p = f"p < 0.001 of {test.num_ids}" if test.adjusted < 0.001 else f"p {test.adjusted:.3f} of {test.num_ids}"
    return Cell(_signed(test.difference), p, test.sure)


def ablation(results: Sequence[Result]) -> list[Grid]:
    """Table 3's layout: what each change to the first result costs, in subject mode. A result of the name of one of the
    paper's rows ("No word token") stands on that row."""
    metrics = TABLE_1["subject"]
    grids = []
    for (protocol, _, mode), members in groups(results).items():
        if mode != "subject" or len(members) < 2:
            continue
        done = {(test.other, test.metric): test for test in contrasts(members)}
        own = {
            one.name: Line(one.name, tuple(_changed(one, m, done.get((one.name, m))) for m in metrics))
            for one in members
        }
        lines: list[Line] = []
        whole = published.TABLE_3[-1]
        for row in published.TABLE_3:
            shifts = ["" if row is whole else _signed(row.values[m] - whole.values[m]) for m in metrics]
            cells = tuple(Cell(f"{row.values[m]:.3f}", shift) for m, shift in zip(metrics, shifts, strict=True))
            same = [name for name in own if name.lower() == row.method.lower()]
            lines += [*(own.pop(name) for name in same), Line(row.label, cells, published=True)]
        lines = [*own.values(), *lines]
        text = f"In small: difference to {members[0].name}, * where it is sure; in the paper's rows to its full model."
        heads = (("method", ""), *((label(metric), "") for metric in metrics))
        grids.append(_grid(protocol, "", text, heads, tuple(lines)))
    return grids


def _changed(result: Result, metric: str, test: Contrast | None) -> Cell:
    shift = "" if test is None else _signed(test.difference) + (" *" if test.sure else "")
    return Cell(_cell(result, metric).text, shift)


def everything(results: Sequence[Result]) -> list[Grid]:
    """All metrics of all results, a table a group; metrics as rows."""
    grids = []
    for (protocol, _, mode), members in groups(results).items():
        metrics = list(dict.fromkeys(metric for one in members for metric in one.metrics))
        heads = (("metric", ""), *((one.name, "") for one in members))
        rows = {metric: Line(label(metric), tuple(_counted(one, metric) for one in members)) for metric in metrics}
        lines = [rows[metric] for metric in metrics if metric in published.COLUMNS]
        if ours := [rows[metric] for metric in metrics if metric not in published.COLUMNS]:
            lines += [Line(NOT_IN_PAPER, (Cell(),) * len(members)), *ours]
        text = f"Mean, 95 % interval over samples{SEEDS}; samples with a value."
        grids.append(_grid(protocol, mode, text, heads, tuple(lines)))
    return grids


def _counted(result: Result, metric: str) -> Cell:
    cell = _cell(result, metric)
    count = result.summary["metrics"].get(metric, {}).get("num_ids")
    return Cell(cell.text, f"{cell.small} · {count}".lstrip(" ·") if count else cell.small)


def warnings(results: Iterable[Result]) -> list[str]:
    """What a reader must know before any number: a line a result that lacks something."""
    said = []
    for result in results:
        parts = [
            f"{len(names)} {kind.replace('_', ' ')} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"
            for kind in ("missing", "unreadable", "short", "failed", "dropped", "extra", "not_asked")
            if (names := result.summary[kind])
        ]
        if parts:
            about = f"{result.name}, {result.summary['mode']} mode, {result.summary['protocol']['name']}"
            worth = "show nobody" if result.summary["protocol"]["absent_is_zero"] else "are left out"
            gone = result.summary["missing"] or result.summary["unreadable"]
            said.append(f"{about}: {'; '.join(parts)}" + (f"; missing and unreadable ones {worth}" if gone else ""))
    return said


def _signed(value: float) -> str:
    size = abs(value)
    return ("+" if value >= 0 else "−") + (f"{size:.3f}" if size >= 0.0005 or not size else f"{size:.1g}")
