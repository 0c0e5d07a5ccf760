"""Clips that look alike, by their perceptual hashes of 64 bits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from video_alchemist.dataset.storage import write_table

DUPLICATES = "duplicates.parquet"
BITS = 64
NEAR = 4  # hashes that differ in no more bits are of clips that look alike


def look_alikes(hashes: Mapping[str, str], near: int = NEAR) -> list[list[str]]:
    """hashes: clip id -> hexadecimal, "" where there is none. Groups of two or more, chained; the largest first."""
    clips: dict[int, list[str]] = {}
    for clip_id, text in sorted(hashes.items()):
        if text:
            clips.setdefault(int(text, 16), []).append(clip_id)
    values = list(clips)
    parent = list(range(len(values)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    for one, other in _near_pairs(np.array(values, dtype=np.uint64), near):
        parent[root(one)] = root(other)
    groups: dict[int, list[str]] = {}
    for row, value in enumerate(values):
        groups.setdefault(root(row), []).extend(clips[value])
    several = (sorted(group) for group in groups.values() if len(group) > 1)
    return sorted(several, key=lambda group: (-len(group), group))


def write_duplicates(folder: Path, indexes: Iterable[Path]) -> list[Path]:
    """`duplicates.parquet`: every clip that has look-alikes, with the first one's id as `group`. Nothing for none."""
    tables = [pq.read_table(path, columns=["id", "perceptual_hash"]) for path in indexes]
    hashes = {row["id"]: row["perceptual_hash"] for table in tables for row in table.to_pylist()}
    rows = sorted((clip_id, group[0]) for group in look_alikes(hashes) for clip_id in group)
    path = folder / DUPLICATES
    if not rows:
        path.unlink(missing_ok=True)
        return []
    write_table(path, pa.table({"id": [clip_id for clip_id, _ in rows], "group": [group for _, group in rows]}))
    return [path]


def _near_pairs(values: np.ndarray, near: int) -> Iterator[tuple[int, int]]:
    """Rows of hashes (n,) uint64 that differ in at most `near` bits; a pair may come more than once.

    Such hashes agree wholly in one of near + 1 pieces at least, so only those with a piece in common are compared.
    """
    edges = [BITS * i // (near + 1) for i in range(near + 2)]
    for low, high in zip(edges, edges[1:], strict=False):
        pieces = values >> np.uint64(low) & np.uint64((1 << high - low) - 1)
        order = np.argsort(pieces, kind="stable")
        for pile in np.split(order, np.flatnonzero(np.diff(pieces[order])) + 1):
            for i, row in enumerate(pile[:-1]):
                later = pile[i + 1 :]
                alike = later[np.bitwise_count(values[later] ^ values[row]) <= near]
                yield from ((int(row), int(other)) for other in alike)
