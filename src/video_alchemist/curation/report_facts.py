"""The numbers and samples of the curation report, gathered from a folder of shards.

Counts are of everything; distributions, words and contact sheets are of clips drawn by the hash of their id, at most
SAMPLE of them (Fig. 8: "We randomly sample 10k videos"), so that the report on millions of clips takes minutes.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from video_alchemist.curation.codes import CODES
from video_alchemist.curation.manifest import WORK
from video_alchemist.curation.report_sheets import Kept
from video_alchemist.dataset.shards import FRAMES, ShardDataset, buried_sources

SAMPLE = 10_000
SHEET = 24  # kept clips on the contact sheet
REJECT_SHEET = 8  # of every code
UNRECORDED = "unrecorded"  # the step of rejects that only the manifest counts


@dataclass
class Facts:
    """What the page tells. seen = kept + rejected; clips taken down later count as kept, but are not shown."""

    name: str
    warnings: list[str] = field(default_factory=list)
    kept: int = 0
    taken_down: int = 0
    sources: int = 0
    kept_seconds: float = 0.0
    steps: list[str] = field(default_factory=list)
    rejects: Counter[tuple[str, str]] = field(default_factory=Counter)  # (step, code)
    backgrounds: Counter[str] = field(default_factory=Counter)  # of kept clips: code, "" for a clean picture
    transient: Counter[str] = field(default_factory=Counter)  # code
    reject_sheet: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)  # code -> lines, most frequent first
    sampled: int = 0
    numbers: dict[str, list[float]] = field(default_factory=dict)
    sizes: Counter[str] = field(default_factory=Counter)
    subjects: Counter[int] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    frames_seen: Counter[int] = field(default_factory=Counter)
    words: Counter[tuple[str, str]] = field(default_factory=Counter)  # (word, kind)
    models: Counter[tuple[str, str]] = field(default_factory=Counter)  # (role, id)
    licenses: list[tuple[str, int, int, float]] = field(default_factory=list)  # name, clips, sources, seconds
    groups: list[list[str]] = field(default_factory=list)
    sheet: list[Kept] = field(default_factory=list)
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)  # stage -> step -> of one worker
    timed: Counter[str] = field(default_factory=Counter)  # stage -> clips

    @property
    def seen(self) -> int:
        return self.kept + self.rejects.total()

    def code_count(self, code: str) -> int:
        return sum(n for (_, other), n in self.rejects.items() if other == code) + self.backgrounds[code]

    def meaning(self, code: str) -> str:
        """ "" for codes of other versions."""
        return CODES[code].meaning if code in CODES else ""


def gather(shards: Path) -> Facts:
    """Everything the page tells about a folder of shards."""
    dataset = ShardDataset(shards)
    facts = Facts(shards.resolve().name, kept=dataset.manifest["kept"])
    facts.taken_down = facts.kept - len(dataset)
    add_receipts(facts, _receipts(shards))
    add_rejects(facts, _lines(shards, "rejects-*.jsonl"), set(buried_sources(shards)))
    add_backgrounds(facts, _lines(shards, "background-*.jsonl"), set(buried_sources(shards)))
    check_funnel(facts, dataset.manifest["funnel"])
    add_index(facts, dataset)
    drawn = heapq.nsmallest(SAMPLE, range(len(dataset)), key=lambda position: draw(dataset.ids[position]))
    add_records(facts, map(dataset.record, drawn))
    facts.sheet = [_kept(dataset, position) for position in drawn[:SHEET]]
    return facts


def draw(clip_id: str) -> bytes:
    """A key to draw clips by: random, and the same whenever and wherever the page is made."""
    return hashlib.sha256(clip_id.encode()).digest()


def _kept(dataset: ShardDataset, position: int) -> Kept:
    frames = tuple(dataset.member("examples", position, suffix) for suffix in FRAMES)
    has_background = dataset.index["background"][position].as_py() is not None
    return Kept(dataset.record(position), frames, dataset.member("background", position) if has_background else None)


def _lines(shards: Path, pattern: str) -> Iterator[dict[str, Any]]:
    for path in sorted(shards.glob(pattern)):
        with path.open(encoding="utf-8") as file:
            yield from map(json.loads, file)


def _receipts(shards: Path) -> list[dict[str, Any]]:
    """Those that the published shards stand on; none where the shards were copied without the engine's folder."""
    published = shards / WORK / "published.json"
    if not published.exists():
        return []
    names = json.loads(published.read_text(encoding="utf-8"))["receipts"]
    return [json.loads((shards / name).read_text(encoding="utf-8")) for name in names]


# ------------------------------------------------------------------------------------------------------------------
# What was rejected, and what it cost


def add_receipts(facts: Facts, receipts: Iterable[Mapping[str, Any]]) -> None:
    """Seconds by stage and step, in the order in which they run, and the funnel's steps: those of the first stage."""
    for receipt in receipts:
        stage = facts.seconds.setdefault(receipt["stage"], {})
        facts.timed[receipt["stage"]] += receipt["clips"]
        for step, seconds in receipt["seconds"].items():
            stage[step] = stage.get(step, 0.0) + seconds
    first = next(iter(facts.seconds.values()), {})
    facts.steps = [step for step in first if step not in ("read", "write")]


