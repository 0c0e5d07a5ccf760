"""What a unit leaves behind: shards that readers understand, rejects that people understand, the same bytes again."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from video_alchemist.curation.background import read_frame
from video_alchemist.curation.clip import Clip, Probe, Rejected, Sighting, Source
from video_alchemist.curation.encode import jpeg
from video_alchemist.curation.pack import (
    finish,
    read_annotations,
    record_of,
    write_annotations,
    write_backgrounds,
)
from video_alchemist.curation.receipts import Receipt
from video_alchemist.dataset.masks import encode_mask
from video_alchemist.dataset.shards import ShardDataset
from video_alchemist.records import Entity

CAPTION = 'A "dog" 🐕 on a beach, dog!'


def clip_of(id: str, background: bool = True, source: Source | None = None) -> Clip:
    mask = np.zeros((48, 64), bool)
    mask[8:40, 16:32] = True
    sighting = Sighting(0, 1, (16, 8, 32, 40), 0.81234567, np.float32(0.95), encode_mask(mask), (18, 8, 30.5, 20), 0.7)
    entities = [Entity("dog", "subject", (3, 6)), Entity("beach", "background", (15, 20))]
    frames = [np.full((48, 64, 3), 50 * i, np.uint8) for i in range(3)]
    source = source or Source(
        id="s-1", path="/home/me/v/a.mp4", license="CC0", video="s", metadata={"path": "v/a.mp4", "url": "https://v/1"}
    )
    return Clip(
        id=id,
        source=source,
        start=1.0,
        end=2.5,
        probe=Probe(64, 48, 12.0, 18, 1.5, "vp9"),
        caption=CAPTION,
        entities=tuple(entities if background else entities[:1]),
        sightings=(sighting,),
        measures={"motion": 3.14159265},
        perceptual_hash="0f" * 8,
        files={**{f"f{i}.jpg": jpeg(frame) for i, frame in enumerate(frames)}, "mp4": b"not looked at"},
    )


def test_record() -> None:
    """Guards against fields that readers miss, machine paths in shards, and numbers that JSON does not know."""
    record = record_of(clip_of("a"), "paper", {"detector": "gd@1"})
    json.dumps(record)
    assert record["entities"][0] == {"word": "dog", "kind": "subject", "span": [3, 6], "occurrence": 0}
    reference = record["references"][0]
    assert (reference["detection_score"], reference["mask_score"], reference["face"]) == (
        0.8123,
        0.95,
        [18, 8, 30.5, 20],
    )
    assert record["size"] == [64, 48] and record["measures"] == {"motion": 3.1416}
    assert record["provenance"] == {
        "source": "s", "path": "v/a.mp4", "start": 1.0, "end": 2.5, "license": "CC0", "profile": "paper",
        "models": {"detector": "gd@1"}, "metadata": {"url": "https://v/1"},
    }  # fmt: skip


def test_shard_can_be_read(tmp_path: Path) -> None:
    """Guards against a writer and a reader that disagree, from the clip to the example."""
    kept = [clip_of("a"), clip_of("b", background=False)]
    write_annotations(tmp_path, 3, kept, [], "paper", {})
    write_backgrounds(
        tmp_path, 3, [replace(clip_of("a"), files={"bg.jpg": jpeg(np.full((48, 64, 3), 9, np.uint8))})], []
    )
    receipt = Receipt("annotate", 3, "", 2, 3, 2, {"no_motion": 1}, 0, {}, {}, [], {})
    finish(tmp_path, [receipt, replace(receipt, stage="background", rejected={"background_not_clean": 7})], {"x": 1})
    manifest = json.loads((tmp_path / "dataset.json").read_text())
    assert (manifest["kept"], manifest["funnel"], manifest["config"]) == (2, {"no_motion": 1}, {"x": 1})
    dataset = ShardDataset(tmp_path)
    example = dataset.example(0, with_video=False)
    assert (example.id, example.caption, example.entities) == ("a", CAPTION, clip_of("a").entities)
    assert example.background is not None and example.background.word == "beach"
    assert {reference.view for reference in example.references} == {"whole", "face"}
    assert dataset.example(1, with_video=False).background is None


def test_backgrounds_start_from_the_shard(tmp_path: Path) -> None:
    """Guards against a second stage that paints something else than the first one saw, or clips without a place."""
    kept = [clip_of("a"), clip_of("b", background=False)]
    write_annotations(tmp_path, 0, kept, [], "paper", {})
    (clip,) = read_annotations(tmp_path, 0)
    assert (clip.id, clip.entities, clip.caption) == ("a", kept[0].entities, CAPTION)
    assert clip.sightings[0].mask == kept[0].sightings[0].mask and clip.sightings[0].face == (18, 8, 30.5, 20)
    framed = read_frame(clip)
    assert isinstance(framed, Clip) and framed.pixels is not None and framed.files == {}
    assert np.abs(framed.pixels.frames[1].astype(int) - 50).max() <= 2


def test_rejects(tmp_path: Path) -> None:
    """Guards against rejects that nobody can find again, and against pictures of millions of them."""
    picture = {"thumbnail.jpg": jpeg(np.zeros((8, 8, 3), np.uint8))}
    still = [
        Rejected(replace(clip_of(f"c{i:02d}"), files=picture), "no_motion", "motion 0", step="motion")
        for i in range(20)
    ]
    crash = Rejected(Clip("d", Source("d", "d;x.mp4", '"A dog"')), "crashed", "the process died thrice", step="decode")
    write_annotations(tmp_path, 0, [], [*still, crash])
    lines = [json.loads(line) for line in (tmp_path / "rejects-00000.jsonl").read_text().splitlines()]
    assert len(lines) == 21 and sum("thumbnail" in line for line in lines) == 8
    last = lines[-1]
    assert (last["id"], last["step"], last["code"], last["caption"], last["path"]) == (
        "d", "decode", "crashed", '"A dog"', "d;x.mp4",
    )  # fmt: skip
    assert (lines[0]["step"], lines[0]["measures"], lines[0]["source"]) == ("motion", {"motion": 3.1416}, "s")


def test_names_that_are_no_unicode(tmp_path: Path) -> None:
    """Guards against a whole unit lost to one file name."""
    odd = Source("o", b"/v/\xff.mp4".decode("utf-8", "surrogateescape"))
    write_annotations(tmp_path, 0, [clip_of("a", source=odd)], [Rejected(Clip("o", odd), "empty_file", step="probe")])
    assert "\ufffd" in json.loads((tmp_path / "rejects-00000.jsonl").read_text())["path"]


def test_log_of_backgrounds(tmp_path: Path) -> None:
    kept = replace(clip_of("b"), files={"bg.jpg": b"x"}, measures={"motion": 1.0, "background_masked": 0.25})
    left = Rejected(clip_of("a"), "background_not_clean", "'dog' is still detected", step="verify")
    write_backgrounds(tmp_path, 0, [kept], [left])
    lines = [json.loads(line) for line in (tmp_path / "background-00000.jsonl").read_text().splitlines()]
    assert [(line["id"], line["code"]) for line in lines] == [("a", "background_not_clean"), ("b", "")]
    assert lines[1]["measures"] == {"background_masked": 0.25}


def test_same_bytes_again(tmp_path: Path) -> None:
    """Guards against times, hosts and the order of sets in what must be byte-identical."""
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        paths = write_annotations(
            tmp_path / name, 0, [clip_of("a")], [Rejected(clip_of("b"), "no_motion")], "p", {"a": "b"}
        )
        made.append({key: path.read_bytes() for key, path in paths.items()})
    assert made[0] == made[1]


def test_unknown_columns_fail_early(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        write_annotations(tmp_path, 0, [replace(clip_of("a"), files={})], [])
    assert Image.open(io.BytesIO(clip_of("a").files["f0.jpg"])).size == (64, 48)
