"""Preparing the benchmark (§4.1): from shards of any kind, or from the authors' annotation and MSR-VTT's videos."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from video_alchemist.benchmark.annotation import INFO, Annotation, Annotations
from video_alchemist.benchmark.modes import MEMBERSHIP
from video_alchemist.benchmark.official import MIDDLE, clip_files, cut_clip, foreground, jpeg, shard_record
from video_alchemist.benchmark.samples import FORMAT, ROOT, BenchmarkData, Sample, fingerprint, read_jpeg, read_sample
from video_alchemist.curation.background import seed_of
from video_alchemist.dataset.shards import ShardDataset, write_backgrounds, write_manifest, write_shard
from video_alchemist.dataset.storage import write_durably

if TYPE_CHECKING:
    from video_alchemist.pretrained.inpainter import Inpainter

# The released code's prompt; §3.1 says "we use the background entity word as the positive prompt".
OFFICIAL_PROMPT = "clean and empty background"
BACKGROUND_QUALITY = 95
SHARD_SIZE = 64  # samples that a killed preparation may have to make again
RECIPE = "prepare.json"


def prepare_shards(
    shards: str | Path, out: str | Path, num_samples: int | None = None, seed: int = 0, source: str = "shards"
) -> BenchmarkData:
    """Writes OUT/benchmark.json: the shards' clips that can be judged, one a source video as in the paper.

    num_samples: a random choice of so many; None = all. The shards stay where they are.
    """
    dataset = ShardDataset(shards)
    if num_samples is not None and num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; expected at least 1")
    samples: dict[str, list[str]] = {mode: [] for mode in MEMBERSHIP}
    unfit: Counter[str] = Counter()
    sources: set[str] = set()
    for position in np.random.default_rng(seed).permutation(len(dataset)).tolist():
        if len(samples["all"]) == num_samples:
            break
        place = dataset.index["source"][position].as_py()
        sample = read_sample(dataset, position)
        reason = "another clip of its video is a sample" if place in sources else unfit_for(sample)
        if reason is not None:
            unfit[reason] += 1
            continue
        sources.add(place)
        for mode, belongs in MEMBERSHIP.items():
            if belongs(sample):
                samples[mode].append(sample.id)
    if len(samples["all"]) < (num_samples or 1):
        found = f"{len(samples['all'])} of {len(dataset)} clips in {str(shards)!r} can be samples"
        reasons = "".join(f"; {count}: {reason}" for reason, count in unfit.most_common())
        raise ValueError(f"{found}; expected at least {num_samples or 1}{reasons}")
    return _write(Path(out), source, dataset, Path(shards), samples)


def unfit_for(sample: Sample) -> str | None:
    """Why a clip cannot be a sample, or None: what the authors' code would stumble over."""
    words = [target.word for target in sample.targets]
    if not words:
        return "no subject or object"
    if len(set(words)) < len(words):
        return "two targets of one word"
    if not all(target.pictures for target in sample.targets):
        return "a target without a picture"
    return None


def _write(out: Path, source: str, dataset: ShardDataset, shards: Path, samples: dict[str, list[str]]) -> BenchmarkData:
    modes = {mode: sorted(ids) for mode, ids in samples.items()}
    content = {
        "format": FORMAT,
        "source": source,
        "shards": Path(os.path.relpath(shards, out)).as_posix(),
        "fingerprint": fingerprint(dataset, modes),
        "modes": modes,
    }
    out.mkdir(parents=True, exist_ok=True)
    write_durably(out / ROOT, (json.dumps(content, indent=1) + "\n").encode())
    return BenchmarkData(out)


# ------------------------------------------------------------------------------------------------------------------
# From the authors' annotation


