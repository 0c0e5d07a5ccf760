"""The benchmark's samples (§4.1): a prompt, reference pictures of its subjects and objects, and the true clip.

DATA/benchmark.json   which clips of which shards, by mode (`bench prepare` writes it)
DATA/shards           the clips (dataset/shards.py); anywhere else, too

H,W pixels of a frame · h,w of a cut-out
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from video_alchemist.dataset.masks import crop, cut_out
from video_alchemist.dataset.shards import FRAMES, ShardDataset, did_you_mean
from video_alchemist.dataset.storage import json_line
from video_alchemist.records import Kind

FORMAT = 1
ROOT = "benchmark.json"


@dataclass(frozen=True)
class Target:
    """A subject or an object of the prompt: what a video must show, and by what it is known.

    pictures: (h, w, 4) uint8 cut-outs, alpha = mask, and the frame (0 to 2) that each is from, in frame order.
    faces: (h, w, 3) uint8 crops, not masked. occurrence: which mention of the word in the prompt it is.
    """

    word: str
    kind: Kind
    span: tuple[int, int]
    pictures: tuple[np.ndarray, ...]
    frames: tuple[int, ...]
    faces: tuple[np.ndarray, ...] = ()
    occurrence: int = 0


@dataclass(frozen=True)
class Sample:
    """targets: subjects and objects in the order of the prompt. frames: three of (H, W, 3) uint8, at 5, 50 and 95 %.

    background: (H, W, 3) uint8, the middle frame without its targets. size: width, height of the true clip.
    """

    id: str
    prompt: str
    targets: tuple[Target, ...]
    frames: tuple[np.ndarray, ...]
    background: np.ndarray | None
    background_word: str | None
    background_span: tuple[int, int] | None
    fps: float
    num_frames: int
    size: tuple[int, int]
    background_occurrence: int = 0

    @property
    def subjects(self) -> tuple[Target, ...]:
        return tuple(target for target in self.targets if target.kind == "subject")

    def target(self, word: str) -> Target:
        for target in self.targets:
            if target.word == word:
                return target
        words = [target.word for target in self.targets]
        raise ValueError(f"{self.id} has no target {word!r}; expected one of {words}{did_you_mean(word, words)}")


def read_sample(dataset: ShardDataset, position: int) -> Sample:
    """A clip of shards as a sample; its video is not decoded."""
    record = dataset.record(position)
    frames = tuple(read_jpeg(dataset.member("examples", position, suffix)) for suffix in FRAMES)
    entities = record["entities"]
    targets = [_target(record, row, frames) for row, entity in enumerate(entities) if entity["kind"] != "background"]
    ground = next((entity for entity in entities if entity["kind"] == "background"), None)
    painted = ground is not None and dataset.index["background"][position].as_py() is not None
    return Sample(
        id=record["id"],
        prompt=record["caption"],
        targets=tuple(sorted(targets, key=lambda target: target.span)),
        frames=frames,
        background=read_jpeg(dataset.member("background", position)) if painted else None,
        background_word=ground["word"] if ground else None,
        background_span=(ground["span"][0], ground["span"][1]) if ground else None,
        fps=record["fps"],
        num_frames=record["num_frames"],
        size=(record["size"][0], record["size"][1]),
        background_occurrence=ground["occurrence"] if ground else 0,
    )


def _target(record: Mapping[str, Any], row: int, frames: Sequence[np.ndarray]) -> Target:
    entity = record["entities"][row]
    seen = sorted((one for one in record["references"] if one["entity"] == row), key=lambda one: one["frame"])
    faces = [(one["frame"], one["face"]) for one in seen if one.get("face") is not None]
    faces += [(one["frame"], one["face"]) for one in record.get("lone_faces", ()) if one["entity"] == row]
    return Target(
        word=entity["word"],
        kind=entity["kind"],
        span=(entity["span"][0], entity["span"][1]),
        pictures=tuple(cut_out(frames[one["frame"]], one["mask"], one["box"]) for one in seen),
        frames=tuple(one["frame"] for one in seen),
        faces=tuple(crop(frames[frame], box) for frame, box in sorted(faces)),
        occurrence=entity["occurrence"],
    )


class BenchmarkData:
    """A prepared benchmark: samples by id, read from the shards when asked for.

    fingerprint: sha256 of the shards' files and of the modes, so that results name what they were measured on.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / ROOT
        if not path.is_file():
            raise ValueError(f"{str(folder)!r} holds no {ROOT}; expected a folder that `alchemist bench prepare` wrote")
        try:
            content = json.loads(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{str(path)!r} is damaged ({error}): prepare the benchmark again") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            found = content.get("format") if isinstance(content, dict) else content
            raise ValueError(f"{str(path)!r} is of format {found!r}; this version reads {FORMAT}: prepare it again")
        self.source: str = content["source"]
        self.modes: dict[str, list[str]] = content["modes"]
        self.fingerprint: str = content["fingerprint"]
        self.dataset = ShardDataset(self.folder / content["shards"])
        if fingerprint(self.dataset, self.modes) != self.fingerprint:
            raise ValueError(f"{str(path)!r} is of other shards than {self.dataset.folder.place!r}: prepare it again")
        gone = sorted({one for ids in self.modes.values() for one in ids} - set(self.dataset.ids))
        if gone:
            raise ValueError(f"{gone[0]!r} and {len(gone) - 1} more were taken down: prepare {str(folder)!r} again")

    def ids(self, mode: str) -> list[str]:
        """Of a mode's samples, sorted."""
        if mode not in self.modes:
            raise ValueError(f"mode {mode!r}; expected one of {', '.join(self.modes)}{did_you_mean(mode, self.modes)}")
        return sorted(self.modes[mode])

    def __getitem__(self, sample_id: str) -> Sample:
        return read_sample(self.dataset, self._position(sample_id))

    def __len__(self) -> int:
        return len(self._known)

    def record(self, sample_id: str) -> dict[str, Any]:
        """The annotation as the shards hold it (docs/shards.md)."""
        return self.dataset.record(self._position(sample_id))

    def member(self, sample_id: str, column: str, suffix: str | None = None) -> bytes:
        """A file of a sample as the shards hold it, such as the true clip: column "video"."""
        return self.dataset.member(column, self._position(sample_id), suffix)

    def _position(self, sample_id: str) -> int:
        if sample_id not in self._known:
            raise ValueError(f"no sample {sample_id!r} in {str(self.folder)!r}{did_you_mean(sample_id, self._known)}")
        return self.dataset.position(sample_id)

    @cached_property
    def _known(self) -> set[str]:
        return {one for ids in self.modes.values() for one in ids}


def fingerprint(dataset: ShardDataset, modes: Mapping[str, Sequence[str]]) -> str:
    """sha256 over the shards' files, by their own sha256, and the samples of every mode."""
    parts = (dataset.manifest, *dataset.manifest["shards"])
    files = {name: file["sha256"] for part in parts for name, file in part["files"].items()}
    modes = {mode: sorted(ids) for mode, ids in modes.items()}
    return hashlib.sha256(json_line({"files": files, "modes": modes})).hexdigest()


def read_jpeg(contents: bytes) -> np.ndarray:
    """JPEG => (H, W, 3) uint8."""
    return np.asarray(Image.open(io.BytesIO(contents)).convert("RGB"))
