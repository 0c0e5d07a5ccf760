"""The root manifest of a folder of shards: what belongs to it, by which readers tell a whole one from a broken one."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from video_alchemist.dataset.duplicates import write_duplicates
from video_alchemist.dataset.storage import Fingerprint, Folder, fingerprint, json_line, write_durably

FORMAT = 1
ROOT = "dataset.json"


def write_manifest(
    folder: Path,
    shards: Mapping[int, int],
    *,
    funnel: Mapping[str, int] | None = None,
    config: Mapping[str, Any] | None = None,
    known: Mapping[str, Fingerprint] | None = None,
) -> Path:
    """Writes `dataset.json`: shards {number: clips} with the size and sha256 of every file of theirs in the folder.

    Written last, so that a folder with a manifest is a whole one. funnel: clips by reject code.
    known: fingerprints by file name, of files that need not be read again.
    """
    duplicates = write_duplicates(folder, [folder / f"index-{number:05d}.parquet" for number in shards])
    names: dict[int, list[str]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        if match := re.fullmatch(r"[a-z]+-(\d{5,})\.(tar|parquet)", path.name):
            names[int(match[1])].append(path.name)

    def described(names: Iterable[str]) -> dict[str, Any]:
        prints = {name: (known or {}).get(name) or fingerprint(folder / name) for name in names}
        return {name: {"bytes": size, "sha256": digest} for name, (size, digest) in prints.items()}

    content = {
        "format": FORMAT,
        "kept": sum(shards.values()),
        "funnel": dict(sorted((funnel or {}).items())),
        "config": dict(config or {}),
        "config_hash": hashlib.sha256(json_line(config or {})).hexdigest()[:12],
        "files": described([path.name for path in duplicates]),
        "shards": [
            {"number": number, "clips": clips, "files": described(names[number])}
            for number, clips in sorted(shards.items())
        ],
    }
    write_durably(folder / ROOT, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
    return folder / ROOT


def read_manifest(folder: str | Path | Folder) -> dict[str, Any]:
    """`dataset.json`; refuses a folder without one and formats that this version does not know."""
    place = folder if isinstance(folder, Folder) else Folder(folder)
    if ROOT not in place:
        raise ValueError(f"{place.place!r} holds no {ROOT}; expected a folder of shards (`alchemist curate -o`)")
    try:
        manifest = json.loads(place.read(ROOT))
    except ValueError as error:
        raise ValueError(f"{place.place}/{ROOT} is damaged ({error}): make or copy the shards again") from error
    found = manifest.get("format")
    if found != FORMAT:
        cure = "update video-alchemist" if isinstance(found, int) and found > FORMAT else "make the shards again"
        raise ValueError(f"{place.place}/{ROOT} is of format {found!r}; this version reads {FORMAT}: {cure}")
    return manifest
