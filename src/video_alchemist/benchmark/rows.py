"""What a metric says of a video: rows. §4.2's tables are means over them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from video_alchemist.benchmark.analysis import Analysis


@dataclass(frozen=True)
class Row:
    """value: None where there is nothing to measure, which `note` explains.
    word: "" for the value of the whole video, the only one that enters means; else that of one of its words.
    frames: how many frames, or pairs of frames, had something to show for it."""

    id: str
    metric: str
    value: float | None
    word: str = ""
    frames: int = 0
    note: str = ""


Metric = Callable[["Analysis"], list[Row]]  # the first row is the whole video's
