"""Training shards, §3.1's result on disk: the one writer and the one reader.

Any WebDataset reader can stream the tars, any Parquet tool query the indexes. Nothing is pickled.

FOLDER/dataset.json            the root manifest, written last: shards, counts, sizes, sha256, funnel
FOLDER/index-00000.parquet     a row a clip: what to choose by, and where its members lie in the tars
FOLDER/examples-00000.tar      <id>.json, <id>.f0.jpg, <id>.f1.jpg, <id>.f2.jpg: annotation and the three frames
FOLDER/video-00000.tar         <id>.mp4
FOLDER/background-00000.tar    <id>.bg.jpg, with its own index background-00000.parquet, for it may be made later
FOLDER/text-00000.tar          <id>.safetensors, likewise: the caption's embeddings
FOLDER/latents-00000.tar       <id>.256x144x121.safetensors, likewise: a member each size and length
FOLDER/duplicates.parquet      groups of clips that look alike
FOLDER/tombstones.json         sources that were taken down; readers pass over their clips
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from video_alchemist.dataset.duplicates import DUPLICATES
from video_alchemist.dataset.manifest import ROOT as ROOT  # part of what writers and readers of shards need
from video_alchemist.dataset.manifest import read_manifest as read_manifest
from video_alchemist.dataset.manifest import write_manifest as write_manifest
from video_alchemist.dataset.masks import cut_reference, views
from video_alchemist.dataset.storage import Folder, Members, Place, json_line, write_table, write_tar
from video_alchemist.dataset.tombstones import TOMBSTONES as TOMBSTONES
from video_alchemist.dataset.tombstones import buried_sources as buried_sources
from video_alchemist.dataset.tombstones import did_you_mean
from video_alchemist.dataset.tombstones import take_down as take_down
from video_alchemist.records import Entity, Example, Reference
from video_alchemist.video import read_video

FRAMES = ("f0.jpg", "f1.jpg", "f2.jpg")
# Columns that may come later, and their members' suffix; None: several a clip, by suffix.
LATER = {"background": "bg.jpg", "text": "safetensors", "latents": None}

PLACE = pa.list_(pa.int64(), 2)  # offset and size in the column's tar
PLACES = pa.map_(pa.string(), PLACE)  # by suffix
MADE_BY = b"made_by"  # in the metadata of a later column's index
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("caption", pa.string()),
        ("words", pa.list_(pa.string())),
        ("kinds", pa.list_(pa.string())),
        ("num_references", pa.int32()),
        ("num_frames", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("fps", pa.float64()),
        ("duration", pa.float64()),  # seconds
        ("source", pa.string()),  # the video that clips are cut from: splits and takedowns go by it
        ("license", pa.string()),
        ("perceptual_hash", pa.string()),
        ("measures", pa.map_(pa.string(), pa.float64())),
        ("examples", PLACES),
        ("video", PLACE),
    ]
)


def write_shard(
    folder: Path, number: int, records: Sequence[Mapping[str, Any]], files: Mapping[str, Members]
) -> dict[str, Path]:
    """Writes examples, video and index of shard `number`; the same input, the same bytes. Paths by column.

    records: what <id>.json holds (docs/shards.md); as many as there are: a shard is a work unit of curation, and one of
    long videos cut into their shots may have thousands. files: id -> "f0.jpg", "f1.jpg", "f2.jpg" and "mp4".
    """
    by_id = {str(record["id"]): record for record in sorted(records, key=lambda record: str(record["id"]))}
    if len(by_id) < len(records):
        ids = [str(record["id"]) for record in records]
        raise ValueError(f"two clips have the id {max(ids, key=ids.count)!r}; expected each once")
    paths = {column: _path(folder, column, number, "tar") for column in ("examples", "video")}
    paths["index"] = _path(folder, "index", number, "parquet")
    examples = {
        clip_id: {"json": json_line(record), **{suffix: files[clip_id][suffix] for suffix in FRAMES}}
        for clip_id, record in by_id.items()
    }
    places = write_tar(paths["examples"], examples)
    videos = write_tar(paths["video"], {clip_id: {"mp4": files[clip_id]["mp4"]} for clip_id in by_id})
    rows = [_row(record, places[clip_id], videos[clip_id]["mp4"]) for clip_id, record in by_id.items()]
    write_table(paths["index"], pa.Table.from_pylist(rows, schema=SCHEMA))
    return paths


def write_column(
    folder: Path,
    number: int,
    column: str,
    contents: Mapping[str, bytes] | Mapping[str, Members],
    made_by: Mapping[str, str] | None = None,
) -> dict[str, Path]:
    """A sibling of shard `number` that may come later: id -> its member, or members. Clips without are left out.

    made_by: what its readers must know of the networks it comes from. Its index is written last.
    """
    paths = {column: _path(folder, column, number, "tar"), f"{column}_index": _path(folder, column, number, "parquet")}
    suffix = LATER[column]
    members = {clip_id: one if isinstance(one, Mapping) else {str(suffix): one} for clip_id, one in contents.items()}
    places = write_tar(paths[column], members)
    rows = [{"id": one, column: sorted(at.items()) if suffix is None else at[suffix]} for one, at in places.items()]
    schema = _later_schema(column).with_metadata(None if made_by is None else {MADE_BY: json_line(made_by)})
    write_table(paths[f"{column}_index"], pa.Table.from_pylist(rows, schema=schema))
    return paths


def write_backgrounds(folder: Path, number: int, pictures: Mapping[str, bytes]) -> dict[str, Path]:
    """The column of clean backgrounds: id -> JPEG."""
    return write_column(folder, number, "background", pictures)


def _path(folder: Path, column: str, number: int, kind: str) -> Path:
    return folder / f"{column}-{number:05d}.{kind}"


def _later_schema(column: str) -> pa.Schema:
    return pa.schema([("id", pa.string()), (column, _place_type(column))])


def _place_type(column: str) -> pa.DataType:
    return PLACES if LATER[column] is None else PLACE


def column_made_by(folder: Folder, number: int, column: str) -> dict[str, str] | None:
    """What `write_column` was told of a shard's column; None where there is no such column, or nothing was said."""
    name = f"{column}-{number:05d}.parquet"
    if name not in folder:
        return None
    return _made_by(folder.table(name))


