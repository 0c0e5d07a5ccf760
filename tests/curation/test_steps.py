"""The whole pipeline on files of every kind: each clip ends where it belongs, none is lost, and the shards train."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from square_roles import COLOURS, PROFILE, Squares, where

from video_alchemist.curation.clip import Clip, Rejected, Source
from video_alchemist.curation.codes import CODES
from video_alchemist.curation.executors import Inline
from video_alchemist.curation.roles import Roles
from video_alchemist.curation.run import curate, make_stages, summary
from video_alchemist.curation.steps import annotation_steps, background_steps
from video_alchemist.dataset.shards import ShardDataset


def film(word: str = "dog", count: int = 24, speed: float = 1.0, ground: int = 90) -> np.ndarray:
    """(F, 64, 96, 3): a square of the word's colour goes over a grey ground with a gradient."""
    frames = np.full((count, 64, 96, 3), ground, np.uint8) + np.arange(96, dtype=np.uint8)[:, None] // 2
    for i in range(count):
        x = 8 + round(speed * i)
        frames[i, 16:48, x : x + 32] = COLOURS.get(word, (0, 255, 0))
    return frames


@pytest.fixture
def folder(tmp_path: Path, videos) -> Path:
    """Good and bad files, with the code that each should end with as its name."""
    place = tmp_path / "videos; of all 'kinds' 🎬"
    good = videos.write(place / "kept 1.mp4", film())
    recording = film("nothing")
    recording[:] = (0, 255, 0)
    recording[:, ::2, :9] += np.arange(24, dtype=np.uint8)[:, None, None, None] * 9
    cut = np.concatenate([film(count=12), film(count=12, ground=180)])
    for name, frames in {
        "kept 2": film("dog", speed=0.5),
        "no_motion": film(speed=0),
        "not_single_shot": cut,
        "screen_recording": recording,
        "subject_not_found": film("robot"),
        "too_short": film(count=6),
        "too_long": film(count=60, speed=0.2),
        "too_small": film()[:, :24, :40],
        "no_caption": film(),
        "entity_no_subject": film(),
    }.items():
        videos.write(place / f"{name}.mp4", frames)
    (place / "empty_file.mp4").touch()
    (place / "truncated.mp4").write_bytes(good.read_bytes()[:-900])
    (place / "not_a_video.mp4").write_bytes(b"junk" * 99)
    videos.patch_duration(videos.write(place / "absurd_header.mkv", film()), 36_000)
    for path in place.glob("*.m*"):
        path.with_suffix(".txt").write_text('A dog 🐕 runs on the beach, "wow"', encoding="utf-8")
    (place / "no_caption.txt").unlink()
    (place / "entity_no_subject.txt").write_text("A car on a street")
    return place


def test_each_file_ends_with_its_code(folder: Path, tmp_path: Path) -> None:
    """Guards against steps out of order, clips that are lost between them, and a bad file that takes others along."""
    receipts = curate(folder, tmp_path / "out", PROFILE, executor=Inline(), unit_size=6, make_roles=Squares)
    lines = [json.loads(line) for path in sorted((tmp_path / "out").glob("rejects-*")) for line in path.open()]
    told = {line["path"].rpartition(".")[0]: line["code"] for line in lines}
    assert told == {name: name for name in told} and set(told) <= CODES.keys()
    dataset = ShardDataset(tmp_path / "out")
    assert len(dataset) == 2 and len(lines) == 13
    assert dataset.manifest["kept"] == 2 and dataset.manifest["funnel"] == dict.fromkeys(sorted(told), 1)
    assert "annotate: kept 2 of 15 clips" in summary(receipts)
    steps = {line["code"]: line["step"] for line in lines}
    assert (steps["truncated"], steps["no_motion"], steps["subject_not_found"]) == ("probe", "motion", "ground")
    shown = {line["code"] for line in lines if "thumbnail" in line}
    assert shown == {"no_motion", "not_single_shot", "screen_recording", "subject_not_found", "no_caption",
                     "entity_no_subject"}  # fmt: skip


def test_what_is_kept(folder: Path, tmp_path: Path) -> None:
    """Guards against examples whose masks, faces, backgrounds or frames are not those of the video."""
    curate(folder, tmp_path / "out", PROFILE, executor=Inline(), make_roles=Squares)
    dataset = ShardDataset(tmp_path / "out")
    example = dataset.example(0)
    assert example.caption == 'A dog 🐕 runs on the beach, "wow"'
    assert [(one.word, one.kind) for one in example.entities] == [("dog", "subject"), ("beach", "background")]
    assert example.video.shape == (24, 64, 96, 3) and example.fps == 12
    whole = [one for one in example.references if one.view == "whole"]
    assert len(whole) == 3 and len(example.references) == 6, "three pictures of the dog, and its face in each"
    for reference in whole:
        inside = reference.image[reference.image[..., 3] > 0][..., :3]
        assert np.abs(inside.astype(int) - COLOURS["dog"]).max(axis=-1).mean() < 20
    assert example.background is not None and not where(example.background.image[..., :3], "dog").any()
    measures = dataset.record(0)["measures"]
    assert measures["motion"] > 0.3 and measures["screen_recording"] == 0


