"""The benchmark's report: tables as in the paper, tests, plots and a gallery (§4.2, Tables 1 and 3, Fig. 5).

OUT/report.html, .md, .json, .csv; `alchemist bench report RESULT... -o OUT`. The page asks nothing of any network. The
paper's rows stand beside ours as reference values, marked as such.
"""

from __future__ import annotations

import base64
import csv
import dataclasses
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from video_alchemist.benchmark import published, report_tables
from video_alchemist.benchmark.report_gallery import gallery
from video_alchemist.benchmark.report_plots import plots
from video_alchemist.benchmark.report_tables import Cell, Grid, given, protocol_name
from video_alchemist.benchmark.results import Result, read_result
from video_alchemist.curation.report import section, table
from video_alchemist.curation.report_svg import Markup, join, tag
from video_alchemist.video import replacing

NOTES = {
    "Comparison": "Table 1. Rows in italics are published: reference values from the paper, measured by its authors.",
    "Ablation": "Table 3. Rows in italics are published: reference values from the paper.",
    "Tests": "Whether a difference is more than chance.",
    "Metrics": "Everything that was measured. An arrow points to the better side.",
}
GRIDS = {
    "Comparison": report_tables.comparison,
    "Ablation": report_tables.ablation,
    "Tests": report_tables.significance,
    "Metrics": report_tables.everything,
}


def write_report(results: Sequence[str | Path], out: str | Path) -> Path:
    """Writes four files into OUT; returns where the page is. The first result is what others are tested against."""
    if not results:
        raise ValueError("no result to report; expected at least one folder that `alchemist bench score` wrote")
    read = _told_apart([read_result(folder) for folder in results])
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    contents = {"md": markdown(read), "json": _json(read), "csv": _csv(read), "html": page(read)}
    for kind, text in contents.items():
        with replacing(out / f"report.{kind}") as temporary:
            temporary.write_text(text, encoding="utf-8")
    return out / "report.html"


def _told_apart(results: Sequence[Result]) -> list[Result]:
    """Results of a group that share a name get that of their folder, too."""
    keys = [(one.name, protocol_name(one.summary), one.summary["mode"]) for one in results]
    if len({one.folder.resolve() for one in results}) < len(results):
        raise ValueError("a result is named twice; expected each once")
    return [
        replace(one, summary={**one.summary, "name": f"{one.name} ({one.folder.resolve().name})"})
        if keys.count(key) > 1
        else one
        for one, key in zip(results, keys, strict=True)
    ]


# ------------------------------------------------------------------------------------------------------------------
# For machines


def _json(results: Sequence[Result]) -> str:
    content = {
        "results": [{**one.summary, "protocol_name": protocol_name(one.summary)} for one in results],
        "tests": [
            {"protocol": protocol, "mode": mode, **dataclasses.asdict(test)}
            for (protocol, _, mode), members in report_tables.groups(results).items()
            for test in report_tables.contrasts(members)
        ],
        "published": {"source": published.SOURCE, "rows": [dataclasses.asdict(row) for row in published.ROWS]},
    }
    return json.dumps(content, indent=1, ensure_ascii=False, default=dict) + "\n"


def _csv(results: Sequence[Result]) -> str:
    """A line a mean; `origin` tells what was measured from what the paper says, `in_paper` its metrics from ours."""
    names = "origin method references mode protocol metric in_paper mean low high num_ids between_seeds undefined"
    stream = io.StringIO()
    writer = csv.DictWriter(stream, names.split(), lineterminator="\n", restval="")
    writer.writeheader()
    for one in results:
        about = {"origin": "measured", "method": one.name, "references": given(one), "mode": one.summary["mode"]}
        about["protocol"] = protocol_name(one.summary)
        for metric, said in one.summary["metrics"].items():
            writer.writerow({**about, "metric": metric, "in_paper": _in_paper(metric), **said})
    for row in published.ROWS:
        about = {"origin": f"{published.MARK}, {row.table}", "method": row.method, "mode": row.mode}
        about["references"] = report_tables.GIVEN[row.variant]
        for metric, value in row.values.items():
            writer.writerow({**about, "metric": metric, "in_paper": _in_paper(metric), "mean": value})
    return stream.getvalue()


def _in_paper(metric: str) -> str:
    return "yes" if metric in published.COLUMNS else "no"


# ------------------------------------------------------------------------------------------------------------------
# Markdown


def markdown(results: Sequence[Result]) -> str:
    lines = ["# MSRVTT-Personalization", ""]
    lines += [f"> {warning}" for warning in report_tables.warnings(results)] + [""]
    for title, build in GRIDS.items():
        grids = build(results)
        if grids:
            lines += [f"## {title}", "", NOTES[title], ""]
        for grid in grids:
            lines += [f"### {grid.title}", "", grid.text, "", *_markdown_table(grid), ""]
    lines += ["## Provenance", "", *(f"- {line}" for line in _provenance_lines(results)), ""]
    return "\n".join(lines)


