"""Markup that escapes what it is given, and the charts of the curation report as inline SVG (Fig. 8: the word cloud).

Colours are the page's business: everything drawn carries a class and no colour.
"""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

VOID = ("img", "input")
CHART = (300, 112)  # a histogram's width and height
CLOUD = (760, 330)
CLOUD_WORDS = 120
FONT_SIZES = (11.0, 58.0)  # of the rarest and at most of the most frequent word
LINE_HEIGHT = 1.12  # of the font size: from the top of "l" to the bottom of "g", and some air


class Markup(str):
    """Text that is HTML already; any other text is escaped by `tag`."""


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """An element. `class_` is written class, `data_word` data-word; None leaves out an attribute or a child."""
    named = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    start = "".join([f"<{name}", *(f' {key}="{html.escape(str(value))}"' for key, value in named.items()), ">"])
    return Markup(start if name in VOID else f"{start}{join(children)}</{name}>")


def join(children: Iterable[object]) -> Markup:
    """Markup as it is, everything else escaped."""
    return Markup("".join(c if isinstance(c, Markup) else html.escape(str(c)) for c in children if c is not None))


def bar(parts: Sequence[tuple[float, str]], label: str) -> Markup:
    """A horizontal bar of parts (share in [0, 1], class), one after the other."""
    drawn, start = [], 0.0
    for share, style in parts:
        drawn.append(tag("rect", x=percent(start), width=percent(share), y=0, height="100%", class_=style))
        start += share
    return tag("svg", tag("title", label), *drawn, class_="bar", role="img")


def percent(share: float) -> str:
    return f"{100 * share:.3f}%"


# ------------------------------------------------------------------------------------------------------------------
# Histograms


@dataclass(frozen=True)
class Bins:
    """Bin i counts values in [edges[i], edges[i + 1]); the last one also its upper edge, or where open all above."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    open: bool = False


def bins(values: Sequence[float], limits: tuple[float, float] | None = None, most: int = 24) -> Bins:
    """Bins of a round width; a long tail (the last half of a percent taking half the axis) falls into one open bin."""
    array = np.asarray(values, dtype=float)
    low, high = limits or (float(array.min()), float(array.max()))
    bulk = float(np.quantile(array, 0.995))
    tail = limits is None and high - low > 2 * (bulk - low) > 0
    high = bulk if tail else high
    if high - low <= 1e-9 * abs(high):  # one value: a bar with some room on both sides
        room = 5 * round_step(abs(low) / 10 or 0.1)
        low, high = (max(low - room, 0) if low >= 0 else low - room), high + room
    step = round_step((high - low) / most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    edges = np.arange(first, last + 1) * step
    counts, _ = np.histogram(np.clip(array, edges[0], edges[-1]), edges)
    return Bins(tuple(edges.round(12).tolist()), tuple(counts.tolist()), tail)


def round_step(least: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is at least `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def number(value: float, digits: int = 3) -> str:
    """In so many digits, thousands apart: 0.435, 1.4, 12, 86,800,000."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{float(f'{value:.{digits}g}'):g}"


def histogram(binned: Bins, unit: str = "", median: float | None = None) -> Markup:
    """Bars over a labelled axis; every bar tells its range and count to whoever points at it."""
    width, height = CHART
    left, right, top, bottom = 4, width - 8, 14, height - 18
    low, high, tallest = binned.edges[0], binned.edges[-1], max(binned.counts) or 1
    scale = (right - left) / (high - low)
    drawn = []
    for i, (start, end, count) in enumerate(zip(binned.edges, binned.edges[1:], binned.counts, strict=False)):
        beyond = binned.open and i == len(binned.counts) - 1
        label = f"{number(start)} {unit} and more" if beyond else f"{number(start)} to {number(end)} {unit}"
        tall = (bottom - top) * count / tallest
        x, across = left + (start - low) * scale, max((end - start) * scale - 1, 0.5)
        shape = tag("rect", x=f"{x:.1f}", y=f"{bottom - tall:.1f}", width=f"{across:.1f}", height=f"{tall:.1f}")
        drawn.append(tag("g", tag("title", f"{label.strip()}: {count:,}"), shape, class_="open" if beyond else None))
    drawn.append(tag("line", x1=left, x2=right, y1=bottom, y2=bottom, class_="axis"))
    drawn.append(tag("text", f"{tallest:,}", x=left, y=top - 4))
    for tick in _ticks(low, high):
        x = left + (tick - low) * scale
        anchor = "start" if x < left + 12 else "end" if x > right - 12 else "middle"
        drawn.append(tag("line", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=bottom, y2=bottom + 3, class_="axis"))
        drawn.append(tag("text", number(tick), x=f"{x:.1f}", y=height - 4, text_anchor=anchor))
    if median is not None and low <= median <= high:
        place = f"{left + (median - low) * scale:.1f}"
        drawn.append(tag("line", x1=place, x2=place, y1=top, y2=bottom, class_="mark"))
    return tag("svg", *drawn, viewBox=f"0 0 {width} {height}", class_="histogram", role="img")


