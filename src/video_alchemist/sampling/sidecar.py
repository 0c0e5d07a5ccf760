"""The JSON beside every video that says how to make it again."""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from video_alchemist.records import Reference, resolve_path
from video_alchemist.sampling.request import Request


def describe(request: Request, settings: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
    """The contents of a sidecar; `settings` are the resolved ones."""
    return {
        "prompt": request.prompt,
        "references": [_reference(reference) for reference in request.references],
        "seed": request.seed,
        **settings,
        "model": model,
        "version": package_version(),
    }


def package_version() -> str | None:
    """None where the package is used from its sources, not installed."""
    try:
        return version("video-alchemist")
    except PackageNotFoundError:
        return None


def weights_revision(folder: Path) -> str:
    """The commit where the folder is a hub snapshot, else a digest over its weights."""
    if folder.parent.name == "snapshots":
        return folder.name
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        digest.update(f"{path.relative_to(folder).as_posix()} {_file_digest(path)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def _reference(reference: Reference) -> dict[str, Any]:
    described: dict[str, Any] = {
        "word": reference.word,
        "kind": reference.kind,
        "view": reference.view,
        "occurrence": reference.occurrence,
        **_picture("image", reference.image),
    }
    return described | (_picture("mask", reference.mask) if reference.mask is not None else {})


def _picture(name: str, image: Any) -> dict[str, str | None]:
    path = resolve_path(image)
    if path is None:  # a picture in memory: its pixels
        return {name: None, f"{name}_sha256": hashlib.sha256(np.asarray(image).tobytes()).hexdigest()}
    return {name: str(path), f"{name}_sha256": _file_digest(path)}


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