def add_rejects(facts: Facts, lines: Iterable[Mapping[str, Any]], hidden: set[str]) -> None:
    """Counts by step and code, and some lines to show, but none of a source in `hidden`."""
    drawn: _Drawn = defaultdict(list)
    for line in lines:
        facts.rejects[line["step"], line["code"]] += 1
        facts.transient[line["code"]] += bool(line["transient"])
        _draw_line(drawn, line, hidden)
    facts.steps = [*dict.fromkeys(step for step, _ in facts.rejects if step not in facts.steps), *facts.steps]
    _show(facts, drawn)


def add_backgrounds(facts: Facts, lines: Iterable[Mapping[str, Any]], hidden: set[str]) -> None:
    """Kept clips by what became of their background; those that stay without one are shown among the rejects."""
    drawn: _Drawn = defaultdict(list)
    for line in lines:
        facts.backgrounds[line["code"]] += 1
        if line["code"]:
            _draw_line(drawn, line, hidden)
    _show(facts, drawn)


_Drawn = defaultdict[str, list[tuple[tuple[bool, bytes], Mapping[str, Any]]]]  # code -> (key, line)


def _draw_line(drawn: _Drawn, line: Mapping[str, Any], hidden: set[str]) -> None:
    """Keeps of every code the few lines whose keys are smallest: those with a picture, then by the draw."""
    if line["source"] not in hidden:
        keyed = ((not line.get("thumbnail"), draw(line["id"])), line)
        few = heapq.nsmallest(REJECT_SHEET, [*drawn[line["code"]], keyed], key=lambda item: item[0])
        drawn[line["code"]] = few


def _show(facts: Facts, drawn: _Drawn) -> None:
    shown = facts.reject_sheet | {code: [line for _, line in keyed] for code, keyed in drawn.items()}
    facts.reject_sheet = {code: shown[code] for code in sorted(shown, key=lambda code: (-facts.code_count(code), code))}


def check_funnel(facts: Facts, funnel: Mapping[str, int]) -> None:
    """The manifest counts rejects too; what the reject files lack is added, and said."""
    recorded: Counter[str] = Counter()
    for (_, code), n in facts.rejects.items():
        recorded[code] += n
    missing, surplus = Counter(funnel) - recorded, recorded - Counter(funnel)
    if missing:
        facts.warnings.append(
            f"{missing.total():,} rejects are counted in dataset.json, but in no rejects-*.jsonl here."
        )
        facts.rejects.update({(UNRECORDED, code): n for code, n in missing.items()})
        facts.steps.append(UNRECORDED)
    if surplus:
        facts.warnings.append(f"rejects-*.jsonl hold {surplus.total():,} rejects that dataset.json does not count.")


# ------------------------------------------------------------------------------------------------------------------
# What was kept


def add_index(facts: Facts, dataset: ShardDataset) -> None:
    """What the index tells of all clips: sources, licences, clips that look alike."""
    index = dataset.index
    facts.sources = pc.count_distinct(index["source"]).as_py()
    facts.kept_seconds = pc.sum(index["duration"]).as_py() or 0.0
    table = index.group_by("license").aggregate([("id", "count"), ("source", "count_distinct"), ("duration", "sum")])
    columns = (table[name].to_pylist() for name in ("license", "id_count", "source_count_distinct", "duration_sum"))
    facts.licenses = sorted(zip(*columns, strict=True), key=lambda row: (-row[1], row[0]))
    alike = index.filter(pc.is_valid(index["group"])).group_by("group").aggregate([("id", "list")])
    groups = [sorted(group) for group in alike["id_list"].to_pylist() if len(group) > 1]
    facts.groups = sorted(groups, key=lambda group: (-len(group), group))


def add_records(facts: Facts, records: Iterable[Mapping[str, Any]]) -> None:
    """Distributions, words and models of clips (their <id>.json)."""
    numbers: dict[str, list[float]] = defaultdict(list)
    for record in records:
        facts.sampled += 1
        width, height = record["size"]
        entities, provenance = record["entities"], record["provenance"]
        facts.sizes[f"{width}×{height}"] += 1
        facts.subjects[sum(entity["kind"] == "subject" for entity in entities)] += 1
        seen = Counter(reference["entity"] for reference in record["references"])
        for row, entity in enumerate(entities):
            facts.kinds[entity["kind"]] += 1
            facts.words[entity["word"].lower(), entity["kind"]] += 1
            if entity["kind"] != "background":
                facts.frames_seen[seen[row]] += 1
        named = {"profile": provenance.get("profile", ""), **provenance.get("models", {})}
        facts.models.update((role, str(model)) for role, model in named.items() if model)
        numbers["duration"].append(record["num_frames"] / record["fps"])
        for name, value in record.get("measures", {}).items():
            numbers[name].append(value)
        for reference in record["references"]:
            numbers["detection_score"].append(reference["detection_score"])
            numbers["mask_score"].append(reference["mask_score"])
            numbers["share_of_the_frame"].append(sum(reference["mask"]["counts"][1::2]) / (width * height))
            if reference.get("face"):
                numbers["face_score"].append(reference["face_score"])
    order = sorted(numbers, key=lambda name: (name not in ("duration", "motion"), name.endswith("score"), name))
    facts.numbers = {name: numbers[name] for name in order}
