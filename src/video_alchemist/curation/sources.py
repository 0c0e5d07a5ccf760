"""What to curate: a folder of videos, one video, a JSONL, or a CSV in the style of Panda-70M, as `Source`s.

Folder      searched recursively; `x.txt` beside `x.mp4` is its caption. Hidden files and folders are passed over.
JSONL       one object a line: {"path" or "video", "caption"?, "start"?, "end"?, "license"?, ...}; seconds.
CSV         a column "path" or "video", and the same further ones; or Panda-70M's: videoID, timestamp, caption and
            matching_score, the latter three lists in Python's notation, one entry a clip; the video is the file
            videoID.* anywhere in the folder.

A table is VIDEOS itself (paths are relative to its folder, and every row is curated), or it goes beside a folder and
gives captions and parts to the videos that are there.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from video_alchemist.curation.clip import Source

SUFFIXES = (".mp4", ".webm", ".mkv", ".mov", ".avi")
TABLES = (".jsonl", ".csv")
MAX_NAME = 32  # characters of a path in an id; with times and member suffix it must fit into a tar's 100
PANDA_LISTS = ("timestamp", "caption", "matching_score", "desirable_filtering", "shot_boundary_detection")


@dataclass(frozen=True)
class Row:
    """A line of a table. video: a path, or with Panda-70M the name of a file without its suffix."""

    place: str
    video: str
    is_name: bool = False
    caption: str | None = None
    start: float | None = None
    end: float | None = None
    license: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


def list_sources(videos: Path, captions: Path | None = None) -> list[Source]:
    """The sources of VIDEOS, by path; with `captions` a table that says more about the videos of a folder."""
    if not videos.exists():
        raise ValueError(f"no such video, folder or table: {str(videos)!r}")
    if captions is not None and not captions.is_file():
        raise ValueError(f"no such table of captions: {str(captions)!r}")
    if videos.is_file() and videos.suffix.lower() in TABLES:
        if captions is not None:
            raise ValueError(f"{str(videos)!r} is a table itself; expected a folder of videos beside --captions")
        sources = _of_table(read_table(videos), videos.parent)
    elif videos.is_file():
        if videos.suffix.lower() not in SUFFIXES:
            known = ", ".join((*SUFFIXES, *TABLES))
            raise ValueError(
                f"{str(videos)!r} ends in {videos.suffix!r}; expected a folder, or a file that ends in {known}"
            )
        sources = _of_folder([videos], videos.parent, captions)
    else:
        sources = _of_folder(list(find_videos(videos)), videos, captions)
    if not sources:
        raise ValueError(f"no videos in {str(videos)!r}; expected files that end in {', '.join(SUFFIXES)}")
    return _unique(sources)


def find_videos(folder: Path) -> Iterator[Path]:
    """All videos below a folder, sorted by path."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        names = [name for name in files if not name.startswith(".") and name.lower().endswith(SUFFIXES)]
        found += [Path(place, name) for name in names]
    yield from sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def source_id(path: str, start: float | None = None, end: float | None = None) -> str:
    """A path, relative to where it was listed, as an id: its letters and digits, and a hash of all of it.

    The hash has 8 digits, or 16 where the letters hardly tell paths apart: names in Chinese, or very long ones.
    """
    stem = path.rpartition(".")[0] or path
    name = re.sub(r"[^A-Za-z0-9]+", "_", stem).strip("_")
    readable = re.fullmatch(r"[\w ./-]*", stem, re.ASCII) is not None and len(name) <= MAX_NAME
    digits = hashlib.sha256(os.fsencode(path)).hexdigest()[: 8 if readable else 16]
    whole = f"{name[-MAX_NAME:].strip('_')}-{digits}".lstrip("-")
    return whole if start is None and end is None else f"{whole}-{_milliseconds(start)}_{_milliseconds(end)}"


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:.0f}"


# ------------------------------------------------------------------------------------------------------------------
# Folders and tables


def _of_folder(paths: list[Path], root: Path, captions: Path | None) -> list[Source]:
    """Each video once, or once for each of its rows in the table."""
    rows = _rows_by_video(read_table(captions), paths, root) if captions is not None else {}
    return [
        _source(path, root, row)
        for path in paths
        for row in rows.get(path.relative_to(root).as_posix(), [Row("", "", caption=_sidecar(path))])
    ]


def _of_table(rows: Iterator[Row], root: Path) -> list[Source]:
    named: dict[str, Path] | None = None
    sources = []
    for row in rows:
        path = Path(row.video)
        if row.is_name:
            if named is None:
                named = {video.stem: video for video in find_videos(root)}
            path = named.get(row.video, Path(f"{row.video}.mp4"))  # one that is not there is rejected as such
        path = path if path.is_absolute() else root / path
        sources.append(_source(path, root, row))
    return sources


def _rows_by_video(rows: Iterator[Row], paths: list[Path], root: Path) -> dict[str, list[Row]]:
    """Rows of a table by the relative path of their video; rows of videos that are not there are passed over."""
    relative = {path.relative_to(root).as_posix() for path in paths}
    by_name = {path.stem: path.relative_to(root).as_posix() for path in paths}
    found: dict[str, list[Row]] = {}
    for row in rows:
        given = Path(row.video)
        name = (given.relative_to(root) if given.is_relative_to(root) else given).as_posix()
        key = by_name.get(row.video) if row.is_name else name
        if key in relative:
            found.setdefault(key, []).append(row)
    if not found:
        raise ValueError(
            f"the table of captions names none of the {len(relative)} videos; expected paths as {min(relative)!r}"
        )
    return found


