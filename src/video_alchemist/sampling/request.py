"""What a user asks for: one video with its settings, and manifests of many (JSON Lines)."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

from video_alchemist.records import MAX_IMAGES, Condition, Kind, Reference, View

REFERENCE_KEYS = tuple(field.name for field in fields(Reference))


@dataclass(frozen=True)
class Request:
    """One video. None = what the model's own configuration says. size is (width, height) in pixels."""

    prompt: str
    references: tuple[Reference, ...] = ()
    seed: int = 0
    num_frames: int | None = None
    size: tuple[int, int] | None = None
    num_steps: int | None = None
    text_scale: float | None = None
    image_scale: float | None = None
    equation: int = 2
    output: str | Path | None = None

    @property
    def condition(self) -> Condition:
        return Condition(self.prompt, tuple(self.references))

    def check(self) -> None:
        """What can be said without the model: raises ValueError, naming the value and what was expected."""
        if not self.prompt.strip():
            raise ValueError(f"the prompt is {self.prompt!r}; expected some words, like 'A dog jumps on the beach'")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed {self.seed}; expected 0 to 2**63 - 1")
        if len(self.references) > MAX_IMAGES:
            raise ValueError(f"{len(self.references)} reference images; expected at most {MAX_IMAGES}")
        for name, scale in (("text_scale", self.text_scale), ("image_scale", self.image_scale)):
            if scale is not None and not (math.isfinite(scale) and scale >= 0):
                raise ValueError(f"{name} is {scale}; expected a number from 0 (the paper: text 8, image 3)")
        if self.num_steps is not None and self.num_steps < 1:
            raise ValueError(f"num_steps is {self.num_steps}; expected at least 1")
        if self.equation not in (1, 2):
            raise ValueError(f"equation is {self.equation}; expected 1 (Brooks et al.) or 2 (the paper's)")
        if self.output is not None and Path(self.output).suffix.lower() != ".mp4":
            raise ValueError(f"output {str(self.output)!r}; expected a name that ends in .mp4")
        if self.output is not None and Path(self.output).is_dir():
            raise ValueError(f"output {str(self.output)!r} is a folder; expected the name of a file")


MANIFEST_KEYS = tuple(field.name for field in fields(Request))


def parse_size(text: str) -> tuple[int, int]:
    """'256x144' -> (256, 144): width, height."""
    width, cross, height = text.lower().partition("x")
    if not (cross and width.strip().isdecimal() and height.strip().isdecimal()):
        raise ValueError(f"size {text!r}; expected WIDTHxHEIGHT in pixels, like 256x144")
    return int(width), int(height)


def read_manifest(path: str | Path, output_dir: str | Path | None = None) -> list[Request]:
    """Requests of a JSON Lines file. Pictures are sought beside the manifest; outputs go to `output_dir`, if given."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such manifest: {str(path)!r}")
    requests: list[Request] = []
    outputs: dict[str | Path | None, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            request = _request(json.loads(line), path.parent, Path(output_dir or "."))
            request.check()
            if request.output in outputs:
                raise ValueError(f"output {str(request.output)!r} is that of line {outputs[request.output]} already")
        except json.JSONDecodeError as error:
            where = f"{path}, line {number}, column {error.colno}"
            raise ValueError(f"{where}: {error.msg}; expected one JSON object a line") from error
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
        outputs[request.output] = number
        requests.append(request)
    if not requests:
        raise ValueError(f"manifest {str(path)!r} is empty; expected one JSON object a line")
    return requests


def _request(row: Any, picture_dir: Path, output_dir: Path) -> Request:
    _check_keys(row, MANIFEST_KEYS, ("prompt", "output"), "the line")
    for key, kinds in _TYPES.items():
        value = row.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
            raise ValueError(f"{key} is {value!r}; expected {' or '.join(kind.__name__ for kind in kinds)}")
    values = {key: row[key] for key in row if row[key] is not None}
    references = tuple(_reference(reference, picture_dir) for reference in row.get("references") or ())
    if "size" in values:
        values["size"] = _size(values["size"])
    return Request(**{**values, "references": references, "output": output_dir / row["output"]})


_TYPES: dict[str, tuple[type, ...]] = {
    "prompt": (str,),
    "output": (str,),
    "references": (list,),
    "seed": (int,),
    "num_frames": (int,),
    "num_steps": (int,),
    "text_scale": (int, float),
    "image_scale": (int, float),
    "equation": (int,),
}


def _size(value: Any) -> tuple[int, int]:
    if isinstance(value, str):
        return parse_size(value)
    if isinstance(value, list) and len(value) == 2 and all(type(side) is int for side in value):
        return value[0], value[1]
    raise ValueError(f"size {value!r}; expected 'WIDTHxHEIGHT' or [width, height]")


def _reference(row: Any, folder: Path) -> Reference:
    _check_keys(row, REFERENCE_KEYS, ("word", "image"), "a reference")
    for key in ("word", "image", "mask"):
        if row.get(key) is not None and not isinstance(row[key], str):
            raise ValueError(f"{key} of a reference is {row[key]!r}; expected a string")
    for key, choices in (("kind", get_args(Kind)), ("view", get_args(View))):
        if row.get(key, choices[0]) not in choices:
            raise ValueError(f"{key} {row[key]!r}; expected one of {', '.join(choices)}{_near(str(row[key]), choices)}")
    if type(row.get("occurrence", 0)) is not int:
        raise ValueError(f"occurrence of a reference is {row['occurrence']!r}; expected an integer")
    paths = {key: folder / row[key] for key in ("image", "mask") if row.get(key) is not None}
    return Reference(**{**row, **paths})


def _check_keys(row: Any, keys: Sequence[str], required: Sequence[str], what: str) -> None:
    if not isinstance(row, dict):
        raise ValueError(f"{what} is {row!r}; expected a JSON object")
    for key in row:
        if key not in keys:
            raise ValueError(f"unknown key {key!r}; expected one of {', '.join(keys)}{_near(key, keys)}")
    for key in required:
        if row.get(key) is None:
            raise ValueError(f"{what} has no {key!r}; expected one")


def _near(word: str, choices: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.4)
    return f"; nearest: {near[0]!r}" if near else ""
