"""The authors' annotation of MSRVTT-Personalization (§4.1), read and checked, before anything is made of it.

FOLDER (or a zip of it)/<name>.vid_info.json              video, resolution, timestamp, caption, word_tags
FOLDER (or a zip of it)/<name>.word_tags_masks.pkl.gz     word -> entries: filename, box_xyxy, mask, is_face_crop

Only what the authors' own scripts would stumble over is refused. h,w pixels of a box
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from video_alchemist.benchmark.restricted_pickle import load_plain
from video_alchemist.dataset.shards import did_you_mean

INFO, MASKS = ".vid_info.json", ".word_tags_masks.pkl.gz"
TAGS = ("subject", "object", "background", "subject_with_face")
FRAME_FILES = ("frame1.jpg", "frame2.jpg", "frame3.jpg")
MAX_BYTES = 64 * 2**20  # of one file, unpacked
MAX_ENTRIES = 100  # of a word; six are of use
MAX_OVERHANG = 3  # pixels by which a mask and its box may differ: the authors accept boxes that overhang the frame so


@dataclass(frozen=True)
class Cut:
    """Where a word is seen in a frame (0 to 2): x0, y0, x1, y1 in pixels, and a mask (h, w) bool inside the frame."""

    frame: int
    box: tuple[int, int, int, int]
    mask: np.ndarray
    is_face: bool


@dataclass(frozen=True)
class Annotation:
    """resolution: width, height. start, end: seconds of the video. cuts: by subject or object word."""

    name: str
    video: str
    resolution: tuple[int, int]
    start: float
    end: float
    caption: str
    word_tags: Mapping[str, list[str]]
    cuts: Mapping[str, tuple[Cut, ...]]


class Annotations:
    """The annotation's samples by name, read and checked one at a time."""

    def __init__(self, place: str | Path) -> None:
        self.place = Path(place)
        if self.place.is_dir():
            self.files = {path.name: path.name for path in self.place.iterdir() if not path.name.startswith(".")}
        elif zipfile.is_zipfile(self.place):
            with zipfile.ZipFile(self.place) as archive:
                paths = [PurePosixPath(name) for name in archive.namelist()]
            self.files = {path.name: str(path) for path in paths if not path.name.startswith(".")}
        else:
            raise ValueError(f"{str(place)!r} is neither a folder nor a zip; expected the authors' annotation")
        self.names = sorted(name.partition(".")[0] for name in self.files if name.endswith(INFO))
        if not self.names:
            raise ValueError(f"{str(place)!r} holds no *{INFO}; expected the folder msrvtt_personalization_annotation")

    def read(self, name: str) -> Annotation:
        """One sample; ValueError that names the file and the field at whatever would not work later."""
        return _annotation(name, self._info(name), self._masks(name))

    @cached_property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for name in sorted(self.files):
            digest.update(f"{name} {hashlib.sha256(self._contents(name)).hexdigest()}\n".encode())
        return digest.hexdigest()

    def _info(self, name: str) -> Any:
        try:
            return json.loads(self._contents(name + INFO))
        except ValueError as error:
            raise ValueError(f"{name}{INFO}: {error}; expected a JSON object") from error

    def _masks(self, name: str) -> Any:
        if name + MASKS not in self.files:
            raise ValueError(f"{name}{MASKS} is missing from {str(self.place)!r}, but {name}{INFO} is there")
        try:
            with gzip.open(io.BytesIO(self._contents(name + MASKS))) as file:
                contents = file.read(MAX_BYTES + 1)
            if len(contents) > MAX_BYTES:
                raise ValueError(f"more than {MAX_BYTES} bytes when unpacked")
            return load_plain(contents)
        except (ValueError, OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{name}{MASKS}: {error}") from error

    def _contents(self, name: str) -> bytes:
        if self.place.is_dir():
            with (self.place / name).open("rb") as file:
                contents = file.read(MAX_BYTES + 1)
        else:
            with zipfile.ZipFile(self.place) as archive, archive.open(self.files[name]) as member:
                contents = member.read(MAX_BYTES + 1)
        if len(contents) > MAX_BYTES:
            raise ValueError(f"{name} has more than {MAX_BYTES} bytes")
        return contents


# ------------------------------------------------------------------------------------------------------------------
# Checking


def _annotation(name: str, info: Any, masks: Any) -> Annotation:
    """What the files hold, if the authors' own scripts would not stumble over it."""
    file = name + INFO
    if not isinstance(info, dict):
        raise ValueError(f"{file}: {info!r:.80}; expected a JSON object")
    for field, expected in (("video", str), ("resolution", list), ("timestamp", list), ("caption", str)):
        if not isinstance(info.get(field), expected) or not info[field]:
            raise ValueError(f"{file}: {field} is {info.get(field)!r:.80}; expected a {expected.__name__}")
    resolution, stamps = info["resolution"], info["timestamp"]
    if len(resolution) != 2 or not all(type(side) is int and 16 <= side <= 4096 for side in resolution):
        raise ValueError(f"{file}: resolution is {resolution}; expected [width, height] of 16 to 4096 pixels")
    start, end = (_seconds(file, stamp) for stamp in stamps) if len(stamps) == 2 else (0.0, 0.0)
    if not start < end:
        raise ValueError(f"{file}: timestamp is {stamps}; expected [start, end] with start < end")
    tags = _word_tags(file, info.get("word_tags"))
    file = name + MASKS
    if not isinstance(masks, dict):
        raise ValueError(f"{file}: a {type(masks).__name__}; expected a dict of words")
    size = (resolution[0], resolution[1])
    cuts = {str(word): _cuts(f"{file}: {word!r}", entries, size) for word, entries in masks.items()}
    for word in tags["subject"] + tags["object"]:
        if word not in cuts:
            raise ValueError(f"{file}: no {word!r}, which word_tags has{did_you_mean(word, cuts)}")
        if all(cut.is_face for cut in cuts[word]):
            raise ValueError(f"{file}: {word!r} has no picture but faces; expected at least one")
    for word in tags["subject_with_face"]:
        if not any(cut.is_face for cut in cuts[word]):
            raise ValueError(f"{file}: {word!r} has no face crop, but is of subject_with_face")
    return Annotation(name, info["video"], size, start, end, info["caption"], tags, cuts)


def _seconds(file: str, stamp: Any) -> float:
    try:
        time = datetime.strptime(stamp, "%H:%M:%S.%f")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: timestamp {stamp!r}; expected HOURS:MINUTES:SECONDS.FRACTION") from error
    return time.hour * 3600 + time.minute * 60 + time.second + time.microsecond / 1e6


def _word_tags(file: str, tags: Any) -> dict[str, list[str]]:
    if not isinstance(tags, dict):
        raise ValueError(f"{file}: word_tags is {tags!r:.80}; expected an object of {', '.join(TAGS)}")
    for tag in TAGS:
        words = tags.get(tag)
        if not isinstance(words, list) or not all(isinstance(word, str) and word.strip() for word in words):
            raise ValueError(f"{file}: word_tags.{tag} is {words!r:.80}; expected a list of words")
    unknown = set(tags["subject_with_face"]) - set(tags["subject"])
    if unknown:
        raise ValueError(f"{file}: word_tags.subject_with_face has {min(unknown)!r}, which is no word of subject")
    if len(tags["subject"]) == 1 and not tags["background"]:
        raise ValueError(f"{file}: word_tags.background is empty; expected a word, as one subject is a subject mode's")
    return tags


def _cuts(where: str, entries: Any, resolution: tuple[int, int]) -> tuple[Cut, ...]:
    """One a frame, and one face a frame; of several the last, which overwrites the others in the authors' folders."""
    if not isinstance(entries, list) or len(entries) > MAX_ENTRIES:
        raise ValueError(f"{where} is a {type(entries).__name__}; expected a list of up to {MAX_ENTRIES} entries")
    last = {}
    for i, entry in enumerate(entries):
        file = entry.get("filename") if isinstance(entry, dict) else None
        if file not in FRAME_FILES:
            raise ValueError(f"{where}, entry {i}: filename is {file!r:.80}; expected one of {', '.join(FRAME_FILES)}")
        is_face = entry.get("is_face_crop")
        if not isinstance(is_face, bool):
            raise ValueError(f"{where}, entry {i}: is_face_crop is {is_face!r:.80}; expected True or False")
        last[is_face, FRAME_FILES.index(file)] = (i, entry)
    return tuple(
        _cut(f"{where}, entry {i}", entry, frame, is_face, resolution)
        for (is_face, frame), (i, entry) in sorted(last.items(), key=lambda item: item[0])
    )


def _cut(where: str, entry: Mapping[str, Any], frame: int, is_face: bool, resolution: tuple[int, int]) -> Cut:
    """The entry with its mask trimmed to what of the box lies in the frame."""
    box, mask = entry.get("box_xyxy"), entry.get("mask")
    if isinstance(box, np.ndarray):
        box = box.tolist()
    if not isinstance(box, list) or len(box) != 4 or not all(type(side) is int for side in box):
        raise ValueError(f"{where}: box_xyxy is {box!r:.80}; expected [x0, y0, x1, y1] of integers")
    x0, y0, x1, y1 = box
    if not (0 <= x0 < min(x1, resolution[0]) and 0 <= y0 < min(y1, resolution[1])):
        raise ValueError(f"{where}: box_xyxy is {box}; expected a box within {resolution[0]} x {resolution[1]} pixels")
    whole = _mask(where, mask, (y1 - y0, x1 - x0))
    trimmed = whole[: resolution[1] - y0, : resolution[0] - x0][: y1 - y0, : x1 - x0]
    if not trimmed.any():
        raise ValueError(f"{where}: mask is empty; expected some pixels")
    return Cut(frame, (x0, y0, x0 + trimmed.shape[1], y0 + trimmed.shape[0]), trimmed, is_face)


def _mask(where: str, mask: Any, shape: tuple[int, int]) -> np.ndarray:
    """An array or lists of 0 and 1 => (h, w) bool. Sizes are compared first: a small pickle can hold endless rows."""
    if isinstance(mask, np.ndarray) and mask.ndim == 2:
        found = mask.shape
    elif isinstance(mask, list) and mask and all(isinstance(row, list) and len(row) == len(mask[0]) for row in mask):
        found = (len(mask), len(mask[0]))
    else:
        raise ValueError(f"{where}: mask is a {type(mask).__name__}; expected rows of equal length")
    if any(abs(have - side) > MAX_OVERHANG for have, side in zip(found, shape, strict=True)):
        raise ValueError(f"{where}: mask is {found[0]} x {found[1]}; expected its box's {shape[0]} x {shape[1]}")
    if any(value not in (0, 1) for row in (mask if isinstance(mask, list) else np.unique(mask)[None]) for value in row):
        raise ValueError(f"{where}: mask has other values than 0 and 1")
    return np.array(mask, dtype=bool)
