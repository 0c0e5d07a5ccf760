"""Training shards, §3.1's result on disk: the one writer and reader.

Any WebDataset reader can stream the tars, any Parquet tool query the index.

FOLDER/dataset.json            the root manifest, written last: shards, counts, sizes, sha256, funnel
FOLDER/index-00000.parquet     a row a clip: what to choose by, and where its members lie in the tars
FOLDER/examples-00000.tar      <id>.json, <id>.f0.jpg, <id>.f1.jpg, <id>.f2.jpg: annotation and the three frames
FOLDER/video-00000.tar         <id>.mp4
FOLDER/background-00000.tar    <id>.bg.jpg, with its own background-00000.parquet, for it may be made later
FOLDER/tombstones.json         sources that were taken down; readers pass over their clips
"""

from __future__ import annotations

import difflib
import hashlib
import io
import json
import math
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from video_alchemist.dataset.masks import decode_mask
from video_alchemist.records import Entity, Example, Reference, View
from video_alchemist.video import read_video

FORMAT = 1
MAX_CLIPS = 2000  # a shard
ROOT, TOMBSTONES = "dataset.json", "tombstones.json"
EXAMPLE_SUFFIXES = ("json", "f0.jpg", "f1.jpg", "f2.jpg")
_ID = re.compile(r"[A-Za-z0-9_-]{1,88}")  # USTAR's names end at 100 bytes, readers cut them at the first dot

Members = Mapping[str, bytes]  # suffix -> contents
Place = tuple[int, int]  # offset and size in the tar

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
        ("source", pa.string()),  # the video that clips are cut from: splits and takedowns go by it
        ("license", pa.string()),
        ("perceptual_hash", pa.string()),
        ("measures", pa.map_(pa.string(), pa.float64())),
        ("examples", pa.map_(pa.string(), pa.list_(pa.int64(), 2))),  # suffix -> (offset, size)
        ("video", pa.list_(pa.int64(), 2)),
    ]
)
BACKGROUND_SCHEMA = pa.schema([("id", pa.string()), ("background", pa.list_(pa.int64(), 2))])


def write_shard(
    folder: Path, number: int, records: Sequence[Mapping[str, Any]], files: Mapping[str, Members]
) -> dict[str, Path]:
    """Writes examples, video and index of shard `number`; the same input, the same bytes. Paths by column.

    records: what <id>.json holds (docs/shards.md). files: id -> "f0.jpg", "f1.jpg", "f2.jpg" and "mp4".
    """
    records = sorted(records, key=lambda record: str(record["id"]))
    ids = [str(record["id"]) for record in records]
    if len(set(ids)) < len(ids):
        twice = next(one for one, after in zip(ids, ids[1:], strict=False) if one == after)
        raise ValueError(f"two clips have the id {twice!r}; expected each once")
    if len(ids) > MAX_CLIPS:
        raise ValueError(f"{len(ids)} clips for one shard; expected at most {MAX_CLIPS}")
    texts = {
        one: (json.dumps(record, ensure_ascii=False, sort_keys=True) + "\n").encode()
        for one, record in zip(ids, records, strict=True)
    }
    examples = {
        one: {"json": texts[one], **{suffix: files[one][suffix] for suffix in EXAMPLE_SUFFIXES[1:]}} for one in ids
    }
    paths = {
        name: folder / f"{name}-{number:05d}.{kind}"
        for name, kind in (("examples", "tar"), ("video", "tar"), ("index", "parquet"))
    }
    places = write_tar(paths["examples"], examples)
    videos = write_tar(paths["video"], {one: {"mp4": files[one]["mp4"]} for one in ids})
    rows = [_row(record, places[one], videos[one]["mp4"]) for one, record in zip(ids, records, strict=True)]
    _write_table(paths["index"], pa.Table.from_pylist(rows, schema=SCHEMA))
    return paths


