"""Sources that were taken down: every reader passes over their clips, whatever is made of them again."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from pathlib import Path

from video_alchemist.dataset.manifest import ROOT, read_manifest
from video_alchemist.dataset.storage import Folder, write_durably

TOMBSTONES = "tombstones.json"
GIVEN = ".work/manifest.json"  # what curation was given, by work unit


def take_down(folder: Path, sources: Iterable[str]) -> list[str]:
    """Buries sources: whoever opens the folder from now on passes over their clips. All that are buried, sorted."""
    buried = set(buried_sources(folder))
    known = buried | _known_sources(folder)
    for source in sources:
        if source not in known:
            raise ValueError(f"no source {source!r} in {str(folder)!r}{did_you_mean(source, known)}")
        buried.add(source)
    write_durably(folder / TOMBSTONES, (json.dumps(sorted(buried), indent=1) + "\n").encode())
    return sorted(buried)


def buried_sources(folder: str | Path | Folder) -> list[str]:
    place = folder if isinstance(folder, Folder) else Folder(folder)
    return json.loads(place.read(TOMBSTONES)) if TOMBSTONES in place else []


def did_you_mean(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _known_sources(folder: Path) -> set[str]:
    """Of the shards, and all that curation was given: a later run may keep what this one rejected."""
    place, given = Folder(folder), folder / GIVEN
    units = json.loads(given.read_text(encoding="utf-8"))["units"] if given.exists() else []
    known = {source["video"] or source["id"] for unit in units for source in unit}
    if ROOT in place or not known:  # where a run was killed while it published, there is no root
        for shard in read_manifest(place)["shards"]:
            known.update(place.table(f"index-{shard['number']:05d}.parquet")["source"].to_pylist())
    return known
