"""Kept clips become shard members, rejected ones lines of a file (Fig. 2's result). One work unit, one shard."""

from __future__ import annotations

import base64
import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from video_alchemist.curation.background import MIDDLE, background_word
from video_alchemist.curation.clip import Clip, Probe, Rejected, Sighting, Source
from video_alchemist.curation.durable import write_text
from video_alchemist.curation.entity_words import occurrence
from video_alchemist.curation.receipts import Receipt
from video_alchemist.dataset import shards
from video_alchemist.records import Entity

PACK_VERSION = 1  # raise it where the files change for the same clips
DIGITS = 4  # of scores and boxes
THUMBNAILS = 8  # of each code in a unit; the report shows some, and millions would outweigh the shards


def write_annotations(
    folder: Path,
    unit: int,
    kept: Sequence[Clip],
    rejected: Sequence[Rejected],
    profile: str = "",
    models: Mapping[str, str] | None = None,
) -> dict[str, Path]:
    """Shard `unit` in a folder: examples, video, index, and rejects-00000.jsonl. Paths by name."""
    records = [record_of(clip, profile, models or {}) for clip in kept]
    paths = shards.write_shard(folder, unit, records, {clip.id: clip.files for clip in kept})
    paths["rejects"] = folder / f"rejects-{unit:05d}.jsonl"
    _write_lines(paths["rejects"], _reject_lines(rejected))
    return paths


def write_backgrounds(folder: Path, unit: int, kept: Sequence[Clip], rejected: Sequence[Rejected]) -> dict[str, Path]:
    """The shard's backgrounds, and background-00000.jsonl: a line for every clip that was tried."""
    paths = shards.write_backgrounds(folder, unit, {clip.id: clip.files["bg.jpg"] for clip in kept})
    paths["log"] = folder / f"background-{unit:05d}.jsonl"
    done = ({"id": clip.id, "code": "", "measures": _background_measures(clip)} for clip in kept)
    lines = zip(rejected, _reject_lines(rejected), strict=True)
    left = (line | {"measures": _background_measures(one.clip)} for one, line in lines)
    _write_lines(paths["log"], sorted([*done, *left], key=lambda line: line["id"]))
    return paths


def read_annotations(folder: Path, unit: int) -> list[Clip]:
    """A unit's clips that have a background word, with their middle frame, for the background's steps."""
    return [clip for clip in _read_clips(folder / f"examples-{unit:05d}.tar") if background_word(clip) is not None]


def finish(out: Path, receipts: Sequence[Receipt], config: Mapping[str, Any] | None = None) -> None:
    """Writes dataset.json from what the receipts of the annotation say."""
    done = [one for one in receipts if one.stage == "annotate"]
    if done:
        funnel = sum((Counter(one.rejected) for one in done), Counter[str]())
        known = {part.file: (part.size, part.sha256) for one in receipts for part in one.parts.values()}
        counts = {one.unit: one.kept for one in done}
        shards.write_manifest(out, counts, funnel=funnel, config=config, known=known)


# ------------------------------------------------------------------------------------------------------------------
# <id>.json


def record_of(clip: Clip, profile: str, models: Mapping[str, str]) -> dict[str, Any]:
    """What <id>.json holds. Nothing in it depends on the machine or the time."""
    assert clip.probe is not None, "probe a clip before packing it"
    source = clip.source
    extra = {key: value for key, value in source.metadata.items() if key != "path"}
    return {
        "id": clip.id,
        "caption": clip.caption,
        "entities": [
            {
                "word": entity.word,
                "kind": entity.kind,
                "span": list(entity.span),
                "occurrence": occurrence(clip.caption, entity),
            }
            for entity in clip.entities
        ],
        "references": [_reference(one) for one in clip.sightings],
        "fps": clip.probe.fps,
        "num_frames": clip.probe.num_frames,
        "size": [clip.probe.width, clip.probe.height],
        "measures": _measures(clip),
        "perceptual_hash": clip.perceptual_hash,
        "provenance": {
            "source": source.video or source.id,
            "path": _path(source),
            "start": round(clip.start, 6),
            "end": round(clip.end, 6),
            "license": source.license,
            "profile": profile,
            "models": dict(models),
            **({"metadata": extra} if extra else {}),
        },
    }