def _source(path: Path, root: Path, row: Row) -> Source:
    relative = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
    id, video = source_id(relative, row.start, row.end), source_id(relative)
    caption = row.caption if row.caption is not None else _sidecar(path)
    metadata = {**row.metadata, "path": relative}
    return Source(id, os.path.abspath(path), caption, row.start, row.end, row.license, video, metadata)


def _sidecar(path: Path) -> str | None:
    """The caption in x.txt beside x.mp4, on one line."""
    try:
        text = path.with_suffix(".txt").read_text(encoding="utf-8-sig", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    return " ".join(text.split()) or None


def _unique(sources: list[Source]) -> list[Source]:
    seen: dict[str, Source] = {}
    for source in sources:
        other = seen.setdefault(source.id, source)
        if other is not source:
            raise ValueError(
                f"{source.path!r} from {source.start} to {source.end} s is listed twice, or shares its id "
                f"{source.id!r} with {other.path!r}; expected each part of a video once"
            )
    return sources


# ------------------------------------------------------------------------------------------------------------------
# Reading tables


def read_table(path: Path) -> Iterator[Row]:
    """The rows of a JSONL or CSV file; a row that cannot be understood is an error that names its place."""
    if path.suffix.lower() not in TABLES:
        raise ValueError(f"{str(path)!r} ends in {path.suffix!r}; expected {' or '.join(TABLES)}")
    rows = _json_rows(path) if path.suffix.lower() == ".jsonl" else _csv_rows(path)
    for place, values in rows:
        if "videoID" in values and not values.get("path") and not values.get("video"):
            yield from _panda_rows(place, values)
        else:
            yield _row(place, values)


def _json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            place = f"{path.name}:{number}"
            try:
                values = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{place} is not JSON: {error}") from error
            if not isinstance(values, dict):
                raise ValueError(f'{place} is {line.strip()[:60]!r}; expected an object like {{"path": "a.mp4"}}')
            yield place, values


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    csv.field_size_limit(sys.maxsize)  # a long video has hundreds of captions in one field
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        for values in reader:
            place = f"{path.name}:{reader.line_num}"
            if None in values or None in values.values():
                raise ValueError(f"{place} does not have the {len(reader.fieldnames or ())} fields of the first line")
            yield place, {key: value for key, value in values.items() if value != ""}


def _row(place: str, values: Mapping[str, Any]) -> Row:
    rest = dict(values)
    names = [rest.pop(key) for key in ("path", "video") if key in rest]
    if not names or not isinstance(names[0], str) or not names[0]:
        raise ValueError(
            f'{place} has the fields {", ".join(values)}; expected "path" (or "video") with a file\'s name'
        )
    caption, license = rest.pop("caption", None), rest.pop("license", "")
    for key, value in (("caption", caption), ("license", license)):
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{place}: {key} is {value!r}; expected a text")
    start, end = (_seconds(place, key, rest.pop(key, None)) for key in ("start", "end"))
    text = " ".join(caption.split()) if caption else None
    return _checked(Row(place, names[0], False, text, start, end, license or "", rest))


def _panda_rows(place: str, values: Mapping[str, Any]) -> Iterator[Row]:
    """One row a clip: the lists of a line, side by side."""
    lists = {key: _python_list(place, key, values[key]) for key in PANDA_LISTS if key in values}
    if "timestamp" not in lists or len({len(items) for items in lists.values()}) > 1:
        sizes = ", ".join(f"{len(items)} {key}" for key, items in lists.items())
        raise ValueError(f"{place} has {sizes or 'no lists'}; expected a timestamp list, and the others as long")
    for number, span in enumerate(lists["timestamp"]):
        if not isinstance(span, (list, tuple)) or len(span) != 2:
            raise ValueError(f"{place}: timestamp {span!r}; expected ['0:00:01.000', '0:00:05.500']")
        start, end = (_seconds(place, "timestamp", moment) for moment in span)
        caption = " ".join(str(lists["caption"][number]).split()) if "caption" in lists else None
        extra = {key: items[number] for key, items in lists.items() if key not in ("timestamp", "caption")}
        extra |= {key: values[key] for key in ("videoID", "url") if key in values}
        license = str(values.get("license", ""))
        yield _checked(Row(place, str(values["videoID"]), True, caption or None, start, end, license, extra))


def _python_list(place: str, key: str, text: Any) -> list[Any]:
    try:
        items = ast.literal_eval(text) if isinstance(text, str) else text
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"{place}: {key} is {str(text)[:60]!r}; expected a list in Python's notation") from error
    if not isinstance(items, list):
        raise ValueError(f"{place}: {key} is {str(text)[:60]!r}; expected a list")
    return items


def _seconds(place: str, key: str, value: Any) -> float | None:
    """12.5, "12.5" or "0:00:12.500"."""
    if value is None or value == "":
        return None
    parts = str(value).split(":")
    try:
        seconds = sum(float(part) * 60**power for power, part in enumerate(reversed(parts)))
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0 or len(parts) > 3 or isinstance(value, bool):
        raise ValueError(f"{place}: {key} is {value!r}; expected seconds, or hours:minutes:seconds")
    return seconds


def _checked(row: Row) -> Row:
    if row.start is not None and row.end is not None and row.end <= row.start:
        raise ValueError(f"{row.place}: from {row.start:g} to {row.end:g} s; expected an end after the start")
    return row
