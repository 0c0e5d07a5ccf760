"""A result: what was measured of a folder of videos (§4.2), as a folder.

RESULT/rows.parquet    a row a video, metric and word: id, seed, metric, word, value, frames, note; sorted
RESULT/summary.json    means with intervals, and all that went in: protocol, data, models, versions; written last
RESULT/samples.json    the samples' prompts and words
RESULT/pictures        a strip of frames of every video, and one of every sample's references, for the report

The same input gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from video_alchemist.benchmark.rows import Row
from video_alchemist.benchmark.statistics import between_seeds, mean_by_id, summarise
from video_alchemist.dataset.storage import fingerprint, json_line, write_durably, write_table

FORMAT = 2
ROWS, SUMMARY, SAMPLES, PICTURES = "rows.parquet", "summary.json", "samples.json", "pictures"
INPUTS = ("protocol", "mode", "data", "models", "versions", "videos", "package")  # what may tell two results apart

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("seed", pa.int32()),
        ("metric", pa.string()),
        ("word", pa.string()),  # "" for the value of the whole video
        ("value", pa.float64()),  # null where there is nothing to measure: see note
        ("frames", pa.int32()),
        ("note", pa.string()),
    ]
)

OFFICIAL_KEYS = {  # the released code's names, in its order
    "text_similarity": "text_clip_similarity",
    "video_similarity": "video_clip_similarity",
    "subject_similarity": "subject_dino_similarity",
    "face_similarity": "arcface_similarity",
    "dynamic_degree": "dynamic_degree_score",
}
NOT_IN_MODE = {"subject": "face_similarity", "face": "subject_similarity"}  # each of its two modes leaves one out

Key = tuple[str, int, str]  # id, seed, word


@dataclass(frozen=True)
class Result:
    """summary: summary.json. table: rows.parquet."""

    folder: Path
    summary: dict[str, Any]
    table: pa.Table

    @property
    def name(self) -> str:
        return str(self.summary["name"])

    @property
    def metrics(self) -> list[str]:
        return list(self.summary["metrics"])

    def pairs(self, metric: str, only: int | None = None) -> list[tuple[str, float | None]]:
        """(id, value) of every video that counts, of all seeds or of one: means are over these."""
        dropped = set(self.summary["dropped"])
        seeds = self.summary["seeds"]
        return [
            (sample_id, value)
            for (sample_id, seed, word), value in self.values[metric].items()
            if not word and only in (None, seed) and video_key(sample_id, seed, seeds) not in dropped
        ]

    @cached_property
    def values(self) -> dict[str, dict[Key, float | None]]:
        """By metric, by (id, seed, word)."""
        found: dict[str, dict[Key, float | None]] = {metric: {} for metric in self.metrics}
        columns = [self.table[name].to_pylist() for name in ("metric", "id", "seed", "word", "value")]
        for metric, sample_id, seed, word, value in zip(*columns, strict=True):
            found[metric][sample_id, seed, word] = value
        return found


def video_key(sample_id: str, seed: int, seeds: Sequence[int]) -> str:
    """How a video is called in lists: its path without suffix, as its folder has it."""
    return f"seed-{seed}/{sample_id}" if len(seeds) > 1 else sample_id


# ------------------------------------------------------------------------------------------------------------------
# Writing


def write_result(folder: Path, rows: Iterable[tuple[int, Row]], facts: Mapping[str, Any]) -> Result:
    """Writes both files. rows: (seed, row). facts: `summary.json` but for what follows from the rows."""
    ordered = sorted(rows, key=lambda pair: (pair[1].id, pair[0], pair[1].metric, pair[1].word))
    columns = [
        [row.id for _, row in ordered],
        [seed for seed, _ in ordered],
        [row.metric for _, row in ordered],
        [row.word for _, row in ordered],
        [row.value for _, row in ordered],
        [row.frames for _, row in ordered],
        [row.note for _, row in ordered],
    ]
    table = pa.table([pa.array(one, field.type) for one, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)
    summary = {"format": FORMAT, **facts}
    result = Result(folder, summary, table)
    summary["metrics"] = {metric: _described(result, metric) for metric in facts["metrics"]}
    write_table(folder / ROWS, table)
    summary["inputs_sha256"] = _digest({name: summary[name] for name in INPUTS})
    summary["rows_sha256"] = fingerprint(folder / ROWS)[1]
    text = json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False)
    write_durably(folder / SUMMARY, (text + "\n").encode())
    return result


def _described(result: Result, metric: str) -> dict[str, Any]:
    """between_seeds: standard deviation of the seeds' means; None of a single seed."""
    pairs = result.pairs(metric)
    undefined = sum(value is None for _, value in pairs)
    estimate = summarise(pairs)
    if estimate is None:
        return dict.fromkeys(("mean", "low", "high"), None) | {
            "num_ids": 0, "between_seeds": None, "undefined": undefined,
        }  # fmt: skip
    low, high = (None if math.isnan(one) else one for one in (estimate.low, estimate.high))
    spread = between_seeds([mean_by_id(result.pairs(metric, seed)) for seed in result.summary["seeds"]])
    return {
        "mean": estimate.mean, "low": low, "high": high, "num_ids": estimate.num_ids, "between_seeds": spread,
        "undefined": undefined,
    }  # fmt: skip


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json_line(content)).hexdigest()


