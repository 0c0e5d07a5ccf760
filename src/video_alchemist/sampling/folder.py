"""A pipeline's folder, by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SHIPPED = {"emojiworld": Path(__file__).parents[1] / "emojiworld" / "bundle"}


def find_folder(name: str, options: dict[str, Any]) -> Path:
    """A folder as it is; a hub id downloaded whole: diffusers itself refuses models whose code is not its own.

    options: what the download is told is taken out of them."""
    if name in SHIPPED or Path(name).is_dir():
        return SHIPPED.get(name) or Path(name)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ValueError(f"model {name!r}; expected {', '.join(map(repr, SHIPPED))}, a folder, or a hub id OWNER/NAME")
    from huggingface_hub import snapshot_download

    told = {key: options.pop(key) for key in ("revision", "cache_dir", "token", "local_files_only") if key in options}
    try:
        return Path(snapshot_download(name, **told))
    except (OSError, ValueError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(f"model {name!r} is no folder here, and the hub did not give it: {reason}") from error
