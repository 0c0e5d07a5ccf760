"""What a user points at becomes sources, whatever its names look like."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from video_alchemist.curation.sources import list_sources, source_id

PANDA = """videoID,url,timestamp,caption,matching_score
ab-C_1,https://v/ab,"[['0:00:01.000', '0:00:05.500'], ['0:01:00.000', '0:01:04.000']]",\
"['A dog, ""Rex"".', ""It's a cat 🐈.""]","[0.5, 0.25]"
gone,https://v/gone,"[['0:00:00.000', '0:00:02.000']]","['A cow.']","[0.1]"
"""


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_a_folder_is_searched_in_order_and_ids_do_not_depend_on_it(tmp_path: Path) -> None:
    """Guards against ids that change when a video is added, and against clutter taken for videos."""
    touch(tmp_path / "b" / "two.webm", tmp_path / "a.mp4", tmp_path / "C.MOV", tmp_path / "notes.txt")
    touch(tmp_path / ".cache" / "x.mp4", tmp_path / "._a.mp4")
    before = list_sources(tmp_path)
    assert [Path(source.path).relative_to(tmp_path).as_posix() for source in before] == ["C.MOV", "a.mp4", "b/two.webm"]
    touch(tmp_path / "0.avi")
    assert {source.id for source in before} < {source.id for source in list_sources(tmp_path)}
    assert all(re.fullmatch(r"[\w-]+-[0-9a-f]{8}", source.id, re.ASCII) for source in before)
    assert [source.video for source in before] == [source.id for source in before]


def test_paths_of_all_kinds(tmp_path: Path) -> None:
    """Guards against shells, quotes and non-ASCII letters: ids stay plain and differ, captions stay what they are."""
    names = ["a b;rm -rf.mp4", 'it\'s "q".mp4', "🐈.mp4", "猫.mp4", "犬.mp4", "a.b.mp4", "a_b.mp4", "a b.mp4", "-x.mp4"]
    touch(*(tmp_path / name for name in names))
    (tmp_path / "🐈.txt").write_text('A "cat" 🐈;\n it\'s here\n', encoding="utf-8")
    sources = {Path(source.path).name: source for source in list_sources(tmp_path)}
    ids = [sources[name].id for name in names]
    assert len(set(ids)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", id) and not id.startswith("-") for id in ids)
    assert sources["🐈.mp4"].caption == 'A "cat" 🐈; it\'s here'
    assert sources["猫.mp4"].caption is None


def test_ids_fit_into_a_tar(tmp_path: Path) -> None:
    """Guards against members that USTAR has no room for: 100 characters with times and suffix."""
    id = source_id("x" * 300 + "/" + "長" * 80 + ".mp4", 3599.999, 36000.0)
    assert len(f"{id}-3599999-36000000.f0.jpg") <= 100


def test_a_single_video(tmp_path: Path) -> None:
    touch(tmp_path / "a.mp4")
    (tmp_path / "a.txt").write_text("\ufeffA dog.\n", encoding="utf-8")
    (source,) = list_sources(tmp_path / "a.mp4")
    assert (source.caption, source.start, source.end) == ("A dog.", None, None)
    assert source.id == list_sources(tmp_path)[0].id, "the same video, the same id, however it is given"


def test_jsonl(tmp_path: Path) -> None:
    """Guards against fields that get lost, and against two parts of a video with one id."""
    rows = [
        {"path": "in a/x.mp4", "caption": 'A "dog" 🐕', "start": 1, "end": 2.5, "license": "CC0", "views": 3},
        {"video": "in a/x.mp4", "start": 3},
        {"path": str(tmp_path / "y.mp4")},
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
    touch(tmp_path / "in a" / "x.mp4")
    (tmp_path / "in a" / "x.txt").write_text("The whole video.")
    one, two, three = list_sources(tmp_path / "list.jsonl")
    assert (one.caption, one.start, one.end, one.license, one.metadata["views"]) == ('A "dog" 🐕', 1, 2.5, "CC0", 3)
    assert (two.caption, two.start, two.end) == ("The whole video.", 3, None)
    assert len({one.id, two.id, three.id}) == 3 and one.video == two.video != three.video
    assert three.path == str(tmp_path / "y.mp4") and three.id == source_id("y.mp4")


def test_panda(tmp_path: Path) -> None:
    """Guards against captions given to the wrong part: lists of a line go side by side."""
    (tmp_path / "panda.csv").write_text(PANDA, encoding="utf-8")
    touch(tmp_path / "00000" / "ab-C_1.webm")
    first, second, gone = list_sources(tmp_path / "panda.csv")
    assert (first.start, first.end, first.caption) == (1.0, 5.5, 'A dog, "Rex".')
    assert (second.start, second.end, second.caption) == (60.0, 64.0, "It's a cat 🐈.")
    assert first.path == str(tmp_path / "00000" / "ab-C_1.webm") and first.video == second.video
    assert (second.metadata["matching_score"], second.metadata["url"]) == (0.25, "https://v/ab")
    assert Path(gone.path).name == "gone.mp4", "what is missing is curated, too, and rejected as such"
    beside = list_sources(tmp_path, tmp_path / "panda.csv")
    assert [source.id for source in beside] == [first.id, second.id], "beside a folder only its videos count"


def test_captions_beside_a_folder(tmp_path: Path) -> None:
    touch(tmp_path / "v" / "a.mp4", tmp_path / "v" / "b.mp4")
    (tmp_path / "captions.csv").write_text("path,caption,license\na.mp4,A dog.,MIT\n")
    a, b = list_sources(tmp_path / "v", tmp_path / "captions.csv")
    assert (a.caption, a.license, b.caption) == ("A dog.", "MIT", None)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", "{", "a.jsonl:1 is not JSON"),
        ("a.jsonl", "[1]", "a.jsonl:1 is '[1]'; expected an object"),
        ("a.jsonl", '{"caption": "A dog"}', 'expected "path" (or "video")'),
        ("a.jsonl", '{"path": "a.mp4", "start": 3, "end": 2}', "expected an end after the start"),
        ("a.jsonl", '{"path": "a.mp4", "start": "soon"}', "start is 'soon'; expected seconds"),
        ("a.jsonl", '{"path": "a.mp4", "start": -1}', "start is -1; expected seconds"),
        ("a.jsonl", '{"path": "a.mp4", "caption": 3}', "caption is 3; expected a text"),
        ("a.jsonl", '{"path": "a.mp4"}\n{"path": "a.mp4"}', "is listed twice"),
        ("a.csv", "videoID,timestamp,caption\nx,[],['a']\n", "0 timestamp, 1 caption"),
        ("a.csv", "videoID,timestamp\nx,[[\n", "timestamp is '[['; expected a list"),
        ("a.csv", "path,caption\na.mp4\n", "does not have the 2 fields"),
        ("a.txt", "A dog", "ends in '.txt'; expected a folder"),
        ("empty.jsonl", "", "no videos in"),
    ],
)
def test_mistakes(tmp_path: Path, name: str, content: str, message: str) -> None:
    """Guards against tracebacks: every mistake names its place and what was expected."""
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(message)):
        list_sources(tmp_path / name)


def test_mistaken_places(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such video, folder or table"):
        list_sources(tmp_path / "none")
    with pytest.raises(ValueError, match="no videos in"):
        list_sources(tmp_path)
    touch(tmp_path / "a.mp4")
    (tmp_path / "c.jsonl").write_text('{"path": "b.mp4"}')
    with pytest.raises(ValueError, match="names none of the 1 videos; expected paths as 'a.mp4'"):
        list_sources(tmp_path, tmp_path / "c.jsonl")