def write_official_json(result: Result, path: Path) -> dict[str, float]:
    """What the released code writes beside the folder of videos: means alone, of the videos it does not drop."""
    protocol = result.summary["protocol"]["name"]
    if protocol != "official":
        raise ValueError(f"{str(result.folder)!r} is scored by protocol {protocol!r}; expected 'official'")
    broken = [row for row in result.table.to_pylist() if (row["note"] or "").startswith(("unreadable", "too short"))]
    if names := sorted({row["id"] for row in broken}):
        shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        raise ValueError(f"no {path.name}: the released code ends with an error at videos like {shown}; all else is in "
                         f"{str(result.folder)!r}")  # fmt: skip
    absent = NOT_IN_MODE.get(result.summary["mode"])
    content = {}
    for metric, key in OFFICIAL_KEYS.items():
        values = [value for _, value in result.pairs(metric) if value is not None] if metric in result.metrics else []
        if values and metric != absent:
            content[key] = math.fsum(values) / len(values)
    write_durably(path, json.dumps(content, indent=4).encode())
    return content


# ------------------------------------------------------------------------------------------------------------------
# Reading


def read_result(folder: str | Path) -> Result:
    """Opens a result; refuses a folder that is none, is of another format, or was changed."""
    folder = Path(folder)
    path = folder / SUMMARY
    if not path.is_file():
        raise ValueError(f"{str(folder)!r} holds no {SUMMARY}; expected a folder that `alchemist bench score` wrote")
    try:
        summary = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is damaged ({error}): score the videos again") from error
    found = summary.get("format") if isinstance(summary, dict) else summary
    if found != FORMAT or "rows_sha256" not in summary:
        raise ValueError(f"{str(path)!r} is of format {found!r}; this version reads {FORMAT}: score the videos again")
    rows = folder / ROWS
    if not rows.is_file() or fingerprint(rows)[1] != summary["rows_sha256"]:
        state = "is not what it names" if rows.is_file() else "is missing"
        raise ValueError(f"{str(rows)!r} {state} in {SUMMARY}: score the videos again")
    return Result(folder, summary, pq.read_table(rows))


# ------------------------------------------------------------------------------------------------------------------
# Comparing


@dataclass(frozen=True)
class MetricDifference:
    """means: on each side. largest: of differences of values that both have. differing: videos whose values, or their
    absence, differ."""

    means: tuple[float | None, float | None]
    largest: float
    differing: tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """inputs: by name ("models.detector"), what went in on each side. only_a, only_b: videos on one side alone."""

    inputs: dict[str, tuple[Any, Any]]
    metrics: dict[str, MetricDifference]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.inputs or self.only_a or self.only_b or any(m.differing for m in self.metrics.values()))

    def lines(self) -> list[str]:
        """For people."""
        said = [f"{name}: {a!r} | {b!r}" for name, (a, b) in self.inputs.items()]
        said += [f"only in the {side}: {', '.join(ids)}" for side, ids in self._sides() if ids]
        for metric, one in self.metrics.items():
            shown = ", ".join(one.differing[:10]) + (", ..." if len(one.differing) > 10 else "")
            if one.differing:
                a, b = ("-" if mean is None else f"{mean:.6g}" for mean in one.means)
                said.append(f"{metric}: {a} | {b}; {len(one.differing)} videos by {one.largest:.6g} at most: {shown}")
        return said or ["no difference"]

    def _sides(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        return ("first", self.only_a), ("second", self.only_b)


def diff(a: Result, b: Result) -> Difference:
    """What went in and what came out, on two sides; metrics that only one of them has are left out."""
    inputs = {}
    for name in INPUTS:
        for key, left, right in _leaves(name, a.summary[name], b.summary[name]):
            inputs[key] = (left, right)
    seeds = sorted({*a.summary["seeds"], *b.summary["seeds"]})
    keys = [{key[:2] for key in _whole(result)} for result in (a, b)]
    only_a, only_b = (
        tuple(sorted(video_key(*key, seeds) for key in side)) for side in (keys[0] - keys[1], keys[1] - keys[0])
    )
    metrics = {}
    for metric in [one for one in a.metrics if one in b.values]:
        left, right = a.values[metric], b.values[metric]
        common = [key for key in {*left, *right} if key[:2] in keys[0] & keys[1]]
        unequal = [key for key in common if left.get(key) != right.get(key) or (key in left) != (key in right)]
        pairs = [(left.get(key), right.get(key)) for key in unequal]
        largest = max((abs(x - y) for x, y in pairs if x is not None and y is not None), default=0.0)
        names = sorted({video_key(key[0], key[1], seeds) for key in unequal})
        means = a.summary["metrics"][metric]["mean"], b.summary["metrics"][metric]["mean"]
        metrics[metric] = MetricDifference(means, largest, tuple(names))
    return Difference(inputs, metrics, only_a, only_b)


def _whole(result: Result) -> set[Key]:
    return {key for values in result.values.values() for key in values if not key[2]}


def _leaves(name: str, a: Any, b: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in dict.fromkeys((*a, *b)):
            yield from _leaves(f"{name}.{key}", a.get(key), b.get(key))
    elif a != b:
        yield name, a, b
