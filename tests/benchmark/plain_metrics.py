"""Metrics of pixels alone, for tests of what runs them; in a file of its own, for worker processes import it, too."""

from __future__ import annotations

import os
import time

from video_alchemist.benchmark.analysis import Analysis
from video_alchemist.benchmark.rows import Row

LOG = "PLAIN_METRICS_LOG"  # a file that gets a line whenever something is measured


def note_down(metric: str, analysis: Analysis) -> None:
    if path := os.environ.get(LOG):
        with open(path, "a") as file:
            file.write(f"{metric} {analysis.sample.id}\n")


def brightness(analysis: Analysis) -> list[Row]:
    """Of all frames, and of each word's first letter, so that there are rows of words."""
    note_down("brightness", analysis)
    words = [analysis.row("brightness", ord(word[0]) / 7, word, 1) for word in analysis.words]
    return [analysis.row("brightness", analysis.frames.mean() / 255, frames=len(analysis.frames)), *words]


def contrast(analysis: Analysis) -> list[Row]:
    note_down("contrast", analysis)
    time.sleep(0.01)
    return [analysis.row("contrast", analysis.frames.std() / 255, frames=len(analysis.frames))]


def undefined(analysis: Analysis) -> list[Row]:
    return [analysis.row("undefined", None, note="never")]


def only_odd(analysis: Analysis) -> list[Row]:
    """Fails for samples with an even number."""
    note_down("only_odd", analysis)
    if int(analysis.sample.id.split("-")[1]) % 2 == 0:
        raise ZeroDivisionError("an even number")
    return [analysis.row("only_odd", 1.0)]


def broken(analysis: Analysis) -> list[Row]:
    note_down("broken", analysis)
    return [analysis.row("broken", {}["no such key"])]  # type: ignore[call-overload]


def short_of_memory(analysis: Analysis) -> list[Row]:
    raise MemoryError("8 TiB")


KNOWN = {
    "brightness": brightness,
    "contrast": contrast,
    "undefined": undefined,
    "only_odd": only_odd,
    "broken": broken,
    "short_of_memory": short_of_memory,
}
ROLES: dict[str, tuple[str, ...]] = {metric: () for metric in KNOWN}
