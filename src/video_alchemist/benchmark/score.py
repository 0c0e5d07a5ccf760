"""Scores a folder of videos, whoever made them (§4.2): `alchemist bench score VIDEOS --data DATA -o RESULT`.

VIDEOS/<id>.mp4                 or .mkv, .webm, .avi, .mov; of several seeds VIDEOS/seed-0/<id>.mp4, ...
RESULT/.work/rows/<id>.json     what is known of a video, so that the same command resumes

Each video is decoded once for all metrics. The answer is the same for any number of workers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from video_alchemist.benchmark.analysis import Analysis, Video
from video_alchemist.benchmark.generate import ROOT as GENERATION
from video_alchemist.benchmark.measure import Failure, Job, Outcome, Record, Task, conditioned, version
from video_alchemist.benchmark.metrics import METRICS, ROLES
from video_alchemist.benchmark.models import EvaluationModels, ModelNames
from video_alchemist.benchmark.progress import watch
from video_alchemist.benchmark.protocol import Protocol
from video_alchemist.benchmark.results import PICTURES, SAMPLES, Result, video_key, write_result
from video_alchemist.benchmark.rows import Metric, Row
from video_alchemist.benchmark.samples import BenchmarkData, Sample
from video_alchemist.benchmark.workers import outcomes
from video_alchemist.curation.durable import locked, write_text
from video_alchemist.dataset.shards import did_you_mean
from video_alchemist.dataset.storage import json_line, write_durably
from video_alchemist.sampling.sidecar import package_version

LISTS = ("missing", "short", "unreadable", "failed", "extra", "dropped")  # of videos, in `summary.json`
ABSENT = {  # what a video that nobody can see is worth (§4.2: "missing subjects or faces ... 0"); others have no value
    **dict.fromkeys(("subject_similarity", "subject_similarity_assigned"), 0.0),
    **dict.fromkeys(("face_similarity", "face_similarity_assigned"), 0.0),
    "missing_share": 1.0,
}
SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")  # the first that is there counts
ALIKE = 5  # videos that fail in a metric in the same way, with none before that does not: the fault is not theirs
NO_VIDEO = "no video"


def score(
    videos: str | Path,
    data: BenchmarkData,
    result: str | Path,
    protocol: Protocol,
    names: ModelNames,
    metrics: Sequence[str] | None = None,
    mode: str = "subject",
    workers: int = 1,
    engine: str = "local",
    device: str = "cpu",
    *,
    batch: int = 8,
    name: str | None = None,
    progress: bool = False,
    known: Mapping[str, Metric] = METRICS,
    roles: Mapping[str, Sequence[str]] = ROLES,
) -> Result:
    """Writes RESULT. metrics: None = all whose models have a name. name: of the method in reports, by default that of
    the folder of videos.

    known, roles: all metrics by name, and the roles that each asks."""
    videos, result = Path(videos), Path(result)
    nobody = {metric: next((role for role in roles[metric] if not getattr(names, role)), None) for metric in known}
    chosen = _chosen([metric for metric in known if not nobody[metric]] if metrics is None else metrics, known)
    generation = _generation(videos) or {}
    ids = _asked(videos, data.ids(mode), generation)
    folders = _seed_folders(videos, generation)
    found = {seed: _find(folder, ids) for seed, folder in folders.items()}
    _check(videos, ids, found, protocol)
    asked = sorted({role for metric in chosen for role in roles[metric]})
    job = Job(
        data=str(data.folder),
        mode=mode,
        protocol=protocol,
        names=names,
        metrics={metric: known[metric] for metric in chosen},
        roles={metric: tuple(roles[metric]) for metric in chosen},
        revisions=EvaluationModels(names, device).revisions(asked),
        versions={metric: version(known[metric]) for metric in chosen},
        device=device,
        batch=batch,
    )
    work = result / ".work"
    work.mkdir(parents=True, exist_ok=True)
    with locked(work / "lock"):
        done = _run(job, found, result, workers, engine, progress)
        rows = [(seed, row) for (seed, _), one in done.items() if one.record is not None for row in one.rows(chosen)]
        absent = [(seed, one, NO_VIDEO) for seed, paths in found.items() for one in ids if one not in paths]
        absent += [(*key, one.note) for key, one in done.items() if one.record is None]
        rows += [(seed, row) for seed, one, note in absent for row in _absent(data[one], job, note)]
        facts = _facts(videos, data, job, ids, folders, found, done)
        _write_samples(result, data, ids)
        left_out = {metric: f"no {role}" for metric, role in nobody.items() if metrics is None and role}
        return write_result(result, rows, {"name": name or videos.resolve().name, **facts, "left_out": left_out})


def _chosen(metrics: Sequence[str], known: Mapping[str, Metric]) -> list[str]:
    """In the order of all metrics."""
    for metric in metrics:
        if metric not in known:
            raise ValueError(f"metric {metric!r}; expected one of {', '.join(known)}{did_you_mean(metric, known)}")
    return [metric for metric in known if metric in metrics]


# ------------------------------------------------------------------------------------------------------------------
# Finding videos


def _asked(videos: Path, ids: list[str], generation: Mapping[str, Any]) -> list[str]:
    """Of a mode's samples those that the videos were to be made of, where `bench generate` says so; else all."""
    if not videos.is_dir():
        raise ValueError(f"no folder {str(videos)!r}; expected one with a video <id>.mp4 of each sample")
    wanted = generation.get("samples")
    chosen = ids if wanted is None else [one for one in ids if one in set(wanted)]
    if ids and not chosen:
        raise ValueError(f"{str(videos)!r} holds videos of other samples, mode {generation.get('mode')!r}")
    return chosen


