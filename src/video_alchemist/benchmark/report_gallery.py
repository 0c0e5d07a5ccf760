"""The report's gallery (Fig. 5): references, every method's frames and values, to be sorted by any metric."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from video_alchemist.benchmark.report_tables import label
from video_alchemist.benchmark.results import PICTURES, SAMPLES, Result, video_key
from video_alchemist.benchmark.statistics import mean_by_id
from video_alchemist.curation.report import section
from video_alchemist.curation.report_sheets import search_text
from video_alchemist.curation.report_svg import Markup, number, tag

STRIPS = 600  # of pictures in the page, about 12 KB each
MOST = 60  # samples of each kind: best, worst, others at random
MAIN = ("subject_similarity", "face_similarity", "text_similarity")  # the first that there is tells best from worst


def gallery(results: Sequence[Result]) -> Markup:
    metrics = list(dict.fromkeys(metric for one in results for metric in one.metrics))
    values = [{metric: mean_by_id(one.pairs(metric)) for metric in one.metrics} for one in results]
    samples: dict[str, dict[str, Any]] = {}
    for one in results:
        path = one.folder / SAMPLES
        if path.is_file():
            samples = json.loads(path.read_bytes()) | samples
    main = next((metric for metric in MAIN if metric in results[0].metrics), results[0].metrics[0])
    per_kind = max(4, min(MOST, STRIPS // (3 * (len(results) + 1))))
    chosen = choose(values[0][main], per_kind)
    cards = [_card(one, samples.get(one, {}), results, values, metrics) for one in chosen]
    total = len(values[0][main])
    which = "all" if len(chosen) == total else f"the {per_kind} best, the {per_kind} worst, and others at random:"
    text = (
        f"By {label(main)} of {results[0].name}, {which} {len(chosen)} of {total} samples. Frames from first to last."
    )
    return section("Gallery", text, _controls(results, metrics, main), tag("div", *cards, class_="sheet", id="sheet"))


def choose(values: Mapping[str, float], count: int) -> list[str]:
    """Samples: so many of the best, of the worst, and of the others at random; the best first."""
    order = sorted(values, key=lambda one: (-values[one], one))
    middle = order[count : max(len(order) - count, count)]
    drawn = np.random.default_rng(0).permutation(len(middle))[:count]
    chosen = (
        {*order[:count], *order[len(order) - count :], *(middle[i] for i in drawn)} if len(order) > count else {*order}
    )
    return [one for one in order if one in chosen]


def _controls(results: Sequence[Result], metrics: Sequence[str], main: str) -> Markup:
    choices = [
        tag("option", label(metric), value=i, selected="" if metric == main else None)
        for i, metric in enumerate(metrics)
    ]
    names = [tag("option", _named(one), value=i) for i, one in enumerate(results)]
    return tag(
        "p",
        tag("label", "sort by ", tag("select", *choices, id="metric")),
        tag("label", "of ", tag("select", *names, id="result")),
        tag("label", tag("input", type="checkbox", id="rising"), "lowest first"),
        tag("input", type="search", id="query", placeholder="search ( / )", aria_label="Search samples"),
        tag("span", id="found", aria_live="polite"),
        class_="controls",
    )


def _named(result: Result) -> str:
    return f"{result.name} · {result.summary['protocol']['name']} · {result.summary['mode']}"


def _card(
    sample_id: str,
    sample: Mapping[str, Any],
    results: Sequence[Result],
    values: Sequence[Mapping[str, Mapping[str, float]]],
    metrics: Sequence[str],
) -> Markup:
    numbers = [[by_metric.get(metric, {}).get(sample_id) for metric in metrics] for by_metric in values]
    rounded = [[None if value is None else round(value, 4) for value in row] for row in numbers]
    references = next((one for one in (_picture(r, f"{sample_id}.references") for r in results) if one), None)
    shown: dict[tuple[str, str], list[tuple[Result, Markup]]] = {}  # the same videos by several protocols, once
    for result, row in zip(results, numbers, strict=True):
        if any(key[0] == sample_id for key in result.values[result.metrics[0]]):
            said = [
                tag("span", label(metric).rstrip(" ↑↓"), " ", tag("b", number(value)), data_metric=i)
                for i, (metric, value) in enumerate(zip(metrics, row, strict=True))
                if value is not None
            ]
            name = tag("span", result.summary["protocol"]["name"])
            drawn = tag("div", name, *(said or [tag("span", "not counted")]), class_="values")
            shown.setdefault((result.name, result.summary["videos"]), []).append((result, drawn))
    words = ", ".join(f"{word} ({kind})" for word, kind in sample.get("words", {}).items())
    return tag(
        "article",
        tag("p", sample.get("prompt", "")),
        tag("img", src=references, alt="references", class_="references") if references else None,
        tag("small", tag("code", sample_id), f" · {words}" if words else None),
        *(_figure(sample_id, name, scored) for (name, _), scored in shown.items()),
        class_="sample",
        data_text=search_text(sample_id, sample.get("prompt", "")),
        data_values=json.dumps(rounded),
    )


def _figure(sample_id: str, name: str, scored: Sequence[tuple[Result, Markup]]) -> Markup:
    """One method's frames, with the values by each protocol."""
    first = scored[0][0]
    strip = _picture(first, video_key(sample_id, first.summary["seeds"][0], first.summary["seeds"]))
    picture = tag("img", src=strip, alt="") if strip else tag("span", "no video", class_="none")
    about = tag("figcaption", tag("strong", name), f" {first.summary['mode']} mode")
    return tag("figure", picture, about, *(values for _, values in scored))


def _picture(result: Result, name: str) -> str | None:
    path = result.folder / PICTURES / f"{name}.jpg"
    return f"data:image/jpeg;base64,{base64.b64encode(path.read_bytes()).decode()}" if path.is_file() else None
