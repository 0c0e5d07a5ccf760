"""From the engine's results to the folder that readers see: parts under their final names, the root manifest last."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from video_alchemist.curation.durable import place, sync, write_text
from video_alchemist.curation.manifest import WORK
from video_alchemist.curation.receipts import Receipt, receipt_path, unit_name

ROOT = "dataset.json"
Finish = Callable[[Path, Sequence[Receipt]], None]


def publish(out: Path, results: Mapping[Path, Sequence[Receipt]], finish: Finish) -> None:
    """results: folder of a stage -> receipts of its finished units.

    finish: writes `out/dataset.json`, atomically, from what receipts say of counts and parts (not of times: the same
    shards, the same file). While anything changes there is none, so that no reader meets half of two data sets.
    `.work/published.json` lists what was published, so that a later run takes away what is no longer made, and
    the receipts it stands on.
    """
    wanted: dict[str, Path] = {}
    for folder, receipts in results.items():
        for receipt in receipts:
            for part in receipt.parts.values():
                if part.file in wanted or part.file == ROOT:
                    raise RuntimeError(f"two units write {part.file!r}; expected names with the unit's number")
                wanted[part.file] = folder / unit_name(receipt.unit) / part.file
    register = out / WORK / "published.json"
    before = json.loads(register.read_text(encoding="utf-8"))["files"] if register.exists() else []
    stale = sorted(set(before) - set(wanted))
    changed = [name for name, source in wanted.items() if not _same(source, out / name)]
    if stale or changed:
        (out / ROOT).unlink(missing_ok=True)
        sync(out)
        _register(register, {*before, *wanted}, ())  # a run killed from here on knows what to take away
    for name in changed:
        place(wanted[name], out / name)
    for name in stale:
        (out / name).unlink(missing_ok=True)
    finish(out, [receipt for receipts in results.values() for receipt in receipts])
    paths = [receipt_path(folder, receipt.unit) for folder, receipts in results.items() for receipt in receipts]
    _register(register, wanted, [str(path.relative_to(out)) for path in paths])


def _register(path: Path, files: Iterable[str], receipts: Sequence[str]) -> None:
    write_text(path, json.dumps({"files": sorted(files), "receipts": list(receipts)}, indent=1) + "\n")


def _same(source: Path, target: Path) -> bool:
    return target.exists() and target.samefile(source)