def write_backgrounds(folder: Path, number: int, pictures: Mapping[str, bytes]) -> dict[str, Path]:
    """The sibling column of clean backgrounds: id -> JPEG. Clips without one are left out."""
    paths = {
        "background": folder / f"background-{number:05d}.tar",
        "background_index": folder / f"background-{number:05d}.parquet",
    }
    places = write_tar(paths["background"], {one: {"bg.jpg": picture} for one, picture in pictures.items()})
    rows = [{"id": one, "background": place["bg.jpg"]} for one, place in places.items()]
    _write_table(paths["background_index"], pa.Table.from_pylist(rows, schema=BACKGROUND_SCHEMA))
    return paths


def write_manifest(
    folder: Path,
    shards: Mapping[int, int],
    *,
    funnel: Mapping[str, int] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Writes `dataset.json`: shards {number: clips} with the size and sha256 of every file of theirs in the folder.

    Written last, so that a folder with a manifest is a whole one. funnel: clips by reject code.
    """
    described = []
    for number, clips in sorted(shards.items()):
        files = sorted(path for path in folder.glob(f"*-{number:05d}.*") if path.suffix in (".tar", ".parquet"))
        described.append({"number": number, "clips": clips, "files": {path.name: _fingerprint(path) for path in files}})
    content = {
        "format": FORMAT,
        "kept": sum(shards.values()),
        "funnel": dict(sorted((funnel or {}).items())),
        "config": dict(config or {}),
        "shards": described,
    }
    write_durably(folder / ROOT, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
    return folder / ROOT


def take_down(folder: Path, sources: Iterable[str]) -> list[str]:
    """Buries sources: readers pass over their clips from now on. All that are buried, sorted."""
    buried = set(buried_sources(folder))
    known = buried | set(ShardDataset(folder).index["source"].to_pylist())
    for source in sources:
        if source not in known:
            raise ValueError(f"no source {source!r} in {str(folder)!r}{did_you_mean(source, known)}")
        buried.add(source)
    write_durably(folder / TOMBSTONES, (json.dumps(sorted(buried), indent=1) + "\n").encode())
    return sorted(buried)


def buried_sources(folder: Path) -> list[str]:
    path = folder / TOMBSTONES
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def write_tar(path: Path, clips: Mapping[str, Members]) -> dict[str, dict[str, Place]]:
    """An uncompressed USTAR of `<id>.<suffix>` members, a clip's together, in order of ids; where each one lies.

    Nothing in it depends on when, where or by whom it was written.
    """
    stream, places = io.BytesIO(), {}
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for one in sorted(clips):
            if not _ID.fullmatch(one):
                raise ValueError(f"id {one!r}; expected up to 88 letters, digits, '-' and '_'")
            places[one] = {}
            for suffix, contents in clips[one].items():
                entry = tarfile.TarInfo(f"{one}.{suffix}")
                entry.size = len(contents)
                places[one][suffix] = (stream.tell() + tarfile.BLOCKSIZE, len(contents))
                tar.addfile(entry, io.BytesIO(contents))
    write_durably(path, stream.getbuffer())
    return places


def write_durably(path: Path, contents: bytes | memoryview) -> None:
    """The file is whole or not there, whatever happens in between."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(contents)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_table(path: Path, table: pa.Table) -> None:
    stream = io.BytesIO()
    pq.write_table(table, stream, row_group_size=200, compression="zstd")
    write_durably(path, stream.getbuffer())


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


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

    Opening checks that every file is there with the size the manifest names; `verify` compares contents too.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        tables = []
        for shard in self.manifest["shards"]:
            for name, file in shard["files"].items():
                path = self.folder / name
                size = path.stat().st_size if path.exists() else None
                if size != file["bytes"]:
                    found = "missing" if size is None else f"of {size} bytes"
                    raise ValueError(f"{path} is {found}; the manifest says {file['bytes']}: copy the shard again")
            tables.append(self._index(shard))
        table = pa.concat_tables(tables) if tables else SCHEMA.append(pa.field("shard", pa.int32())).empty_table()
        buried = pa.array(buried_sources(self.folder), pa.string())
        self.index = table.filter(pc.invert(pc.is_in(table["source"], buried)))
        self.ids = self.index["id"].to_pylist()
        self._positions = {one: position for position, one in enumerate(self.ids)}
        if len(self._positions) < len(self.ids):
            twice = next(one for one, count in Counter(self.ids).items() if count > 1)
            raise ValueError(f"{self.folder}: two clips have the id {twice!r}; expected each once")

    def _index(self, shard: Mapping[str, Any]) -> pa.Table:
        """The rows of one shard, with its number and the places of its backgrounds."""
        number = shard["number"]
        table = pq.read_table(self.folder / f"index-{number:05d}.parquet")
        if len(table) != shard["clips"]:
            raise ValueError(f"index-{number:05d}.parquet has {len(table)} clips; the manifest says {shard['clips']}")
        table = table.append_column("shard", pa.array([number] * len(table), pa.int32()))
        places: dict[str, Place] = {}
        if f"background-{number:05d}.parquet" in shard["files"]:
            grounds = pq.read_table(self.folder / f"background-{number:05d}.parquet")
            places = dict(zip(grounds["id"].to_pylist(), grounds["background"].to_pylist(), strict=True))
        column = pa.array([places.get(one) for one in table["id"].to_pylist()], pa.list_(pa.int64(), 2))
        return table.append_column("background", column)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> Example:
        return self.example(position)

    def position(self, clip_id: str) -> int:
        """Of a clip by its id."""
        if clip_id not in self._positions:
            raise ValueError(f"no clip {clip_id!r} in {self.folder}{did_you_mean(clip_id, self._positions)}")
        return self._positions[clip_id]

    def record(self, position: int) -> dict[str, Any]:
        """The annotation, as in <id>.json."""
        return json.loads(self._member("examples", position, "json"))

    def example(self, position: int, with_video: bool = True) -> Example:
        """The clip with its reference pictures cut out by their masks, and its frames (F, H, W, 3) uint8."""
        record = self.record(position)
        entities = tuple(Entity(e["word"], e["kind"], tuple(e["span"])) for e in record["entities"])
        used = sorted({reference["frame"] for reference in record["references"]})
        frames = {frame: _picture(self._member("examples", position, f"f{frame}.jpg")) for frame in used}
        references = []
        for reference in record["references"]:
            entity, occurrence = entities[reference["entity"]], record["entities"][reference["entity"]]["occurrence"]
            cuts: list[tuple[np.ndarray, View]] = [(cut_out(frames[reference["frame"]], reference), "whole")]
            if reference.get("face") is not None:
                cuts.append((crop(frames[reference["frame"]], reference["face"]), "face"))
            references += [Reference(entity.word, cut, None, entity.kind, view, occurrence) for cut, view in cuts]
        return Example(
            id=record["id"],
            caption=record["caption"],
            entities=entities,
            references=tuple(references),
            background=self._background(position, record, entities),
            video=self.video(position) if with_video else None,
            fps=record["fps"],
            provenance=record["provenance"],
        )

    def video(self, position: int) -> np.ndarray:
        """(F, H, W, 3) uint8."""
        return read_video(io.BytesIO(self._member("video", position)))[0]

    def _background(self, position: int, record: Mapping[str, Any], entities: Sequence[Entity]) -> Reference | None:
        grounds = [i for i, entity in enumerate(entities) if entity.kind == "background"]
        if not grounds or self.index["background"][position].as_py() is None:
            return None
        word, occurrence = entities[grounds[0]].word, record["entities"][grounds[0]]["occurrence"]
        picture = _picture(self._member("background", position))
        return Reference(word, picture, None, "background", "whole", occurrence)

    def _member(self, column: str, position: int, suffix: str | None = None) -> bytes:
        """A member's contents: one seek and one read."""
        place = self.index[column][position].as_py()
        offset, size = dict(place)[suffix] if suffix is not None else place
        path = self.folder / f"{column}-{self.index['shard'][position].as_py():05d}.tar"
        with path.open("rb") as file:
            file.seek(offset)
            contents = file.read(size)
        if len(contents) != size:
            raise ValueError(f"{path} ends within {self.ids[position]}; copy the shard again")
        return contents

    def stream(self, seed: int | None = None, rank: int = 0, world_size: int = 1) -> Iterator[int]:
        """Positions for one reader of `world_size`: shards in turn, in random order with a seed, no clip for two."""
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} of {world_size}; expected 0 to {world_size - 1}")
        shards = self.index["shard"].to_numpy()
        order = np.unique(shards)
        rng = None if seed is None else np.random.default_rng(seed)
        seen = 0
        for shard in order if rng is None else rng.permutation(order):
            rows = np.flatnonzero(shards == shard)
            for position in rows if rng is None else rng.permutation(rows):
                if seen % world_size == rank:
                    yield int(position)
                seen += 1

    def split(self, held_out: float = 0.1) -> tuple[list[int], list[int]]:
        """Positions to train on and held out, about this share of the sources; all clips of a source on one side."""
        if not 0 <= held_out <= 1:
            raise ValueError(f"held_out is {held_out}; expected 0 to 1")
        sides: tuple[list[int], list[int]] = ([], [])
        for position, source in enumerate(self.index["source"].to_pylist()):
            draw = int.from_bytes(hashlib.sha256(source.encode()).digest()[:8]) / 2**64
            sides[draw < held_out].append(position)
        return sides

    def buckets(self) -> dict[tuple[int, int, int], list[int]]:
        """Positions by (width, height, frames)."""
        keys = zip(*(self.index[name].to_pylist() for name in ("width", "height", "num_frames")), strict=True)
        found: dict[tuple[int, int, int], list[int]] = {}
        for position, key in enumerate(keys):
            found.setdefault(key, []).append(position)
        return found

    def verify(self) -> None:
        """Compares every file with its sha256; raises ValueError at the first that differs."""
        for shard in self.manifest["shards"]:
            for name, file in shard["files"].items():
                if _fingerprint(self.folder / name)["sha256"] != file["sha256"]:
                    raise ValueError(f"{self.folder / name} differs from its sha256 in the manifest: copy it again")


