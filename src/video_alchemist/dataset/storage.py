"""Bytes of shards, in and out: files written whole or not at all, read in parts from here or from any fsspec URL."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

Members = Mapping[str, bytes]  # suffix -> contents
Place = tuple[int, int]  # offset and size, in bytes
Fingerprint = tuple[int, str]  # size in bytes, and sha256

ROW_GROUP = 200  # clips that are read together: few, so that one clip is found fast
_ID = re.compile(r"[A-Za-z0-9_-]{1,88}")  # USTAR's names end at 100 bytes, WebDataset cuts them at the first dot


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write that appears under its name when all of it is on the disk, and never otherwise.

    What a killed process leaves is the same temporary file each time, which the next one writes over.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_durably(path: Path, contents: bytes) -> None:
    with whole(path) as file:
        file.write(contents)


def write_table(path: Path, table: pa.Table) -> None:
    with whole(path) as file:
        pq.write_table(table, file, row_group_size=ROW_GROUP, compression="zstd")


def write_tar(path: Path, clips: Mapping[str, Members]) -> dict[str, dict[str, Place]]:
    """An uncompressed USTAR of `<id>.<suffix>` members, a clip's together, in order of ids; where each one lies.

    Nothing in it depends on when, where or by whom it was written.
    """
    odd = next((clip_id for clip_id in clips if not _ID.fullmatch(clip_id)), None)
    if odd is not None:
        raise ValueError(f"id {odd!r}; expected up to 88 letters, digits, '-' and '_' of ASCII")
    places: dict[str, dict[str, Place]] = {}
    with whole(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for clip_id in sorted(clips):
            places[clip_id] = {}
            for suffix, contents in clips[clip_id].items():
                entry = tarfile.TarInfo(f"{clip_id}.{suffix}")
                entry.size = len(contents)
                places[clip_id][suffix] = (tar.offset + tarfile.BLOCKSIZE, len(contents))
                tar.addfile(entry, io.BytesIO(contents))
    return places


def json_line(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, ensure_ascii=False, sort_keys=True) + "\n").encode()


def fingerprint(path: Path) -> Fingerprint:
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()


class Folder:
    """The files of a folder: a path, or an URL of any kind that fsspec knows (s3://, gs://, hf://, memory://)."""

    def __init__(self, place: str | Path) -> None:
        self.place = str(place)
        self._is_url = isinstance(place, str) and "://" in place
        self._open()

    def _open(self) -> None:
        self._process = os.getpid()
        self._fs: AbstractFileSystem
        self.root: str
        if self._is_url:
            self._fs, self.root = url_to_fs(self.place)
        else:
            self._fs, self.root = LocalFileSystem(), str(Path(self.place).absolute())

    @property
    def fs(self) -> AbstractFileSystem:
        """Opened anew in another process, as a loader's workers are: connections do not survive a fork or a copy."""
        if self._process != os.getpid():
            self._open()
        return self._fs

    def sizes(self) -> dict[str, int]:
        """Bytes by file name, in one request; empty where there is no folder."""
        self.fs.invalidate_cache()
        try:
            return {file["name"].rsplit("/", 1)[-1]: file["size"] for file in self.fs.ls(self.root, detail=True)}
        except FileNotFoundError:
            return {}

    def read(self, name: str, place: Place | None = None) -> bytes:
        """A file's contents, or a part of them: one seek and one read, or one request."""
        start, end = (None, None) if place is None else (place[0], sum(place))
        contents = self.fs.cat_file(f"{self.root}/{name}", start=start, end=end)
        if place is not None and len(contents) != place[1]:
            raise ValueError(f"{self.place}/{name} ends within a clip, after its size was checked; copy it again")
        return contents

    def table(self, name: str) -> pa.Table:
        return pq.read_table(pa.BufferReader(self.read(name)))

    def sha256(self, name: str) -> str:
        with self.fs.open(f"{self.root}/{name}", "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def __contains__(self, name: str) -> bool:
        return self.fs.exists(f"{self.root}/{name}")