def _made_by(table: pa.Table) -> dict[str, str] | None:
    said = (table.schema.metadata or {}).get(MADE_BY)
    return None if said is None else json.loads(said)


def _row(record: Mapping[str, Any], examples: Mapping[str, Place], video: Place) -> dict[str, Any]:
    width, height = record["size"]
    provenance = record.get("provenance", {})
    return {
        "id": record["id"],
        "caption": record["caption"],
        "words": [entity["word"] for entity in record["entities"]],
        "kinds": [entity["kind"] for entity in record["entities"]],
        "num_references": len(record["references"]),
        "num_frames": record["num_frames"],
        "width": width,
        "height": height,
        "fps": record["fps"],
        "duration": record["num_frames"] / record["fps"],
        "source": str(provenance.get("source", record["id"])),
        "license": provenance.get("license", ""),
        "perceptual_hash": record.get("perceptual_hash", ""),
        "measures": sorted(record.get("measures", {}).items()),
        "examples": sorted(examples.items()),
        "video": video,
    }


# ------------------------------------------------------------------------------------------------------------------
# Reading


class ShardDataset:
    """Clips of a folder of shards, by position (sorted by shard, then id) or by id, without those taken down.

    folder: a path, or an URL that fsspec knows. index: SCHEMA, and "shard", the columns of LATER, "group".
    Opening checks that every file is there with the size the manifest names; `verify` compares contents too.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Folder(folder)
        self.manifest = read_manifest(self.folder)
        self._check_sizes()
        self._made_by: dict[str, list[dict[str, str] | None]] = {column: [] for column in LATER}
        shards = [self._index(shard) for shard in self.manifest["shards"]]
        columns = [("shard", pa.int32()), *((column, _place_type(column)) for column in LATER)]
        empty = pa.schema([*SCHEMA, *(pa.field(*column) for column in columns)]).empty_table()
        table = pa.concat_tables([empty, *shards])
        buried = pa.array(buried_sources(self.folder), pa.string())
        kept = table.filter(pc.invert(pc.is_in(table["source"], buried))).combine_chunks()
        self.ids: list[str] = kept["id"].to_pylist()
        if pc.count_distinct(kept["id"]).as_py() < len(kept):
            twice = next(clip_id for clip_id, count in Counter(self.ids).items() if count > 1)
            raise ValueError(f"{self.folder.place}: two clips have the id {twice!r}; expected each once")
        self.index = kept.append_column("group", self._groups())

    def _check_sizes(self) -> None:
        sizes = self.folder.sizes()
        for name, file in self._files():
            if sizes.get(name) != file["bytes"]:
                found = f"of {sizes[name]} bytes" if name in sizes else "missing"
                place = f"{self.folder.place}/{name}"
                raise ValueError(f"{place} is {found}; the manifest says {file['bytes']}: copy the shard again")

    def _files(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """All that the manifest names."""
        for part in (self.manifest, *self.manifest["shards"]):
            yield from part["files"].items()

    def _index(self, shard: Mapping[str, Any]) -> pa.Table:
        """The rows of one shard, with its number and the places of what came later."""
        number = shard["number"]
        table = self.folder.table(f"index-{number:05d}.parquet")
        if len(table) != shard["clips"]:
            raise ValueError(f"index-{number:05d}.parquet has {len(table)} clips; the manifest says {shard['clips']}")
        table = table.append_column("shard", pa.array([number] * len(table), pa.int32()))
        for column in LATER:
            places: dict[str, Any] = {}
            if f"{column}-{number:05d}.parquet" in shard["files"]:
                later = self.folder.table(f"{column}-{number:05d}.parquet")
                places = dict(zip(later["id"].to_pylist(), later[column].to_pylist(), strict=True))
                self._made_by[column].append(_made_by(later))
            found = [places.get(one) for one in table["id"].to_pylist()]
            table = table.append_column(column, pa.array(found, _place_type(column)))
        return table

    def _groups(self) -> pa.Array:
        """Of every clip the group of those that look like it, None where no other does."""
        groups: dict[str, str] = {}
        if DUPLICATES in self.manifest["files"]:
            table = self.folder.table(DUPLICATES)
            groups = dict(zip(table["id"].to_pylist(), table["group"].to_pylist(), strict=True))
        return pa.array([groups.get(clip_id) for clip_id in self.ids], pa.string())

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> Example:
        return self.example(position)

    def position(self, clip_id: str) -> int:
        """Of a clip by its id."""
        if clip_id not in self._positions:
            raise ValueError(f"no clip {clip_id!r} in {self.folder.place}{did_you_mean(clip_id, self._positions)}")
        return self._positions[clip_id]

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {clip_id: position for position, clip_id in enumerate(self.ids)}

    def record(self, position: int) -> dict[str, Any]:
        """The annotation, as in <id>.json."""
        return json.loads(self.member("examples", position, "json"))

    def example(self, position: int, with_video: bool = True) -> Example:
        """The clip with its reference pictures cut out by their masks, and its frames (F, H, W, 3) uint8."""
        members = self.members(position)
        record = json.loads(members["json"])
        entities = tuple(Entity(e["word"], e["kind"], tuple(e["span"])) for e in record["entities"])
        used = sorted({reference["frame"] for reference in record["references"]})
        frames = {frame: decode_picture(members[FRAMES[frame]]) for frame in used}
        references = [
            cut_reference(record, reference, view, frames[reference["frame"]])
            for reference in record["references"]
            for view in views(reference)
        ]
        return Example(
            id=record["id"],
            caption=record["caption"],
            entities=entities,
            references=tuple(references),
            background=self._background(position, record),
            video=self.video(position) if with_video else None,
            fps=record["fps"],
            provenance=record.get("provenance", {}),
        )

    def video(self, position: int) -> np.ndarray:
        """(F, H, W, 3) uint8."""
        return read_video(io.BytesIO(self.member("video", position)))[0]

    def _background(self, position: int, record: Mapping[str, Any]) -> Reference | None:
        ground = next((entity for entity in record["entities"] if entity["kind"] == "background"), None)
        if ground is None or not self.has("background", position):
            return None
        picture = decode_picture(self.member("background", position))
        return Reference(ground["word"], picture, None, "background", "whole", ground["occurrence"])

    def has(self, column: str, position: int) -> bool:
        return self.index[column][position].is_valid

    def made_by(self, column: str) -> dict[str, str]:
        """What is said of the networks that a column comes from, the same in all shards."""
        said, cure = self._made_by[column], "precompute it (`alchemist train ... --precompute`)"
        if len(said) < len(self.manifest["shards"]) or None in said or not said:
            raise ValueError(f"{self.folder.place} has no {column}, or not for all shards; {cure}")
        if any(one != said[0] for one in said):
            raise ValueError(f"{column} of {self.folder.place} comes from different networks; {cure}")
        return dict(said[0] or {})

    def suffixes(self, column: str, position: int) -> list[str]:
        """Of a clip's members in a column that has several a clip."""
        return [suffix for suffix, _ in self.index[column][position].as_py() or ()]

    def member(self, column: str, position: int, suffix: str | None = None) -> bytes:
        """A member's contents. suffix: of "examples" and "latents", which have several; other columns have one."""
        place = self.index[column][position].as_py()
        if place is None:
            raise ValueError(f"{self.ids[position]} has no {column} in {self.folder.place}")
        return self._read(column, position, dict(place)[suffix] if suffix is not None else place)

    def members(self, position: int) -> dict[str, bytes]:
        """All members of "examples" by suffix; they lie together, so one read gets them."""
        places = dict(self.index["examples"][position].as_py())
        start = min(offset for offset, _ in places.values())
        end = max(offset + size for offset, size in places.values())
        contents = self._read("examples", position, (start, end - start))
        return {suffix: contents[at - start : at - start + size] for suffix, (at, size) in places.items()}

    def _read(self, column: str, position: int, place: Place) -> bytes:
        return self.folder.read(f"{column}-{self.index['shard'][position].as_py():05d}.tar", place)

    def split(self, held_out: float = 0.1) -> tuple[list[int], list[int]]:
        """Positions to train on and held out, about this share of the sources; all clips of a source on one side."""
        if not 0 <= held_out <= 1:
            raise ValueError(f"held_out is {held_out}; expected 0 to 1")
        sides: tuple[list[int], list[int]] = ([], [])
        for position, source in enumerate(self.index["source"].to_pylist()):
            draw = int.from_bytes(hashlib.sha256(source.encode()).digest()[:8]) / 2**64
            sides[draw < held_out].append(position)
        return sides

    def verify(self) -> None:
        """Compares every file with its sha256; raises ValueError at the first that differs."""
        for name, file in self._files():
            if self.folder.sha256(name) != file["sha256"]:
                raise ValueError(
                    f"{self.folder.place}/{name} differs from its sha256 in the manifest: copy the shard again"
                )


def decode_picture(contents: bytes) -> np.ndarray:
    """JPEG => (H, W, 3) uint8."""
    return np.asarray(Image.open(io.BytesIO(contents)).convert("RGB"))
