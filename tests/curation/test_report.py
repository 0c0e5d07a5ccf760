"""The report tells the numbers that the shards hold, shows nobody's text as code, and reads the same every time."""

from __future__ import annotations

import base64
import functools
import io
import json
import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from video_alchemist.curation.report import PAPER_SHARE, span, write_report
from video_alchemist.curation.report_facts import Facts, gather
from video_alchemist.dataset.masks import encode_mask
from video_alchemist.dataset.shards import take_down, write_backgrounds, write_manifest, write_shard
from video_alchemist.emojiworld.assets import load_assets
from video_alchemist.emojiworld.captions import BACKGROUND, caption
from video_alchemist.emojiworld.files import REFERENCE_FRAMES, numbered_scene
from video_alchemist.emojiworld.render import render

SIZE = (96, 64)
TRICKY = 'Say "hi" & <script>alert(1)</script> 🦊 {$body}'


def jpeg(picture: torch.Tensor) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def world_clips(num_clips: int, size: tuple[int, int] = SIZE) -> list[dict[str, Any]]:
    """Clips as curation writes them, from the true masks of EmojiWorld."""
    assets = load_assets()
    scenes = [numbered_scene(assets, 5, number, "train") for number in range(num_clips)]
    rendered = render(scenes, assets, torch.tensor(REFERENCE_FRAMES), (size[1], size[0]))
    rng = np.random.default_rng(0)
    clips = []
    for b, scene in enumerate(scenes):
        text, entities, actors = caption(scene, assets)
        references = []
        for row, actor in enumerate(actors):
            for frame in range(3):
                if actor == BACKGROUND or not rendered.masks[b, actor, frame].any():
                    continue
                face = rendered.faces[b, actor, frame].tolist()
                references.append({
                    "entity": row, "frame": frame, "box": rendered.boxes[b, actor, frame].tolist(),
                    "detection_score": round(float(rng.uniform(0.5, 0.95)), 3), "mask_score": 0.95,
                    "mask": encode_mask(rendered.masks[b, actor, frame].numpy()),
                    "face": None if face[0] != face[0] else face, "face_score": 0.0 if face[0] != face[0] else 0.9,
                })  # fmt: skip
        clips.append({
            "record": {
                "id": f"clip{b:03d}-0-1400", "caption": text,
                "entities": [
                    {"word": e.word, "kind": e.kind, "span": list(e.span), "occurrence": 0} for e in entities
                ],
                "references": references, "fps": 12.0, "num_frames": 12 + 12 * (b % 3), "size": list(size),
                "measures": {"motion": float(rng.gamma(2, 1.5)), "still_foreground": float(rng.beta(1, 12))},
                "perceptual_hash": f"{int(rng.integers(2**63)):016x}",
                "provenance": {
                    "source": f"clip{b // 2:03d}", "path": f"videos/clip {b};.mp4", "start": 0.0, "end": 1.4,
                    "license": ("CC-BY-4.0", "CC-BY-4.0", "")[b % 3], "profile": "emojiworld",
                    "models": {"detector": "emojiworld/detector", "segmenter": "emojiworld/segmenter"},
                },
            },
            "frames": [jpeg(rendered.video[b, frame]) for frame in range(3)],
            "background": jpeg(rendered.background[b]),
        })  # fmt: skip
    return clips