def _seed_folders(videos: Path, generation: Mapping[str, Any]) -> dict[int, Path]:
    """By seed; a folder of one seed is that of seed 0, where nothing else is known."""
    named = {path: re.fullmatch(r"seed-(\d+)", path.name) for path in sorted(videos.iterdir()) if path.is_dir()}
    seeds = {int(match[1]): path for path, match in named.items() if match}
    if not seeds:
        return {int(generation.get("seeds", [0])[0]): videos}
    flat = next((path.name for path in sorted(videos.iterdir()) if path.suffix in SUFFIXES), None)
    if flat is not None:
        first = seeds[min(seeds)].name
        raise ValueError(f"{str(videos)!r} holds {first}/ and {flat} beside it; expected videos on one level")
    return dict(sorted(seeds.items()))


def _find(folder: Path, ids: Sequence[str]) -> dict[str, Path]:
    """By sample, its video; samples without one are left out."""
    names = {path.name for path in folder.iterdir() if path.is_file()}
    files = {one: next((one + suffix for suffix in SUFFIXES if one + suffix in names), None) for one in ids}
    return {one: folder / file for one, file in files.items() if file is not None}


def _check(videos: Path, ids: Sequence[str], found: Mapping[int, Mapping[str, Path]], protocol: Protocol) -> None:
    """Everything that could go wrong after hours, now."""
    if not any(found.values()):
        files = [path.relative_to(videos).as_posix() for path in sorted(videos.rglob("*")) if path.suffix in SUFFIXES]
        there = f"{len(files)} others, such as {files[0]}" if files else "no video at all"
        wanted = f"{ids[0]}.mp4" if ids else "nothing: the mode has no samples"
        raise ValueError(f"{str(videos)!r} holds no video of the {len(ids)} samples but {there}; expected {wanted}")
    for paths in found.values():
        protocol.kept(list(paths))


# ------------------------------------------------------------------------------------------------------------------
# Running


def _run(
    job: Job, found: Mapping[int, Mapping[str, Path]], result: Path, workers: int, engine: str, progress: bool
) -> dict[tuple[int, str], Outcome]:
    """By (seed, sample), in order; what is measured is kept as it comes."""
    seeds = list(found)
    tasks = [
        Task(one, seed, str(path.resolve()), _read(_place(result, seeds, one, seed)))
        for seed, paths in found.items()
        for one, path in paths.items()
    ]
    done: dict[tuple[int, str], Outcome] = {}
    breaker = _Breaker()
    with watch(len(tasks), progress) as advance:
        for outcome in outcomes(job, tasks, workers, engine):
            task = outcome.task
            if outcome.record is not None and outcome.record is not task.record:
                _keep(outcome, result, seeds)
            breaker.see(outcome)
            done[task.seed, task.sample_id] = outcome
            advance(task.sample_id)
    return dict(sorted(done.items()))


def _place(result: Path, seeds: Sequence[int], sample_id: str, seed: int) -> Path:
    return result / ".work" / "rows" / f"{video_key(sample_id, seed, seeds)}.json"


def _read(path: Path) -> Record:
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def _keep(outcome: Outcome, result: Path, seeds: Sequence[int]) -> None:
    """Pictures first: a record says that all is there."""
    task = outcome.task
    names = {"frames": video_key(task.sample_id, task.seed, seeds), "references": f"{task.sample_id}.references"}
    for kind, contents in outcome.pictures.items():
        path = result / PICTURES / f"{names[kind]}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, contents)
    path = _place(result, seeds, task.sample_id, task.seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(outcome.record, ensure_ascii=False, allow_nan=False))


class _Breaker:
    """Stops the run when the first videos all fail in a metric for one reason, which is then no video's fault."""

    def __init__(self) -> None:
        self._fine: set[str] = set()
        self._failures: dict[str, list[Failure]] = defaultdict(list)

    def see(self, outcome: Outcome) -> None:
        self._fine.update(outcome.fresh)
        for metric, failure in outcome.failures.items():
            alike = self._failures[metric]
            alike.append(failure)
            if metric not in self._fine and len(alike) >= ALIKE and len({one.kind for one in alike[-ALIKE:]}) == 1:
                said = f"{metric} fails for each of the first {len(alike)} videos"
                if failure.user:
                    raise ValueError(f"{said}: {failure.message}")
                raise RuntimeError(f"{said}:\n{failure.words}")


