"""The report's plots as inline SVG: means with their intervals, and the samples' values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from video_alchemist.benchmark.report_tables import groups, label
from video_alchemist.benchmark.results import Result
from video_alchemist.benchmark.statistics import mean_by_id
from video_alchemist.curation import report_svg as svg
from video_alchemist.curation.report import section
from video_alchemist.curation.report_svg import Markup, number, tag

WIDTH, LINE = 300, 27
MOST = 6  # histograms of a metric


def plots(results: Sequence[Result]) -> Markup:
    """Of every group and metric: means with 95 % intervals, and how the samples' values are spread."""
    drawn: list[Markup] = []
    for (protocol, _, mode), members in groups(results).items():
        metrics = list(dict.fromkeys(metric for one in members for metric in one.metrics))
        figures = [figure for metric in metrics if (figure := _figure(metric, members)) is not None]
        drawn += [tag("h3", f"{mode.capitalize()} mode, protocol {protocol}"), tag("div", *figures, class_="charts")]
    text = "Dots are means, lines their 95 % intervals; below, the samples’ values, the dashed line their median."
    return section("Plots", text, *drawn)


def _figure(metric: str, members: Sequence[Result]) -> Markup | None:
    values = {one.name: list(mean_by_id(one.pairs(metric)).values()) for one in members if metric in one.metrics}
    values = {name: some for name, some in values.items() if some}
    if not values:
        return None
    said = {one.name: one.summary["metrics"][metric] for one in members if one.name in values}
    rows = [(name, one["mean"], one["low"], one["high"]) for name, one in said.items()]
    everyone = np.concatenate([np.array(some) for some in values.values()])
    limits = (float(everyone.min()), float(everyone.max()))
    spread = [
        tag("div", tag("figcaption", name), svg.histogram(svg.bins(some, _room(limits)), "", float(np.median(some))))
        for name, some in list(values.items())[:MOST]
    ]
    details = tag("details", tag("summary", "samples"), *spread)
    return tag("figure", tag("strong", label(metric)), intervals(rows), details)


def _room(limits: tuple[float, float]) -> tuple[float, float] | None:
    """The same axis for all, unless all values are one."""
    return limits if limits[1] > limits[0] else None


def intervals(rows: Sequence[tuple[str, float, float | None, float | None]]) -> Markup:
    """(name, mean, low, high) => a line each, over one axis."""
    ends = [end for _, mean, low, high in rows for end in (mean, low, high) if end is not None]
    low, high = min(ends), max(ends)
    room = 0.08 * (high - low) or 0.05 * (abs(high) or 1)
    low, high = (max(low - room, 0.0) if low >= 0 else low - room), high + room
    left, right = 4.0, WIDTH - 6.0
    height = LINE * len(rows) + 20

    def place(value: float) -> str:
        return f"{left + (value - low) / (high - low) * (right - left):.1f}"

    drawn = []
    for i, (name, mean, start, end) in enumerate(rows):
        y = LINE * i + 19
        said = number(mean) if start is None or end is None else f"{number(mean)} ({number(start)} to {number(end)})"
        text = tag("text", name, x=left, y=y - 8)
        line = None
        if start is not None and end is not None:
            line = tag("line", x1=place(start), x2=place(end), y1=y, y2=y, class_="whisker")
        dot = tag("circle", cx=place(mean), cy=y, r=3.5)
        drawn.append(tag("g", tag("title", f"{name}: {said}"), text, line, dot))
    base = height - 14
    drawn.append(tag("line", x1=left, x2=right, y1=base, y2=base, class_="axis"))
    drawn.append(tag("text", number(low), x=left, y=height - 3))
    drawn.append(tag("text", number(high), x=right, y=height - 3, text_anchor="end"))
    return tag("svg", *drawn, viewBox=f"0 0 {WIDTH} {height}", class_="intervals", role="img")