def _markdown_table(grid: Grid) -> list[str]:
    heads = [f"{name} ({over})" if over else name for name, over in grid.heads]
    lines = [_pipes(heads), _pipes(["---", *["---:"] * (len(heads) - 1)])]
    for line in grid.lines:
        mark = "*" if line.published else ""
        lines.append(_pipes([f"{mark}{line.label}{mark}", *map(_markdown_cell, line.cells)]))
    return lines


def _pipes(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _markdown_cell(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.strong else cell.text
    return f"{text} ({cell.small})" if cell.small else text


def _provenance_lines(results: Sequence[Result]) -> list[str]:
    return [
        f"{one.name}: {one.summary['mode']} mode, {protocol_name(one.summary)}, seeds {one.summary['seeds']}, data "
        f"{one.summary['data']['source']} {one.summary['data']['fingerprint'][:12]}, models "
        f"{', '.join(f'{role} {name}' for role, name in one.summary['models'].items()) or 'none'}, "
        f"inputs {one.summary['inputs_sha256'][:12]}"
        for one in results
    ] + [f"Published rows: {published.SOURCE}"]


# ------------------------------------------------------------------------------------------------------------------
# The page


def page(results: Sequence[Result]) -> str:
    """The whole page; the same results give the same bytes."""
    template = files(__package__).joinpath("report_page.html").read_text("utf-8")
    script = files(__package__).joinpath("report_page.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()  # no other script may run
    built = {title: build(results) for title, build in GRIDS.items()}
    sections = {title: _tables(title, grids) for title, grids in built.items() if grids}
    sections |= {"Plots": plots(results), "Gallery": gallery(results), "Provenance": _provenance(results)}
    links = [tag("a", title, href=f"#{title.lower()}") for title in sections]
    bar = tag("div", tag("nav", *links, aria_label="Sections"), class_="tools")
    body = tag("main", _header(results), bar, *sections.values())
    return Template(template).substitute(body=body, script=script, script_hash=f"sha256-{digest}")


def _header(results: Sequence[Result]) -> Markup:
    figures = [
        ("results", f"{len(results):,}"),
        ("samples", f"{max(one.summary['counts']['expected'] // len(one.summary['seeds']) for one in results):,}"),
        ("videos", f"{sum(one.summary['counts']['found'] for one in results):,}"),
        ("metrics", f"{len({metric for one in results for metric in one.metrics})}"),
        ("protocols", ", ".join(sorted({one.summary["protocol"]["name"] for one in results}))),
    ]
    listed = [tag("div", tag("dt", name), tag("dd", value)) for name, value in figures]
    said = [tag("p", warning, class_="warning") for warning in report_tables.warnings(results)]
    return tag("header", tag("h1", "MSRVTT-Personalization"), *said, tag("dl", *listed, class_="headline"))


def _tables(title: str, grids: Sequence[Grid]) -> Markup:
    drawn = [tag("div", tag("h3", grid.title), tag("small", grid.text), _table(grid), class_="grid") for grid in grids]
    return section(title, NOTES[title], tag("div", *drawn, class_="grids"))


def _table(grid: Grid) -> Markup:
    overs = [over for _, over in grid.heads]
    columns: list[tuple[object, str | None]] = []
    for i, (name, over) in enumerate(grid.heads):
        first = bool(over) and over != overs[i - 1]
        head = join([tag("span", over if first else "", class_="over") if any(overs) else None, name])
        words = i == 0 or name == "references"
        columns.append((head, "words" if words else "number first" if first else "number"))
    rows = [("published" if line.published else None, (line.label, *map(_cell, line.cells))) for line in grid.lines]
    return table(columns, rows, class_="means")


def _cell(cell: Cell) -> Markup:
    text = tag("strong", cell.text) if cell.strong else cell.text
    return join([text, tag("small", cell.small) if cell.small else None])


def _provenance(results: Sequence[Result]) -> Markup:
    columns: list[tuple[object, str | None]] = [
        (name, None) for name in ("result", "mode", "protocol", "seeds", "data", "models", "inputs")
    ]
    rows: list[tuple[str | None, Sequence[object]]] = []
    for one in results:
        summary: dict[str, Any] = one.summary
        models = [tag("div", f"{role} ", tag("code", name)) for role, name in summary["models"].items()]
        data = summary["data"]
        cells = (
            one.name,
            summary["mode"],
            protocol_name(summary),
            ", ".join(map(str, summary["seeds"])),
            join([f"{data['source']} ", tag("code", data["fingerprint"][:12])]),
            join(models),
            tag("code", summary["inputs_sha256"][:12]),
        )
        rows.append((None, cells))
    return section("Provenance", f"What went in. Published rows: {published.SOURCE}.", table(columns, rows))