def test_stages_apart_and_again(folder: Path, tmp_path: Path) -> None:
    """Guards against backgrounds that change the annotation, and against work done twice: same bytes either way."""
    arguments = {"executor": Inline(), "make_roles": Squares, "unit_size": 4}
    curate(folder, tmp_path / "one", PROFILE, only="annotate", **arguments)  # type: ignore[arg-type]
    assert not list((tmp_path / "one").glob("background-*"))
    curate(folder, tmp_path / "one", PROFILE, only="background", **arguments)  # type: ignore[arg-type]
    curate(folder, tmp_path / "two", PROFILE, **arguments)  # type: ignore[arg-type]
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / n).iterdir() if path.is_file()} for n in ("one", "two")
    )
    assert one == two
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "two").glob("*.tar")}
    curate(folder, tmp_path / "two", PROFILE, **arguments)  # type: ignore[arg-type]
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "two").glob("*.tar")}


def test_split_shots(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    curate(
        folder / "not_single_shot.mp4", out, replace(PROFILE, split_shots=True), executor=Inline(), make_roles=Squares
    )
    dataset = ShardDataset(out)
    assert [one.rpartition("-")[0].rpartition("-")[2] for one in dataset.ids] == ["0", "1000"]
    assert {dataset.example(i).video.shape[0] for i in range(2)} == {12}
    assert len({dataset.record(i)["provenance"]["source"] for i in range(2)}) == 1


def test_faces_may_be_hidden(folder: Path, tmp_path: Path) -> None:
    """Guards against faces that remain in examples, in videos that are copied, or in the pictures of rejects."""
    given = [folder / "kept 1.mp4", folder / "subject_not_found.mp4"]
    table = tmp_path / "given.jsonl"
    table.write_text("".join(json.dumps({"path": str(path), "caption": "A dog on the beach"}) + "\n" for path in given))
    for name in ("shown", "hidden"):
        profile = replace(PROFILE, blur_faces=name == "hidden")
        curate(table, tmp_path / name, profile, executor=Inline(), make_roles=Squares)
    shown, hidden = (ShardDataset(tmp_path / name) for name in ("shown", "hidden"))
    assert {one.view for one in shown.example(0).references} == {"whole", "face"}
    assert {one.view for one in hidden.example(0).references} == {"whole"} and hidden.example(0).background is not None
    video, before = hidden.example(0).video, shown.example(0).video
    assert video.shape == before.shape and all((one != other).any() for one, other in zip(video, before, strict=True))
    lines = (tmp_path / "hidden" / "rejects-00000.jsonl").read_text()
    assert "subject_not_found" in lines and "thumbnail" not in lines


def test_text_is_looked_for_where_a_detector_is_named() -> None:
    """Guards against a model that every profile would need, and against results with and without it in one place."""
    profile = replace(PROFILE, models=replace(PROFILE.models, text_detector="db.onnx"))
    names = [step.name for step in annotation_steps(profile, Roles(profile, "no such device"))]
    assert names.index("undesirable") < names.index("text") < names.index("caption")
    with_text, without = make_stages(profile)[0], make_stages(PROFILE)[0]
    assert "text" in with_text.versions and "text" not in without.versions
    assert with_text.config["models"]["text_detector"] == "db.onnx" and "text_detector" not in without.config["models"]
    with pytest.raises(ValueError, match="text_detector: 'db.onnx' is not there"):
        _ = Roles(profile, "cpu").text_detector


def test_lists_of_steps_load_nothing() -> None:
    """Guards against models that are loaded to know a version, and against steps of one name."""
    nothing = Roles(PROFILE, "no such device")
    for steps in (annotation_steps(PROFILE, nothing), background_steps(PROFILE, nothing)):
        names = [step.name for step in steps]
        assert len(set(names)) == len(names)
    assert [step.name for step in annotation_steps(PROFILE, nothing)] == [
        "probe", "decode", "shots", "decode_shots", "motion", "undesirable", "caption", "entities", "ground", "faces",
        "encode",
    ]  # fmt: skip
    probe = annotation_steps(PROFILE, nothing)[0]
    (outcome,) = probe.run([Clip("a", Source("a", "/no/such.mp4"))])
    assert isinstance(outcome, Rejected) and (outcome.code, outcome.transient) == ("no_such_file", True)


def test_addresses_follow_what_matters() -> None:
    """Guards against stale results: a threshold of a stage changes that stage's configuration, and no other's."""
    base, other = (
        make_stages(PROFILE),
        make_stages(replace(PROFILE, background=replace(PROFILE.background, dilation=0.1))),
    )
    assert base[0].config == other[0].config and base[1].config != other[1].config
    stricter = make_stages(replace(PROFILE, min_motion=1.0))
    assert base[0].config != stricter[0].config and base[1].config == stricter[1].config
    assert base[0].config != make_stages(PROFILE, Squares)[0].config