def _reference(one: Sighting) -> dict[str, Any]:
    return {
        "entity": one.entity,
        "frame": one.frame,
        "box": _rounded(one.box),
        "detection_score": _number(one.detection_score),
        "mask_score": _number(one.mask_score),
        "mask": {"size": list(one.mask["size"]), "counts": list(one.mask["counts"])},
        "face": _rounded(one.face) if one.face is not None else None,
        "face_score": _number(one.face_score),
    }


def _rounded(box: Sequence[float]) -> list[float]:
    return [_number(value) for value in box]


def _measures(clip: Clip) -> dict[str, float]:
    return {name: _number(value) for name, value in sorted(clip.measures.items())}


def _number(value: float) -> float:
    return round(float(value), DIGITS)


def _path(source: Source) -> str:
    """As it was listed, without the machine's folders; a name that is no Unicode is shown as well as can be."""
    return os.fsencode(str(source.metadata.get("path", source.path))).decode("utf-8", "replace")


# ------------------------------------------------------------------------------------------------------------------
# Rejects


def _reject_lines(rejected: Sequence[Rejected]) -> Iterator[dict[str, Any]]:
    shown: Counter[str] = Counter()
    for one in rejected:
        clip, source = one.clip, one.clip.source
        line: dict[str, Any] = {
            "id": clip.id,
            "step": one.step,
            "code": one.code,
            "detail": one.detail,
            "transient": one.transient,
            "source": source.video or source.id,
            "path": _path(source),
            "caption": clip.caption or source.caption or "",
            "measures": _measures(clip),
        }
        picture = clip.files.get("thumbnail.jpg")
        if picture is not None and shown[one.code] < THUMBNAILS:
            shown[one.code] += 1
            line["thumbnail"] = base64.b64encode(picture).decode()
        yield line


def _background_measures(clip: Clip) -> dict[str, float]:
    return {name: value for name, value in _measures(clip).items() if name.startswith("background_")}


def _write_lines(path: Path, lines: Sequence[Mapping[str, Any]] | Iterator[Mapping[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines))


# ------------------------------------------------------------------------------------------------------------------
# Reading back


def _read_clips(path: Path) -> Iterator[Clip]:
    record: dict[str, Any] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            suffix, file = member.name.partition(".")[2], tar.extractfile(member)
            assert file is not None
            if suffix == "json":
                record = json.load(file)
            elif suffix == f"f{MIDDLE}.jpg":
                yield clip_of(record, {suffix: file.read()})


def clip_of(record: Mapping[str, Any], files: Mapping[str, bytes]) -> Clip:
    """A clip from its <id>.json and some of its files."""
    place = record["provenance"]
    width, height = record["size"]
    probe = Probe(width, height, record["fps"], record["num_frames"], place["end"] - place["start"], "h264")
    return Clip(
        id=record["id"],
        source=Source(place["source"], place["path"], license=place["license"], video=place["source"]),
        start=place["start"],
        end=place["end"],
        probe=probe,
        caption=record["caption"],
        entities=tuple(Entity(one["word"], one["kind"], tuple(one["span"])) for one in record["entities"]),
        sightings=tuple(_sighting(one) for one in record["references"]),
        measures=record["measures"],
        perceptual_hash=record["perceptual_hash"],
        files=files,
    )


def _sighting(one: Mapping[str, Any]) -> Sighting:
    box, face = tuple(one["box"]), tuple(one["face"]) if one["face"] is not None else None
    scores = one["detection_score"], one["mask_score"]
    return Sighting(one["entity"], one["frame"], box, *scores, one["mask"], face, one["face_score"])
