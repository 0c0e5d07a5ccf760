"""What is curated, frozen: every source has its place in a work unit, and keeps it whatever comes later (§3.1).

The order in which videos are given changes nothing. Running again with other videos: new ones are appended as further
units; a source that was given before stays where it is, with its new caption if that changed (its unit is then done
again); one that is no longer given keeps its place, since shards that exist do not change (`alchemist` has takedown
for what must go). The manifest is held in memory: up to some million sources a folder.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from video_alchemist.curation.clip import Source
from video_alchemist.curation.durable import write_text

WORK = ".work"  # inside the output folder: everything that only the engine reads
VERSION = 1
UNIT_SIZE = 256
MAX_UNIT_SIZE = 512
ID = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Manifest:
    """units[n]: the sources of work unit n, which becomes shard n; by id."""

    units: tuple[tuple[Source, ...], ...]


def freeze(sources: Iterable[Source], out: Path, unit_size: int = UNIT_SIZE) -> Manifest:
    """Writes `out/.work/manifest.json`, or extends the one that is there (by units of the new size)."""
    if not 1 <= unit_size <= MAX_UNIT_SIZE:
        raise ValueError(f"unit size {unit_size}; expected 1 to {MAX_UNIT_SIZE} videos")
    given = _by_id(sources)
    path = out / WORK / "manifest.json"
    old = path.read_text(encoding="utf-8") if path.exists() else None
    units = [tuple(given.pop(s.id, s) for s in unit) for unit in _parse(old, path).units] if old else []
    new = [given[id] for id in sorted(given)]
    units += [tuple(new[start : start + unit_size]) for start in range(0, len(new), unit_size)]
    if not units:
        raise ValueError("no videos to curate; expected at least 1")
    text = _dump(units)
    if text != old:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    return _parse(text, path)


def read_manifest(out: Path) -> Manifest:
    """The manifest of an output folder."""
    path = out / WORK / "manifest.json"
    if not path.exists():
        raise ValueError(f"{str(out)!r} holds no {WORK}/manifest.json; expected the output folder of a curation")
    return _parse(path.read_text(encoding="utf-8"), path)


def digest(sources: Sequence[Source]) -> str:
    """What a unit's result depends on, of its sources."""
    return hashlib.sha256(_line(sources).encode()).hexdigest()


def _by_id(sources: Iterable[Source]) -> dict[str, Source]:
    found: dict[str, Source] = {}
    for source in sources:
        if not ID.fullmatch(source.id):
            raise ValueError(f"id {source.id!r} of {source.path!r}; expected letters, digits, '-' and '_'")
        other = found.setdefault(source.id, source)
        if other is not source:
            raise ValueError(f"{source.path!r} and {other.path!r} have the same id {source.id!r}; expected unique ids")
    return found


def _line(sources: Sequence[Source]) -> str:
    try:
        return json.dumps([asdict(source) for source in sources], sort_keys=True)
    except TypeError as error:
        raise ValueError(f"a source's metadata cannot be written: {error}; expected what JSON knows") from error


def _dump(units: Sequence[Sequence[Source]]) -> str:
    return f'{{"version": {VERSION}, "units": [\n' + ",\n".join(map(_line, units)) + "\n]}\n"


def _parse(text: str, path: Path) -> Manifest:
    try:
        data = json.loads(text)
        if data["version"] != VERSION:
            raise ValueError(f"version {data['version']!r}")
        return Manifest(tuple(tuple(Source(**source) for source in unit) for unit in data["units"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{str(path)!r} is not a manifest of version {VERSION}: {error}") from error