def write_folder(
    folder: Path, clips: Sequence[Mapping[str, Any]], rejects: Sequence[Mapping[str, Any]], receipts: Sequence[Any]
) -> Path:
    """A folder as `alchemist curate` leaves it: two shards, rejects, backgrounds of two clips in three, receipts."""
    folder.mkdir(parents=True, exist_ok=True)
    half = len(clips) // 2
    for number, part in enumerate((clips[:half], clips[half:])):
        files = {
            clip["record"]["id"]: {f"f{i}.jpg": frame for i, frame in enumerate(clip["frames"])} | {"mp4": b"..."}
            for clip in part
        }
        write_shard(folder, number, [clip["record"] for clip in part], files)
        tried = {clip["record"]["id"]: clip["background"] for i, clip in enumerate(part) if i % 3}
        write_backgrounds(folder, number, dict(list(tried.items())[1:]))
        log = [{"id": one, "code": "", "measures": {}} for one in tried]
        log[0] |= {"code": "background_not_clean", "source": log[0]["id"], "detail": "fox: 0.61", "transient": False}
        (folder / f"background-{number:05d}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
        lines = rejects[number::2]
        (folder / f"rejects-{number:05d}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    funnel = {code: sum(line["code"] == code for line in rejects) for code in {line["code"] for line in rejects}}
    write_manifest(folder, {0: half, 1: len(clips) - half}, funnel=funnel)
    names = [f".work/{receipt['stage']}-0a1b/unit-{i:05d}.receipt.json" for i, receipt in enumerate(receipts)]
    for name, receipt in zip(names, receipts, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(receipt))
    (folder / ".work" / "published.json").write_text(json.dumps({"files": [], "receipts": names}))
    stale = folder / ".work" / "annotate-beef" / "unit-00000.receipt.json"  # of an earlier configuration
    stale.parent.mkdir()
    stale.write_text(json.dumps({"stage": "annotate", "clips": 10**9, "seconds": {"probe": 1e9}}))
    return folder


def reject(number: int, step: str, code: str, **more: Any) -> dict[str, Any]:
    name = f"raw{number:03d}"
    return {"id": name, "step": step, "code": code, "detail": "", "transient": False, "source": name} | more


def rejected(thumbnail: bytes) -> list[dict[str, Any]]:
    """12 lines: 1 too short, 8 of several shots, 2 without a subject, 1 to be tried again."""
    picture = {"path": "a b;.mp4", "thumbnail": base64.b64encode(thumbnail).decode()}
    return [
        reject(0, "probe", "too_short", detail=TRICKY, path='"><script>.mp4'),
        *[reject(i, "shots", "not_single_shot", **picture) for i in range(1, 9)],
        *[reject(i, "entities", "entity_no_subject", caption=TRICKY, **picture) for i in (9, 10)],
        reject(11, "entities", "io_error", transient=True),
    ]


RECEIPTS = [
    {"stage": "annotate", "clips": 14, "seconds": {"read": 0, "probe": 1, "shots": 5, "entities": 0.5, "write": 1.5}},
    {"stage": "annotate", "clips": 10, "seconds": {"read": 0, "probe": 1, "shots": 3, "entities": 0.5, "write": 1.5}},
    {"stage": "background", "clips": 8, "seconds": {"read": 0.5, "inpaint": 6, "write": 0.5}},
]  # fmt: skip


@functools.cache
def known_clips() -> list[dict[str, Any]]:
    clips = world_clips(12)
    clips[3]["record"] |= {"caption": f"{TRICKY} {clips[3]['record']['caption']}"}
    offset = len(TRICKY) + 1
    for entity in clips[3]["record"]["entities"]:
        entity["span"] = [place + offset for place in entity["span"]]
    clips[7]["record"]["perceptual_hash"] = clips[2]["record"]["perceptual_hash"]
    return clips


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curated") / "my shards"
    return write_folder(folder, known_clips(), rejected(known_clips()[0]["frames"][1]), RECEIPTS)


@pytest.fixture(scope="module")
def page(shards: Path) -> str:
    path = write_report(shards)
    assert path == shards / "report.html"
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def facts(shards: Path) -> Facts:
    return gather(shards)


class Reader(HTMLParser):
    """Every element with its attributes and its own text; asserts that all elements are closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        element = (name, dict(attributes), [""])
        self.elements.append(element)
        if name not in ("meta", "input", "img"):
            self.open.append(element)

    def handle_endtag(self, name: str) -> None:
        assert self.open and self.open.pop()[0] == name, name

    def handle_data(self, text: str) -> None:
        for element in self.open:
            element[2][0] += text

    def texts(self, name: str, **attributes: str) -> list[str]:
        return [own[0] for one, held, own in self.elements if one == name and attributes.items() <= held.items()]


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the rows of a section's tables."""
    section = page.partition(f'<h2 id="{heading.lower()}">')[2].partition("</section>")[0]
    return [Reader(row).texts("td") for row in re.findall("<tr.*?</tr>", section) if "<td" in row]


def test_funnel_counts_every_clip_once(page: str, facts: Facts) -> None:
    """Guards against a funnel that does not add up: 24 seen = 12 kept + 12 rejected, step by step."""
    assert (facts.seen, facts.kept) == (24, 12)
    assert [row[:6] for row in rows(page, "Funnel")] == [
        ["probe", "", "1", "4.2 %", "23", "95.8 %"],
        ["too_short", "shorter than the profile wants", "1", "4.2 %", "", ""],
        ["shots", "", "8", "33.3 %", "15", "62.5 %"],
        ["not_single_shot", "several shots", "8", "33.3 %", "", ""],
        ["entities", "", "3", "12.5 %", "12", "50.0 %"],
        ["entity_no_subject", "no human and no animal in the caption", "2", "8.3 %", "", ""],
        ["io_error", "a file could not be read or written", "1", "4.2 %", "", ""],
        ["with background", "8 kept clips name a background; all of them stay", "2", "8.3 %", "6", "25.0 %"],
    ]
    assert "Transient rejects (1) are tried again" in page
    assert f"{PAPER_SHARE:.3f}" == "0.435" and "paper 43.5 %" in page and "--mark: 43.548%" in page


def test_cost_is_of_the_published_receipts(page: str) -> None:
    """Guards against times of an earlier configuration, whose receipts still lie there, and against steps of two
    stages added up because they have one name."""
    found = {row[0]: row[1:7] for row in rows(page, "Cost") if row[0] not in ("read", "write")}
    assert found == {
        "annotate": ["24", "14 s", "66.7 %", "583.3", "1.71", "162"],
        "probe": ["", "2 s", "9.5 %", "83.3", "12", "23.1"],
        "shots": ["", "8 s", "38.1 %", "333.3", "3", "92.6"],
        "entities": ["", "1 s", "4.8 %", "41.7", "24", "11.6"],
        "background": ["8", "7 s", "33.3 %", "875.0", "1.14", "243"],
        "inpaint": ["", "6 s", "28.6 %", "750.0", "1.33", "208"],
    }


def test_distributions_are_of_the_records(facts: Facts) -> None:
    """Guards against histograms of something else than <id>.json says."""
    records = [clip["record"] for clip in known_clips()]
    references = [reference for record in records for reference in record["references"]]
    assert sorted(facts.numbers["duration"]) == [1.0] * 4 + [2.0] * 4 + [3.0] * 4
    assert list(facts.numbers)[:2] == ["duration", "motion"]
    assert sorted(facts.numbers["motion"]) == sorted(record["measures"]["motion"] for record in records)
    assert sorted(facts.numbers["detection_score"]) == sorted(one["detection_score"] for one in references)
    assert len(facts.numbers["face_score"]) == sum(one["face"] is not None for one in references)
    assert facts.sizes == {"96×64": 12} and facts.subjects.total() == 12
    kinds = [entity["kind"] for record in records for entity in record["entities"]]
    assert facts.kinds == {kind: kinds.count(kind) for kind in set(kinds)}
    assert sum(number * n for number, n in facts.frames_seen.items()) == len(references)
    shares = [sum(one["mask"]["counts"][1::2]) / (96 * 64) for one in references]
    assert sorted(facts.numbers["share_of_the_frame"]) == sorted(shares)


def test_provenance_and_duplicates(page: str, facts: Facts) -> None:
    """Guards against licences counted by clip where videos are meant, and against look-alikes that go unnoticed."""
    assert facts.licenses == [("CC-BY-4.0", 8, 6, 12.0), ("", 4, 4, 12.0)]
    assert (facts.sources, facts.kept_seconds) == (6, 24.0)
    tables = rows(page, "Provenance")
    assert ["not stated", "4", "4", "12 s"] in tables and ["detector", "emojiworld/detector", "12"] in tables
    assert facts.groups == [["clip002-0-1400", "clip007-0-1400"]]
    assert "<li><code>clip002-0-1400</code><code>clip007-0-1400</code></li>" in page


def test_page_needs_nothing_but_itself_and_escapes_what_it_shows(page: str) -> None:
    """Guards against pictures fetched from elsewhere, and against captions, details and paths that run as script."""
    reader = Reader(page)
    assert [name for name, _, _ in reader.elements].count("script") == 1
    links = [value for _, held, _ in reader.elements for key, value in held.items() if key in ("src", "href")]
    assert links and all(value and value.startswith(("data:image/", "#")) for value in links)
    assert not re.search(r"url\(|@import|https?://", page)
    assert any(TRICKY in text for text in reader.texts("p")) and any(TRICKY in text for text in reader.texts("div"))
    assert len(page) < 2_000_000


def test_sheets_show_what_there_is(page: str) -> None:
    """Guards against clips missing from the sheets, and against a code whose lines crowd out the others."""
    reader = Reader(page)
    assert len(reader.texts("article", **{"class": "clip"})) == 12
    assert page.count("no background") == 6 and page.count('class="mask"') == len(
        [one for clip in known_clips() for one in clip["record"]["references"]]
    )
    codes = [held["data-code"] for _, held, _ in reader.elements if "data-code" in held]
    assert codes == [
        "kept", "not_single_shot", "background_not_clean", "entity_no_subject", "io_error", "too_short",
    ]  # fmt: skip
    assert page.count('class="reject"') == 8 + 2 + 2 + 1 + 1
    words = {entity["word"] for clip in known_clips() for entity in clip["record"]["entities"]}
    linked = {held["data-word"] for name, held, _ in reader.elements if name == "a" and "data-word" in held}
    assert linked and linked <= words


def test_same_shards_same_page(shards: Path, page: str, tmp_path: Path) -> None:
    """Guards against dates, orders of sets and of folders in the page: two reports can be compared byte by byte."""
    assert write_report(shards, tmp_path / "again.html").read_text(encoding="utf-8") == page


def test_taken_down_clips_are_counted_but_not_shown(tmp_path: Path) -> None:
    """Guards against faces that somebody asked to be removed living on in the report."""
    lines = [reject(i, "shots", "not_single_shot", source="clip001", caption="gone") for i in range(3)]
    folder = write_folder(tmp_path / "shards", known_clips(), lines, RECEIPTS[:2])
    take_down(folder, ["clip001"])  # two clips
    facts = gather(folder)
    assert (facts.kept, facts.taken_down, facts.seen, facts.sampled) == (12, 2, 15, 10)
    text = write_report(folder).read_text(encoding="utf-8")
    assert "clip002-0-1400" not in text and "clip003-0-1400" not in text and "gone" not in text
    assert "2 clips were taken down" in text


def test_shards_without_rejects_and_receipts_have_a_page(tmp_path: Path) -> None:
    """Guards against a report that only the engine's own folder can give, e.g. of shards that were copied or rendered;
    what is missing is said."""
    clips = known_clips()
    for number, part in enumerate((clips[:1], [])):
        files = {clip["record"]["id"]: {"f0.jpg": clip["frames"][0], "f1.jpg": clip["frames"][0],
                                        "f2.jpg": clip["frames"][0], "mp4": b"..."} for clip in part}  # fmt: skip
        bare = [{**clip["record"], "provenance": {}, "measures": {}, "perceptual_hash": ""} for clip in part]
        write_shard(tmp_path, number, bare, files)
    write_manifest(tmp_path, {0: 1, 1: 0}, funnel={"too_short": 3})
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert [row[:6] for row in rows(text, "Funnel")] == [
        ["unrecorded", "", "3", "75.0 %", "1", "25.0 %"],
        ["too_short", "shorter than the profile wants", "3", "75.0 %", "", ""],
    ]
    assert "3 rejects are counted in dataset.json, but in no rejects-*.jsonl" in text
    assert "No receipts" in text and "No two kept clips" in text


def test_no_clips_at_all(tmp_path: Path) -> None:
    """Guards against a division by the number of clips: nothing kept is when the report is needed most."""
    write_shard(tmp_path, 0, [], {})
    write_manifest(tmp_path, {0: 0})
    Reader(write_report(tmp_path).read_text(encoding="utf-8"))
    (tmp_path / "rejects-00000.jsonl").write_text(json.dumps(reject(0, "probe", "too_short")) + "\n")
    write_manifest(tmp_path, {0: 0}, funnel={"too_short": 1})
    assert rows(write_report(tmp_path).read_text(encoding="utf-8"), "Funnel")[0][:5] == [
        "probe",
        "",
        "1",
        "100.0 %",
        "0",
    ]


def test_folder_without_shards_is_refused(tmp_path: Path) -> None:
    """Guards against an empty page for a mistyped folder."""
    with pytest.raises(ValueError, match="holds no dataset.json"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(("seconds", "text"), [(0.25, "0.25 s"), (119, "119 s"), (180, "3 min"), (9000, "2.5 h")])
def test_times_are_read_at_a_glance(seconds: float, text: str) -> None:
    assert span(seconds) == text