def _absent(sample: Sample, job: Job, note: str) -> list[Row]:
    """Of a video that is missing or unreadable."""
    nothing = Video(np.zeros((job.protocol.num_frames or 1, 1, 1, 3), np.uint8), 1.0)
    nobody = cast(EvaluationModels, None)  # no network is asked
    asked = Analysis(nothing, sample, nobody, job.protocol, conditioned=conditioned(sample, job.mode))
    targets = {"missing_share": asked.words, "subject": asked.judged_words, "face": asked.people}
    values = {
        metric: value if targets.get(metric) or targets.get(metric.partition("_")[0]) else None
        for metric, value in ABSENT.items()
        if job.protocol.absent_is_zero
    }
    return [Row(sample.id, metric, values.get(metric), note=note) for metric in job.metrics]


# ------------------------------------------------------------------------------------------------------------------
# What went in


def _facts(
    videos: Path,
    data: BenchmarkData,
    job: Job,
    ids: Sequence[str],
    folders: Mapping[int, Path],
    found: Mapping[int, Mapping[str, Path]],
    done: Mapping[tuple[int, str], Outcome],
) -> dict[str, Any]:
    """`summary.json`, but for the means."""
    seeds = list(found)
    everyone = {one for some in data.modes.values() for one in some}
    lists: dict[str, list[str]] = {kind: [] for kind in LISTS}
    sums = {}
    for seed, paths in found.items():
        lists["missing"] += [video_key(one, seed, seeds) for one in ids if one not in paths]
        lists["extra"] += _extra(videos, folders[seed], everyone, paths)
        kept = set(job.protocol.kept(list(paths)))
        lists["dropped"] += [video_key(one, seed, seeds) for one in sorted(paths) if one not in kept]
        for one in paths:
            outcome, key = done[seed, one], video_key(one, seed, seeds)
            if outcome.record is None:
                lists["unreadable"].append(key)
                continue
            sums[key] = outcome.record["video"]["sha256"]
            if job.protocol.num_frames is not None and outcome.record["video"]["frames"] < job.protocol.num_frames:
                lists["short"].append(key)
            if outcome.failures:
                lists["failed"].append(key)
    not_asked = [one for one in data.ids(job.mode) if one not in set(ids)]
    counts = {"expected": len(ids) * len(seeds), "found": sum(map(len, found.values())), "not_asked": len(not_asked)}
    generation = _generation(videos)
    return {
        "generation": {key: generation[key] for key in generation if key != "samples"} if generation else None,
        "mode": job.mode,
        "protocol": dataclasses.asdict(job.protocol),
        "data": {"fingerprint": data.fingerprint, "source": data.source},
        "models": dict(job.revisions),
        "versions": dict(job.versions),
        "package": f"video-alchemist {package_version() or 'from sources'}",
        "videos": hashlib.sha256(json_line(sums)).hexdigest(),
        "seeds": seeds,
        "counts": counts | {kind: len(names) for kind, names in lists.items()},
        **{kind: sorted(names) for kind, names in lists.items()},
        "not_asked": not_asked,
        "metrics": list(job.metrics),
    }


def _write_samples(result: Path, data: BenchmarkData, ids: Sequence[str]) -> None:
    """What the report says of samples, when the data may be gone."""
    records = {one: data.record(one) for one in ids}
    content = {
        one: {"prompt": record["caption"], "words": {entity["word"]: entity["kind"] for entity in record["entities"]}}
        for one, record in records.items()
    }
    write_durably(result / SAMPLES, (json.dumps(content, ensure_ascii=False) + "\n").encode())


def _extra(videos: Path, folder: Path, everyone: set[str], paths: Mapping[str, Path]) -> list[str]:
    """Videos of no sample, and second ones of a sample. Those of other modes' samples are in order."""
    chosen = {path.name for path in paths.values()}
    files = [path for path in folder.iterdir() if path.is_file() and path.suffix in SUFFIXES]
    odd = [path for path in files if path.name not in chosen and (path.stem not in everyone or path.stem in paths)]
    return [path.relative_to(videos).as_posix() for path in odd]


def _generation(videos: Path) -> dict[str, Any] | None:
    """What `bench generate` wrote beside the videos; None for other systems' folders."""
    path = videos / GENERATION
    if not path.is_file():
        return None
    try:
        return {key: value for key, value in json.loads(path.read_bytes()).items() if key != "failures"}
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is damaged ({error}); delete it, or generate the videos again") from error
