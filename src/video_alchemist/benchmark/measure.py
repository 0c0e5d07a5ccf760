"""One video through all metrics that are not known yet (§4.2): decoded once, analysed once.

What is known of a video is a record; each metric in it stands under a key, a hash of all that it depends on, so that
nothing stale is used again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import math
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from video_alchemist import pretrained
from video_alchemist.benchmark.analysis import Analysis, Video
from video_alchemist.benchmark.models import EvaluationModels, ModelNames
from video_alchemist.benchmark.pictures import frame_strip, reference_strip
from video_alchemist.benchmark.protocol import Protocol, TooShort
from video_alchemist.benchmark.rows import Metric, Row
from video_alchemist.benchmark.samples import BenchmarkData, Sample
from video_alchemist.dataset.storage import json_line
from video_alchemist.video import read_video

SHARED = ("analysis", "likeness", "motion", "protocol", "samples", "similarity")  # what metrics lean on, beside roles
Record = dict[str, Any]  # {"video": {"sha256", "frames", "fps", "size"}, "metrics": {name: {"key", "rows"}}}


@dataclass(frozen=True)
class Job:
    """What a worker must know; it travels to other processes. data: the benchmark's folder. roles: by metric.

    revisions: by role, versions: by metric, of what computes them."""

    data: str
    mode: str
    protocol: Protocol
    names: ModelNames
    metrics: Mapping[str, Metric]
    roles: Mapping[str, Sequence[str]]
    revisions: Mapping[str, str]
    versions: Mapping[str, str]
    device: str = "cpu"
    batch: int = 8

    def key(self, metric: str, sha256: str, data: str) -> str:
        """data: the benchmark's fingerprint."""
        of_means = {"drop_tail_of": 1, "absent_is_zero": True}  # what is no matter of a video
        inputs = {
            "video": sha256,
            "data": data,
            "mode": self.mode,
            "protocol": dataclasses.asdict(self.protocol) | of_means,
            "models": {role: self.revisions[role] for role in self.roles[metric]},
            "version": self.versions[metric],
        }
        return hashlib.sha256(json_line(inputs)).hexdigest()


def version(metric: Metric) -> str:
    """A hash of the code that a metric leans on: nobody forgets to raise it."""
    assert pretrained.__file__ is not None
    shared = [Path(__file__).with_name(f"{name}.py") for name in SHARED]
    adaptors = sorted(Path(pretrained.__file__).parent.glob("*.py"))
    total = hashlib.sha256()
    for path in (*shared, *adaptors, Path(inspect.getsourcefile(metric) or "")):
        total.update(path.read_bytes())
    return f"{metric.__name__}@{total.hexdigest()[:12]}"


@dataclass(frozen=True)
class Task:
    """A video to score. record: what is known of it."""

    sample_id: str
    seed: int
    path: str
    record: Record


@dataclass(frozen=True)
class Failure:
    """A metric that raised. kind: equal for failures of one cause. user: the message is meant for users."""

    kind: str
    message: str
    words: str
    user: bool


@dataclass(frozen=True)
class Outcome:
    """record: None where the video cannot be read, which `note` explains. fresh: metrics that were computed now."""

    task: Task
    record: Record | None
    note: str = ""
    fresh: tuple[str, ...] = ()
    failures: Mapping[str, Failure] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)  # "frames", "references"

    def rows(self, metrics: Sequence[str]) -> list[Row]:
        """Of a video that can be read. Of every metric at least one: a video without a value is a row with a note."""
        assert self.record is not None
        sample_id = self.task.sample_id
        found = []
        for metric in metrics:
            if metric in self.failures:
                found.append(Row(sample_id, metric, None, note=f"failed: {self.failures[metric].message}"))
            else:
                found += [Row(sample_id, metric, *values) for values in self.record["metrics"][metric]["rows"]]
        return found


class Scorer:
    """A worker: models and samples are opened at the first video that needs them."""

    def __init__(self, job: Job) -> None:
        self.job = job

    @cached_property
    def data(self) -> BenchmarkData:
        return BenchmarkData(self.job.data)

    @cached_property
    def models(self) -> EvaluationModels:
        return EvaluationModels(self.job.names, self.job.device)

    def score(self, task: Task) -> Outcome:
        try:
            with open(task.path, "rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            return Outcome(task, None, f"unreadable: {error.strerror}")
        keys = {metric: self.job.key(metric, sha256, self.data.fingerprint) for metric in self.job.metrics}
        kept = task.record.get("metrics", {})
        left = [metric for metric, key in keys.items() if kept.get(metric, {}).get("key") != key]
        if not left:
            return Outcome(task, task.record)
        try:
            frames, fps = read_video(task.path)
        except ValueError:
            return Outcome(task, None, "unreadable: no video that can be decoded")
        seen = Video(frames, fps)
        height, width = frames.shape[1:3]
        facts = {"sha256": sha256, "frames": len(frames), "fps": fps, "size": [width, height]}
        sample = self.data[task.sample_id]
        rows, failures = self._measure(seen, sample, left)
        fresh = {metric: {"key": keys[metric], "rows": found} for metric, found in rows.items()}
        record = {"video": facts, "metrics": {**kept, **fresh}}
        pictures = {"frames": frame_strip(frames), "references": reference_strip(sample)}
        return Outcome(task, record, "", tuple(fresh), failures, pictures)

    def _measure(
        self, seen: Video, sample: Sample, metrics: Sequence[str]
    ) -> tuple[dict[str, list[list[Any]]], dict[str, Failure]]:
        """By metric its rows, without the id; and the metrics that raised."""
        models = self.models.load(sorted({role for metric in metrics for role in self.job.roles[metric]}))
        given = conditioned(sample, self.job.mode)
        try:
            analysed = Analysis(seen, sample, models, self.job.protocol, self.job.batch, given)
        except TooShort as error:
            return {metric: [[None, "", 0, f"too short: {error}"]] for metric in metrics}, {}
        rows: dict[str, list[list[Any]]] = {}
        failures: dict[str, Failure] = {}
        for metric in metrics:
            try:
                rows[metric] = [_cells(row) for row in self.job.metrics[metric](analysed)]
            except Exception as error:  # one odd video must not end the run; `score` stops it when all are alike
                if _out_of_memory(error):
                    raise
                failures[metric] = _failure(error)
        return rows, failures


def conditioned(sample: Sample, mode: str) -> list[str] | None:
    """The words whose pictures a mode shows; None = the subjects'."""
    return [target.word for target in sample.targets if target.pictures] if mode == "multi" else None


def _cells(row: Row) -> list[Any]:
    if row.value is not None and not math.isfinite(row.value):
        raise ValueError(f"the value is {row.value}; expected a number, or None with a note")
    return [row.value, row.word, row.frames, row.note]


def _out_of_memory(error: Exception) -> bool:
    """No fault of the video: with a smaller batch or a free device it may have a value."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def _failure(error: Exception) -> Failure:
    place = traceback.extract_tb(error.__traceback__)[-1]
    message = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    kind = f"{type(error).__name__} at {place.filename}:{place.lineno}"
    return Failure(kind, message, "".join(traceback.format_exception(error)), isinstance(error, ValueError))
