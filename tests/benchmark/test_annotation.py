"""The authors' annotation: read from a folder or a zip, and refused by file and field where it is broken."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from video_alchemist.benchmark.annotation import Annotations


def info(**changes: Any) -> dict[str, Any]:
    return {
        "video": "video7.mp4",
        "resolution": [64, 48],
        "timestamp": ["00:00:01.000", "00:01:02.500"],
        "caption": "A man leads a horse through a forest.",
        "word_tags": {"subject": ["man"], "object": ["horse"], "background": ["forest"], "subject_with_face": ["man"]},
        **changes,
    }


def entry(box: list[int], frame: int = 1, is_face: bool = False, mask: Any = None) -> dict[str, Any]:
    mask = np.ones((box[3] - box[1], box[2] - box[0]), np.uint8) if mask is None else mask
    return {"filename": f"frame{frame}.jpg", "box_xyxy": box, "mask": mask, "is_face_crop": is_face}


def masks(**changes: Any) -> dict[str, Any]:
    man = [entry([2, 4, 22, 44]), entry([4, 4, 24, 44], 2), entry([6, 6, 14, 14], 2, is_face=True)]
    return {"man": man, "horse": [entry([30, 10, 62, 46], 3)], **changes}


def write(folder: Path, info: Any, masks: Any, name: str = "video7_0") -> Annotations:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.vid_info.json").write_text(json.dumps(info) if not isinstance(info, str) else info)
    contents = masks if isinstance(masks, bytes) else gzip.compress(pickle.dumps(masks))
    (folder / f"{name}.word_tags_masks.pkl.gz").write_bytes(contents)
    return Annotations(folder)


def test_a_sample_is_read(tmp_path):
    """Guards against times, boxes or faces that end up at another word or frame."""
    write(tmp_path, info(), masks(), "b")
    annotations = write(tmp_path, info(), masks(), "a")
    assert annotations.names == ["a", "b"]
    one = annotations.read("a")
    assert (one.start, one.end, one.resolution, one.video) == (1.0, 62.5, (64, 48), "video7.mp4")
    assert [(cut.frame, cut.box, cut.is_face) for cut in one.cuts["man"]] == [
        (0, (2, 4, 22, 44), False), (1, (4, 4, 24, 44), False), (1, (6, 6, 14, 14), True),
    ]  # fmt: skip
    assert one.cuts["horse"][0].mask.shape == (36, 32) and one.cuts["horse"][0].mask.all()


def test_a_zip_is_the_folder(tmp_path):
    """The release holds a zip, with a folder in it, and what a Mac may have added."""
    write(tmp_path / "folder", info(), masks())
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in (tmp_path / "folder").iterdir():
            archive.write(path, f"msrvtt_personalization_annotation/{path.name}")
            archive.writestr(f"__MACOSX/._{path.name}", b"x")
    zipped, plain = Annotations(tmp_path / "a.zip"), Annotations(tmp_path / "folder")
    assert zipped.names == plain.names and zipped.sha256 == plain.sha256
    assert np.array_equal(zipped.read("video7_0").cuts["man"][0].mask, plain.read("video7_0").cuts["man"][0].mask)


def test_masks_are_trimmed_at_the_border(tmp_path):
    """A box may overhang the frame at the right and below; its mask, of either size, is cut there from the top left."""
    overhanging = np.arange(12 * 13).reshape(12, 13) % 2
    for mask in (overhanging, overhanging[:10, :10], overhanging.tolist()):
        horse = [entry([54, 38, 67, 50], mask=mask)]
        cut = write(tmp_path, info(), masks(horse=horse)).read("video7_0").cuts["horse"][0]
        assert cut.box == (54, 38, 64, 48) and np.array_equal(cut.mask, overhanging[:10, :10])


def test_the_last_of_two_entries_counts(tmp_path):
    """Both would have one file name in the authors' folders, where the second overwrites the first."""
    horse = [entry([30, 10, 62, 46], 3), entry([0, 0, 8, 8], 3)]
    assert [cut.box for cut in write(tmp_path, info(), masks(horse=horse)).read("video7_0").cuts["horse"]] == [
        (0, 0, 8, 8)
    ]