def prepare_official(
    annotation: str | Path,
    videos: str | Path,
    out: str | Path,
    inpainter: Inpainter | None = None,
    *,
    prompt: str | None = None,
    num_samples: int | None = None,
    seed: int = 0,
    on_done: Callable[[int, int], None] | None = None,
) -> BenchmarkData:
    """Cuts MSR-VTT's `videos` by the annotation, into OUT/shards; the same command resumes.

    inpainter: None = no background pictures. prompt: what it paints, None = the background's word.
    on_done: told how many samples of how many are done.
    """
    out, videos = Path(out), Path(videos)
    annotations = Annotations(annotation)
    names = _chosen(annotations.names, num_samples, seed)
    _check_all(annotations, names, videos)
    recipe = {
        "annotation": annotations.sha256,
        "inpainter": type(inpainter).__name__ if inpainter else None,
        "prompt": prompt,
        "num_samples": num_samples,
        "seed": seed,
    }
    _begin(out, recipe)
    shards = out / "shards"
    shards.mkdir(exist_ok=True)
    counts: dict[int, int] = {}
    for number, first in enumerate(range(0, len(names), SHARD_SIZE)):
        part = names[first : first + SHARD_SIZE]
        if not (shards / f"background-{number:05d}.parquet").exists():  # written last
            _make_shard(shards, number, [annotations.read(name) for name in part], videos, inpainter, prompt)
        counts[number] = len(part)
        if on_done:
            on_done(first + len(part), len(names))
    write_manifest(shards, counts, config=recipe)
    return _prepared(out, shards)


def _prepared(out: Path, shards: Path) -> BenchmarkData:
    """All of the annotation's samples, whatever our own rules say."""
    dataset = ShardDataset(shards)
    samples: dict[str, list[str]] = {mode: [] for mode in MEMBERSHIP}
    for position in range(len(dataset)):
        sample = read_sample(dataset, position)
        for mode, belongs in MEMBERSHIP.items():
            if belongs(sample):
                samples[mode].append(sample.id)
    return _write(out, "official", dataset, shards, samples)


def _chosen(names: Sequence[str], num_samples: int | None, seed: int) -> list[str]:
    if num_samples is None:
        return list(names)
    if not 1 <= num_samples <= len(names):
        raise ValueError(f"num_samples is {num_samples}; expected 1 to {len(names)}, as many as the annotation has")
    return sorted(np.random.default_rng(seed).choice(names, num_samples, replace=False).tolist())


def _check_all(annotations: Annotations, names: Sequence[str], videos: Path) -> None:
    """Everything that could go wrong in hours, now."""
    missing = []
    for name in names:
        one = annotations.read(name)
        _record(one, 1.0, 1)
        if not (videos / Path(one.video).name).is_file():
            missing.append(one.video)
    if missing:
        shown = ", ".join(missing[:10]) + (", ..." if len(missing) > 10 else "")
        raise ValueError(f"{len(missing)} of {len(names)} videos are not in {str(videos)!r}: {shown}")


def _begin(out: Path, recipe: dict[str, Any]) -> None:
    """Notes what is being made of what, or refuses a folder where something else is."""
    path = out / RECIPE
    if path.exists():
        if json.loads(path.read_bytes()) != recipe:
            raise ValueError(f"{str(out)!r} is of another preparation; expected a new folder, or the same request")
        return
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{str(out)!r} is not empty; expected a new folder")
    out.mkdir(parents=True, exist_ok=True)
    write_durably(path, (json.dumps(recipe, indent=1) + "\n").encode())


def _make_shard(
    shards: Path,
    number: int,
    annotations: Sequence[Annotation],
    videos: Path,
    inpainter: Inpainter | None,
    prompt: str | None,
) -> None:
    records, files, grounds = [], {}, {}
    for one in annotations:
        frames, fps = cut_clip(videos / Path(one.video).name, one.start, one.end, one.resolution)
        files[one.name] = clip_files(frames, fps, one.end - one.start)
        records.append(_record(one, fps, len(frames)))
        words, mask = one.word_tags["background"], foreground(one)
        if inpainter is not None and words and not mask.all():
            middle = read_jpeg(files[one.name][f"f{MIDDLE}.jpg"])
            painted = inpainter(middle, mask, words[0] if prompt is None else prompt, seed_of(one.name))
            grounds[one.name] = jpeg(painted, BACKGROUND_QUALITY)
    write_shard(shards, number, records, files)
    write_backgrounds(shards, number, grounds)


def _record(one: Annotation, fps: float, num_frames: int) -> dict[str, Any]:
    try:
        return shard_record(one, fps, num_frames)
    except ValueError as error:
        raise ValueError(f"{one.name}{INFO}: word_tags: {error}") from error
