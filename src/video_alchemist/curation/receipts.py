"""What became of a work unit, written when all of it is on the disk; to resume is to read receipts.

.work/<stage>-<hash>/unit-00012/               the unit's files, under their final names
.work/<stage>-<hash>/unit-00012.receipt.json   written last
.work/<stage>-<hash>/unit-00012.journal        only while the unit is worked on (`journal.py`)
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from video_alchemist.curation.durable import sync, write_text


@dataclass(frozen=True)
class Part:
    """A file of a unit's result."""

    file: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Receipt:
    """clips = kept + all rejected = sources + what steps made more of them.

    inputs: digest of what the unit was made from. transient: how many rejects the next run tries again.
    seconds: by step, plus "read" and "write". trouble: failures and crashes, with what is known of them.
    """

    stage: str
    unit: int
    inputs: str
    sources: int
    clips: int
    kept: int
    rejected: Mapping[str, int]
    transient: int
    seconds: Mapping[str, float]
    parts: Mapping[str, Part]
    trouble: Sequence[Mapping[str, Any]]
    versions: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """What a stage that reads this unit depends on."""
        contents = {name: part.sha256 for name, part in self.parts.items()}
        return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()


def unit_name(unit: int) -> str:
    return f"unit-{unit:05d}"


def receipt_path(folder: Path, unit: int) -> Path:
    return folder / f"{unit_name(unit)}.receipt.json"


def journal_path(folder: Path, unit: int) -> Path:
    return folder / f"{unit_name(unit)}.journal"


def commit(receipt: Receipt, folder: Path, made: Path) -> None:
    """Takes a unit's files from where a worker made them. Killed anywhere in here, the unit is not done."""
    path, final = receipt_path(folder, receipt.unit), folder / unit_name(receipt.unit)
    path.unlink(missing_ok=True)
    if final.exists():
        sync(folder)  # an old receipt must not come back and vouch for new files
        shutil.rmtree(final)
    os.rename(made, final)
    sync(folder)
    write_text(path, json.dumps(asdict(receipt), indent=1) + "\n")


def read_receipt(folder: Path, unit: int) -> Receipt | None:
    """The receipt of a unit whose files are all there; None where it has to be done (again)."""
    path = receipt_path(folder, unit)
    if not path.exists():
        return None
    data = json.loads(path.read_text(encoding="utf-8"))
    receipt = Receipt(**data | {"parts": {name: Part(**part) for name, part in data["parts"].items()}})
    for part in receipt.parts.values():
        file = folder / unit_name(unit) / part.file
        if not file.exists() or file.stat().st_size != part.size:
            return None
    return receipt
