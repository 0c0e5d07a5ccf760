"""Manifests of many requests: JSON Lines, one object a video."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from video_alchemist.records import Kind, Reference, View
from video_alchemist.sampling.request import Request, parse_size

REFERENCE_KEYS = tuple(field.name for field in fields(Reference))
MANIFEST_KEYS = tuple(field.name for field in fields(Request))


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
    for key in ("text_interval", "image_interval"):
        if key in values:
            values[key] = tuple(values[key])
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
    "negative_prompt": (str,),
    "text_interval": (list,),
    "image_interval": (list,),
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