def read_manifest(folder: Path) -> dict[str, Any]:
    """`dataset.json`; refuses a folder without one and formats that this version does not know."""
    path = folder / ROOT
    if not path.exists():
        raise ValueError(f"{str(folder)!r} holds no {ROOT}; expected a folder of shards (`alchemist curate -o`)")
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if manifest.get("format") != FORMAT:
        raise ValueError(f"{path} is of format {manifest.get('format')!r}; this version reads {FORMAT}: make it again")
    return manifest


def did_you_mean(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _picture(contents: bytes) -> np.ndarray:
    """JPEG => (H, W, 3) uint8."""
    return np.asarray(Image.open(io.BytesIO(contents)).convert("RGB"))


def cut_out(frame: np.ndarray, reference: Mapping[str, Any]) -> np.ndarray:
    """A reference's box of a frame (H, W, 3), its mask as alpha: (h, w, 4) uint8."""
    alpha = decode_mask(reference["mask"]).astype(np.uint8) * 255
    return crop(np.dstack([frame, alpha]), reference["box"])


def crop(picture: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """The pixels that a box x0, y0, x1, y1 touches, at least one."""
    height, width = picture.shape[:2]
    x0, y0 = min(max(0, math.floor(box[0])), width - 1), min(max(0, math.floor(box[1])), height - 1)
    x1, y1 = min(width, math.ceil(box[2])), min(height, math.ceil(box[3]))
    return picture[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