TAGS = info()["word_tags"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"video": None}, "vid_info.json: video is None"),
        ({"resolution": [64]}, r"resolution is \[64\]; expected \[width, height\]"),
        ({"resolution": [64, 10**9]}, "resolution is"),
        ({"timestamp": ["00:00:01", "00:00:02"]}, "timestamp '00:00:01'; expected HOURS:MINUTES:SECONDS.FRACTION"),
        ({"timestamp": ["00:00:03.000", "00:00:02.000"]}, "start < end"),
        ({"caption": ""}, "caption is ''"),
        ({"word_tags": {**TAGS, "object": "horse"}}, "word_tags.object is 'horse'; expected a list"),
        ({"word_tags": {**TAGS, "background": []}}, "word_tags.background is empty"),
        ({"word_tags": {**TAGS, "subject_with_face": ["boy"]}}, "subject_with_face has 'boy'"),
        ({"word_tags": {**TAGS, "object": ["horses"]}}, "pkl.gz: no 'horses'.*did you mean 'horse'"),
    ],
)
def test_broken_info_names_file_and_field(tmp_path, changes, message):
    """The authors' scripts stop at these in the middle of hours, with an index or a key."""
    with pytest.raises(ValueError, match=message):
        write(tmp_path, info(**changes), masks()).read("video7_0")


@pytest.mark.parametrize(
    ("horse", "message"),
    [
        ([], "'horse' has no picture but faces"),
        ([entry([30, 10, 62, 46], is_face=True)], "'horse' has no picture but faces"),
        ([entry([30, 10, 62, 46], 4)], "entry 0: filename is 'frame4.jpg'"),
        ([entry([-1, 10, 62, 46])], "entry 0: box_xyxy"),
        ([entry([30, 10, 62.5, 46], mask=[[1]])], "box_xyxy"),
        ([entry([30, 10, 62, 46], mask=np.ones((30, 32)))], "mask is 30 x 32; expected its box's 36 x 32"),
        ([entry([30, 10, 33, 12], mask=[[1, 2, 0], [1, 0, 1]])], "other values than 0 and 1"),
        ([entry([30, 10, 33, 12], mask=[[1, 1, 0], [1, 0]])], "rows of equal length"),
        ([entry([30, 10, 33, 12], mask=np.zeros((2, 3)))], "mask is empty"),
        ({"frame1.jpg": 1}, "is a dict; expected a list"),
    ],
)
def test_broken_masks_name_word_and_entry(tmp_path, horse, message):
    """Guards against masks that are pasted askew, or boxes that Python's slices read backwards."""
    with pytest.raises(ValueError, match=f"word_tags_masks.pkl.gz.*{message}"):
        write(tmp_path, info(), masks(horse=horse)).read("video7_0")


class Evil:
    def __reduce__(self) -> tuple:
        return os.system, ("touch owned",)


def test_damaged_and_malicious_files(tmp_path, monkeypatch):
    """What comes from the net must not run, nor fill the memory, and is named."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("video_alchemist.benchmark.annotation.MAX_BYTES", 2**20)
    folder = tmp_path / "folder"
    for contents, message in (
        (gzip.compress(pickle.dumps(masks(man=[Evil()]))), "a pickle with posix.system"),
        (gzip.compress(bytes(2**21)), "more than 1048576 bytes when unpacked"),
        (gzip.compress(pickle.dumps(masks()))[:-30], "pkl.gz: "),
        (b"not gzip", "pkl.gz: "),
    ):
        with pytest.raises(ValueError, match=message):
            write(folder, info(), contents).read("video7_0")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    with pytest.raises(ValueError, match="vid_info.json: .*expected a JSON object"):
        write(folder, "{", masks()).read("video7_0")
    write(tmp_path / "other", info(), masks())
    (tmp_path / "other/video7_0.word_tags_masks.pkl.gz").unlink()
    with pytest.raises(ValueError, match="video7_0.word_tags_masks.pkl.gz is missing"):
        Annotations(tmp_path / "other").read("video7_0")
    for place in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(ValueError, match="expected the"):
            Annotations(place)