def _ticks(low: float, high: float) -> list[float]:
    step = round_step((high - low) / 5)
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


# ------------------------------------------------------------------------------------------------------------------
# Word cloud


@dataclass(frozen=True)
class Placed:
    """A word in the cloud: its middle, its width and height, and the size of its letters."""

    word: str
    kind: str
    count: int
    x: float
    y: float
    width: float
    height: float
    size: float


def cloud(counts: Mapping[tuple[str, str], int], box: tuple[int, int] = CLOUD) -> list[Placed]:
    """Where the most frequent (word, kind) stand (Fig. 8): areas as the counts are, the most frequent in the middle.

    Every word takes the first free place on a spiral, so the same counts give the same picture; one that finds no
    place is left out.
    """
    chosen = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:CLOUD_WORDS]
    if not chosen:
        return []
    width, height = box
    roots = np.sqrt([count / chosen[0][1] for _, count in chosen])
    lengths = np.array([text_width(word) for (word, _), _ in chosen])
    area = float((roots**2 * lengths).sum()) * LINE_HEIGHT
    largest = min(FONT_SIZES[1], math.sqrt(0.5 * width * height / area), 0.8 * width / float(lengths[0]))
    turns = np.arange(2500)
    radius, angle = np.sqrt(turns / turns[-1]) / 2, turns * 0.4
    spots = np.stack([width * (0.5 + radius * np.cos(angle)), height * (0.5 + radius * np.sin(angle))], axis=1)
    taken = np.zeros((0, 2, 2))  # (words, middle and half size, x and y)
    placed = []
    for ((word, kind), count), root, length in zip(chosen, roots, lengths, strict=True):
        size = max(FONT_SIZES[0], largest * float(root))
        half = np.array([length * size + 6, size * LINE_HEIGHT]) / 2
        inside = np.all((spots >= half) & (spots <= np.array(box) - half), axis=1)
        apart = np.any(np.abs(spots[:, None] - taken[:, 0]) >= half + taken[:, 1], axis=2)
        free = np.flatnonzero(inside & np.all(apart, axis=1))
        if len(free):
            spot = spots[free[0]]
            taken = np.concatenate([taken, np.stack([spot, half])[None]])
            (x, y), (across, down) = spot.tolist(), (2 * half).tolist()
            placed.append(Placed(word, kind, count, x, y, across, down, size))
    return placed


def text_width(text: str) -> float:
    """About how wide a text is in a sans-serif font, in font sizes; browsers are then held to it by `textLength`."""
    return sum(
        1.0 if unicodedata.east_asian_width(letter) in "WF"
        else 0.31 if letter in "fijlrt.,:;'|!()- "
        else 0.86 if letter in "mwMW@%"
        else 0.66 if letter.isupper()
        else 0.57
        for letter in text
    )  # fmt: skip


def draw_cloud(placed: Sequence[Placed]) -> Markup:
    """The cloud as links (a click searches the clips for the word), cropped to what it holds."""
    left, right = min(p.x - p.width / 2 for p in placed), max(p.x + p.width / 2 for p in placed)
    top, bottom = min(p.y - p.height / 2 for p in placed), max(p.y + p.height / 2 for p in placed)
    words = [
        tag(
            "a",
            tag("title", f"{p.word} ({p.kind}): {p.count:,}"),
            tag(
                "text", p.word, x=f"{p.x:.1f}", y=f"{p.y + 0.34 * p.size:.1f}", font_size=f"{p.size:.1f}",
                textLength=f"{p.width - 6:.1f}", lengthAdjust="spacingAndGlyphs", text_anchor="middle",
            ),
            href="#kept", data_word=p.word, class_=p.kind,
        )
        for p in placed
    ]  # fmt: skip
    view = f"{left:.1f} {top:.1f} {right - left:.1f} {bottom - top:.1f}"
    return tag("svg", *words, viewBox=view, class_="cloud", aria_label="Word cloud of entity words", role="group")
