"""The curation report: what was kept, what was rejected and why, as one HTML page (App. A.1, A.2; Fig. 2, 8).

The page asks nothing of any network: pictures, style and script are in it. `alchemist curate report SHARDS`.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np

from video_alchemist.curation import report_svg as svg
from video_alchemist.curation.report_facts import Facts, gather
from video_alchemist.curation.report_sheets import hue_rules, kept_card, reject_card
from video_alchemist.curation.report_svg import Markup, join, number, tag
from video_alchemist.video import replacing

PAPER_SHARE = 37.8 / 86.8  # App. A.1: "consisting of 86.8M videos"; App. A.2: "comprising 37.8M videos"
UNITS = {"duration": "s"}
SCORES = (0.0, 1.0)
TOP_WORDS = 16
MAX_BARS = 6
MAX_GROUPS = 50

Column = tuple[object, str | None]  # head, class of its cells
Row = tuple[str | None, Sequence[object]]  # class, cells


def write_report(shards: Path, output: Path | None = None) -> Path:
    """Writes the page about a folder of shards, SHARDS/report.html by default; returns where. Atomic."""
    output = output or shards / "report.html"
    text = page(gather(shards))
    with replacing(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return output


def page(facts: Facts) -> str:
    """The whole page; the same facts give the same bytes."""
    template, script = (files(__package__).joinpath(f"report.{kind}").read_text("utf-8") for kind in ("html", "js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()  # no other script may run
    body = tag("main", header(facts), tools(facts), *(build(facts) for build in SECTIONS.values()))
    return Template(template).substitute(
        title=join([facts.name]), hues=hue_rules(), body=body, script=script, script_hash=f"sha256-{digest}"
    )


def header(facts: Facts) -> Markup:
    lost = facts.seen - facts.kept
    figures = [
        ("clips seen", f"{facts.seen:,}", ""),
        ("kept", f"{facts.kept:,}", share(facts.kept, facts.seen)),
        ("rejected", f"{lost:,}", share(lost, facts.seen)),
        ("taken down", f"{facts.taken_down:,}", ""),
        ("videos with kept clips", f"{facts.sources:,}", ""),
        ("kept footage", span(facts.kept_seconds), ""),
        ("computing time", span(sum(sum(steps.values()) for steps in facts.seconds.values())), ""),
    ]
    listed = [
        tag("div", tag("dt", name), tag("dd", value, tag("small", f" {aside}") if aside else None))
        for name, value, aside in figures
    ]
    warnings = [tag("p", warning, class_="warning") for warning in facts.warnings]
    return tag("header", tag("h1", f"Curation of {facts.name}"), *warnings, tag("dl", *listed, class_="headline"))


def tools(facts: Facts) -> Markup:
    """The bar that stays in sight: sections, search, reject code, what is drawn over the frames."""
    links = [tag("a", name, href=f"#{name.lower()}") for name in SECTIONS]
    choices = [("", "all clips"), ("kept", "kept"), *((code, code) for code in facts.reject_sheet)]
    layers = ("boxes", "masks", "faces")
    return tag(
        "div",
        tag("nav", *links, aria_label="Sections"),
        tag("span", id="found", aria_live="polite"),
        tag("input", type="search", id="query", placeholder="search ( / )", aria_label="Search clips"),
        tag("select", *[tag("option", name, value=code) for code, name in choices], id="code", aria_label="Show only"),
        *[tag("label", tag("input", type="checkbox", id=layer, checked=""), layer) for layer in layers],
        class_="tools",
    )


def funnel(facts: Facts) -> Markup:
    """What every step lost, why, and what it left."""
    rows: list[Row] = []
    left = seen = facts.seen
    for step in facts.steps:
        codes = {code: n for (at, code), n in facts.rejects.items() if at == step}
        lost = sum(codes.values())
        left -= lost
        drawn = svg.bar([(left / seen, "kept"), (lost / seen, "lost")], f"{left:,} left, {lost:,} lost")
        rows.append(("step", (step, "", *amount(lost, seen), f"{left:,}", share(left, seen), drawn)))
        for code, n in ranked(codes):
            drawn = svg.bar([(n / seen, "lost")], f"{n:,} lost")
            rows.append(("code", (tag("code", code), facts.meaning(code), *amount(n, seen), "", "", drawn)))
    if facts.backgrounds:
        clean, tried = facts.backgrounds[""], facts.backgrounds.total()
        drawn = svg.bar(
            [(clean / seen, "background"), ((tried - clean) / seen, "lost")], f"{clean:,} clean backgrounds"
        )
        meaning = f"{tried:,} kept clips name a background; all of them stay"
        cells = (*amount(tried - clean, seen), f"{clean:,}", share(clean, seen), drawn)
        rows.append(("step", ("with background", tag("span", meaning, class_="quiet"), *cells)))
    paper = tag("span", f"paper {share(PAPER_SHARE, 1)}")
    columns: list[Column] = [("step, code", None), ("", None)]
    columns += [(name, "number") for name in ("lost", "of seen", "left", "of seen")]
    drawn = table([*columns, (paper, "bars")], rows, class_="funnel", style=f"--mark: {svg.percent(PAPER_SHARE)}")
    text = (
        f"The dashed line is the paper’s share: 37.8M of 86.8M videos, {share(PAPER_SHARE, 1)} (App. A.1, A.2). "
        "A video rejected before it was cut into clips counts as one clip."
    )
    transient = facts.transient.total()
    again = f" Transient rejects ({transient:,}) are tried again by the next run." if transient else ""
    return section("Funnel", text + again, drawn if seen else tag("p", "No clips."))


def distributions(facts: Facts) -> Markup:
    charts = [
        counts_chart("Resolution", facts.sizes, "clips"),
        counts_chart("Subjects in a clip", facts.subjects, "clips"),
        counts_chart("Kinds of entity words", facts.kinds, "words", styled=True),
        counts_chart("Frames an entity was found in", facts.frames_seen, "subjects and objects"),
        *(numbers_chart(name, values) for name, values in facts.numbers.items()),
    ]
    about = "of the kept clips" if facts.sampled == facts.kept else f"of {facts.sampled:,} kept clips drawn at random"
    text = f"Measured {about}. The dashed line is the median; a pale last bar holds everything above it."
    return section("Distributions", text, tag("div", *charts, class_="charts"))


def counts_chart(title: str, counts: Counter, things: str, styled: bool = False) -> Markup:
    """A bar for each count: numbers in their order, names by how frequent they are; the rest in one."""
    total = counts.total()
    numeric = all(isinstance(key, int) for key in counts)
    chosen = sorted(counts.items()) if numeric else ranked(counts)
    bars = [(str(key), n, str(key) if styled else "kept") for key, n in chosen[:MAX_BARS]]
    if rest := sum(n for _, n in chosen[MAX_BARS:]):
        name = f"{chosen[MAX_BARS][0]} and more" if numeric else f"{len(chosen) - MAX_BARS} others"
        bars.append((name, rest, "kept"))
    most = max((n for _, n, _ in bars), default=1)
    rows = [(None, (name, svg.bar([(n / most, style)], f"{n:,}"), *amount(n, total))) for name, n, style in bars]
    drawn = table([("", None), ("", "bars"), ("", "number"), ("", "number quiet")], rows)
    return tag("figure", tag("strong", title), tag("figcaption", f"{total:,} {things}"), drawn)


def numbers_chart(name: str, values: Sequence[float]) -> Markup:
    low, median, high = np.quantile(values, (0.05, 0.5, 0.95)).tolist()
    unit = UNITS.get(name, "")
    middle = f"{number(median)} {unit}".strip()
    text = f"{len(values):,} · median {middle} · 5–95 %: {number(low, 2)}–{number(high, 2)}"
    drawn = svg.histogram(svg.bins(values, SCORES if name.endswith("score") else None), unit, median)
    return tag("figure", tag("strong", name.replace("_", " ").capitalize()), tag("figcaption", text), drawn)


def words(facts: Facts) -> Markup:
    """The word cloud of subjects and objects (Fig. 8), and the most frequent words in figures."""
    placed = svg.cloud({key: n for key, n in facts.words.items() if key[1] != "background"})
    if not placed:
        return section("Words", "No kept clip has a subject or an object word.")
    key = [tag("span", kind, class_=f"key {kind}") for kind in ("subject", "object")]
    rows = [
        (None, (tag("span", word, class_=f"key {kind}"), tag("span", kind, class_="quiet"), f"{n:,}"))
        for (word, kind), n in ranked(facts.words)[:TOP_WORDS]
    ]
    listed = table([("most frequent", None), ("kind", None), ("count", "number")], rows)
    text = join(["Words of the kept clips (Fig. 8); a click shows the clips with a word. ", key[0], " ", key[1]])
    return section("Words", text, tag("div", svg.draw_cloud(placed), listed, class_="words"))


def kept(facts: Facts) -> Markup:
    drawn = (
        ""
        if len(facts.sheet) == facts.kept
        else f"{len(facts.sheet):,} of {facts.kept:,} kept clips, drawn at random: "
    )
    text = (
        f"{drawn}the frames at 5, 50 and 95 % (§3.1) with masks, boxes and faces (white, dashed) in the colour of "
        "their word, and the background without them. Below, of each word: the frames it was found in, mean scores. "
        "A click makes the pictures larger."
    )
    cards = [kept_card(clip) for clip in facts.sheet]
    return section("Kept", text[0].upper() + text[1:], tag("div", *cards, class_="sheet", data_code="kept"))


def rejects(facts: Facts) -> Markup:
    groups = []
    for code, lines in facts.reject_sheet.items():
        count = facts.code_count(code)
        about = f"{count:,} · {share(count, facts.seen)} of the clips seen"
        about += " · the clips stay, without a background" if facts.backgrounds[code] else ""
        about += f" · {facts.transient[code]:,} transient" if facts.transient[code] else ""
        about += f" · {len(lines)} shown" if len(lines) < count else ""
        head = tag("h3", tag("code", code), tag("span", facts.meaning(code), class_="quiet"))
        cards = tag("div", *[reject_card(line) for line in lines], class_="rejects")
        groups.append(tag("div", head, tag("small", about), cards, data_code=code))
    return section("Rejects", "By code, the most frequent first." if groups else "Nothing was rejected.", *groups)


def cost(facts: Facts) -> Markup:
    """Where the time goes, by step, and what a million clips would take at this rate."""
    total = sum(sum(steps.values()) for steps in facts.seconds.values())
    if not total:
        return section("Cost", "No receipts with measured times lie beside these shards.")
    rows: list[Row] = []
    for stage, steps in facts.seconds.items():
        clips = facts.timed[stage]
        for step, seconds in [(stage, sum(steps.values())), *steps.items()]:
            each, whole = seconds / max(clips, 1), step == stage
            rate, hours = number(1 / each) if each else "", number(each * 1e6 / 3600)
            figures = (
                f"{clips:,}" if whole else "",
                span(seconds),
                share(seconds, total),
                f"{1000 * each:,.1f}",
                rate,
                hours,
            )
            drawn = svg.bar([(seconds / total, "rest" if whole else "kept")], share(seconds, total))
            rows.append(("step" if whole else "code", (step, *figures, drawn)))
    names = ("clips", "time", "of all", "ms a clip", "clips/s", "hours for a million")
    drawn = table([("stage, step", None), *((name, "number") for name in names), ("", "bars")], rows, class_="cost")
    text = "Time of one worker over all clips that came into the stage; a late step is cheap where few clips reach it."
    return section("Cost", text, drawn)


def provenance(facts: Facts) -> Markup:
    licenses = [
        (None, (name or "not stated", f"{clips:,}", f"{sources:,}", span(seconds)))
        for name, clips, sources, seconds in facts.licenses
    ]
    models = [(None, (role, name, f"{n:,}")) for (role, name), n in sorted(facts.models.items())]
    figures = [(name, "number") for name in ("clips", "videos", "footage")]
    tables = [
        table([("licence", None), *figures], licenses),
        table([("role", None), ("model", None), ("clips", "number")], models),
    ]
    text = f"{facts.taken_down:,} clips were taken down at the wish of their source; readers pass over them."
    return section("Provenance", text, tag("div", *tables, class_="columns"))


def duplicates(facts: Facts) -> Markup:
    """Groups of clips that look alike by their perceptual hash."""
    if not facts.groups:
        return section("Duplicates", "No two kept clips look alike by their perceptual hash.")
    clips = sum(len(group) for group in facts.groups)
    text = f"{clips:,} kept clips look alike by their perceptual hash, in {len(facts.groups):,} groups."
    text += f" The {MAX_GROUPS} largest:" if len(facts.groups) > MAX_GROUPS else ""
    items = [tag("li", *[tag("code", clip_id) for clip_id in group]) for group in facts.groups[:MAX_GROUPS]]
    return section("Duplicates", text, tag("ol", *items, class_="groups"))


SECTIONS = {
    "Funnel": funnel,
    "Distributions": distributions,
    "Words": words,
    "Kept": kept,
    "Rejects": rejects,
    "Cost": cost,
    "Provenance": provenance,
    "Duplicates": duplicates,
}


def section(title: str, text: str, *children: Markup) -> Markup:
    return tag("section", tag("h2", title, id=title.lower()), tag("p", text, class_="quiet"), *children)


def table(columns: Sequence[Column], rows: Iterable[Row], **attributes: object) -> Markup:
    styles = [style for _, style in columns]
    heads = [tag("th", head, class_=style) for head, style in columns]
    lines = [
        tag("tr", *[tag("td", cell, class_=style) for cell, style in zip(cells, styles, strict=True)], class_=line)
        for line, cells in rows
    ]
    head = tag("thead", tag("tr", *heads)) if any(head for head, _ in columns) else None
    return tag("div", tag("table", head, tag("tbody", *lines), **attributes), class_="wide")


def ranked(counts: dict) -> list:
    """Items, the most frequent first; equally frequent ones by name."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def amount(part: int, whole: int) -> tuple[str, str]:
    """A count and its share, for two cells; empty where there is nothing."""
    return (f"{part:,}", share(part, whole)) if part else ("", "")


def share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""


def span(seconds: float) -> str:
    """A stretch of time in the unit it is best read in."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{number(seconds / size)} {unit}"
    return f"{number(seconds)} s"
