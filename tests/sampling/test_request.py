"""Requests and manifests: what is asked for, and how wrong wishes are answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from video_alchemist.records import Reference
from video_alchemist.sampling.manifest import read_manifest
from video_alchemist.sampling.request import Request, parse_size

DOG = {"word": "dog", "image": "dog.png"}
LINE = {"prompt": "A dog", "references": [DOG], "output": "a.mp4"}


def manifest(folder: Path, *rows: Any) -> Path:
    path = folder / "jobs.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_manifest(tmp_path: Path) -> None:
    """Guards against pictures sought in the working folder, and settings that are read but dropped."""
    second = {
        "prompt": "Ein Hündchen",
        "references": [{"word": "Hündchen", "image": "h.png", "mask": "m.png", "view": "face", "occurrence": 0}],
        "seed": 7,
        "num_frames": 9,
        "size": "32x16",
        "num_steps": 3,
        "text_scale": 4,
        "image_scale": 1.5,
        "equation": 1,
        "output": "b.mp4",
        "negative_prompt": "blurred",
        "text_interval": [0, 0.8],
    }
    requests = read_manifest(manifest(tmp_path, LINE, "", second), tmp_path / "out")
    assert requests[0] == Request("A dog", (Reference("dog", tmp_path / "dog.png"),), output=tmp_path / "out" / "a.mp4")
    assert requests[1] == Request(
        "Ein Hündchen",
        (Reference("Hündchen", tmp_path / "h.png", tmp_path / "m.png", view="face"),),
        7, 9, (32, 16), 3, 4, 1.5, 1,
        tmp_path / "out" / "b.mp4", "blurred", (0, 0.8),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**LINE, "promt": "A cat"}, "unknown key 'promt'; .*nearest: 'prompt'"),
        ({**LINE, "references": [{"word": "dog", "img": "dog.png"}]}, "unknown key 'img'; .*nearest: 'image'"),
        ({**LINE, "references": [{"word": "dog"}]}, "a reference has no 'image'"),
        ({**LINE, "references": [{**DOG, "kind": "subjects"}]}, "kind 'subjects'.*nearest: 'subject'"),
        ({**LINE, "references": {"dog": "dog.png"}}, "references is .*expected list"),
        ({**LINE, "size": [64]}, r"size \[64\]; expected 'WIDTHxHEIGHT'"),
        ({**LINE, "seed": "7"}, "seed is '7'; expected int"),
        ({**LINE, "seed": True}, "seed is True; expected int"),
        ({**LINE, "seed": -1}, "seed -1; expected 0 to"),
        ({**LINE, "output": "a.gif"}, "ends in .mp4"),
        ({**LINE, "text_scale": float("nan")}, "text_scale is nan"),
        ({**LINE, "image_interval": [0.5, "1"]}, r"image_interval is \(0.5, '1'\); expected two shares of the steps"),
        ({**LINE, "text_interval": [0.5, 0.2]}, r"text_interval is \(0.5, 0.2\); expected two shares"),
        ({**LINE, "prompt": " "}, "the prompt is ' '"),
        ({"prompt": "A dog"}, "the line has no 'output'"),
        ([1], r"the line is \[1\]; expected a JSON object"),
        ('{"prompt": ', "expected one JSON object a line"),
        (LINE, "'a.mp4' is that of line 1 already"),
    ],
)
def test_errors_name_line_and_choice(tmp_path: Path, row: Any, message: str) -> None:
    """Guards against a job that fails after hours at a line nobody can find, or a typo that is silently ignored."""
    with pytest.raises(ValueError, match=f"jobs.jsonl, line 2.*{message}"):
        read_manifest(manifest(tmp_path, LINE, row))


def test_missing_and_empty_manifests(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such manifest"):
        read_manifest(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="is empty"):
        read_manifest(manifest(tmp_path, ""))


@pytest.mark.parametrize("text", ["64", "64x", "x64", "-64x64", "64x64x64", "wide"])
def test_sizes(text: str) -> None:
    assert parse_size("256x144") == (256, 144)
    with pytest.raises(ValueError, match="expected WIDTHxHEIGHT"):
        parse_size(text)
