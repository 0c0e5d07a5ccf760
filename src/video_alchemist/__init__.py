"""Video Alchemist: multi-subject open-set personalization in video generation."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
_HOMES = {
    "AlchemistPipeline": "video_alchemist.sampling.pipeline",
    "Condition": "video_alchemist.records",
    "Reference": "video_alchemist.records",
    "Request": "video_alchemist.sampling.request",
}
__all__ = ["AlchemistPipeline", "Condition", "Reference", "Request", "__version__"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: the command line must answer --help without waiting for torch.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
