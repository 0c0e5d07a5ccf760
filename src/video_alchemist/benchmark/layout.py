"""Our samples in the authors' folder layout and list files, byte for byte, so that tools made for those work on ours.

OUT/msrvtt_personalization_data/<id>/   video.mp4, frame1.jpg to frame3.jpg, summary_text.txt, word_tags.json,
                                        <word>.frame1.png ..., <word>.face.frame1.png ..., background.jpg
OUT/subject_mode_*.txt, OUT/face_mode_*.txt   a line a sample: its id, its prompt, or the pictures by word

JPEG and PNG files hold the samples' pixels; their bytes are those of the encoder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from video_alchemist.benchmark.samples import BenchmarkData, read_jpeg
from video_alchemist.dataset.masks import cut_out
from video_alchemist.dataset.shards import FRAMES

FOLDER = "msrvtt_personalization_data"
SUBJECT_LISTS = ("single_subject_image", "multi_subject_images", "multi_subject_images_with_background")
FACE_LISTS = ("single_face_crop", "multi_face_crops")

Pictures = dict[str, list[str]]  # paths by word
Line = tuple[str, str, tuple[Pictures, ...]]  # id, prompt, and what each of the lists says


def write_layout(data: BenchmarkData, out: str | Path) -> Path:
    """Writes all samples and the lists of both modes; returns the folder of the samples."""
    out = Path(out)
    if (out / FOLDER).exists():
        raise ValueError(f"{str(out / FOLDER)!r} exists; expected a new folder")
    subjects: list[Line] = []
    faces: list[Line] = []
    for name in data.ids("all"):
        record = data.record(name)
        tags = word_tags(record)
        files = _write_sample(out / FOLDER / name, data, record, tags)
        if len(tags["subject"]) == 1:
            subjects.append((name, record["caption"], _subject_pictures(name, tags, files)))
        if len(tags["subject_with_face"]) == 1:
            word = tags["subject_with_face"][0]
            images = _paths(name, word, ".face.frame", files)
            faces.append((name, record["caption"], ({word: [images[len(images) // 2]]}, {word: images})))
    _write_lists(out, "subject_mode", SUBJECT_LISTS, subjects)
    _write_lists(out, "face_mode", FACE_LISTS, faces)
    return out / FOLDER


def word_tags(record: Mapping[str, Any]) -> dict[str, list[str]]:
    """The authors' dictionary of words: theirs where the sample is theirs, else that of the entities."""
    if "word_tags" in record:
        return record["word_tags"]
    entities = record["entities"]
    tags = {
        kind: [entity["word"] for entity in entities if entity["kind"] == kind]
        for kind in ("subject", "object", "background")
    }
    seen = {one["entity"] for one in record["references"] if one.get("face") is not None}
    with_face = [entities[row]["word"] for row in sorted(seen) if entities[row]["kind"] == "subject"]
    return {**tags, "subject_with_face": with_face}


def _write_sample(
    folder: Path, data: BenchmarkData, record: Mapping[str, Any], tags: Mapping[str, list[str]]
) -> list[str]:
    """Writes the folder of a sample; the names of its files."""
    name = record["id"]
    folder.mkdir(parents=True)
    jpegs = [data.member(name, "examples", suffix) for suffix in FRAMES]
    files = {f"frame{i}.jpg": contents for i, contents in enumerate(jpegs, start=1)}
    files["video.mp4"] = data.member(name, "video")
    files["summary_text.txt"] = record["caption"].encode()
    files["word_tags.json"] = tags_json(tags).encode()
    if data[name].background is not None:
        files["background.jpg"] = data.member(name, "background")
    for file, contents in files.items():
        (folder / file).write_bytes(contents)
    frames = [read_jpeg(contents) for contents in jpegs]
    pictures = dict(_pictures(record, frames))
    for file, picture in pictures.items():
        Image.fromarray(picture, "RGBA").save(folder / file)
    return [*files, *pictures]


def _pictures(record: Mapping[str, Any], frames: Sequence[np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """File names and (h, w, 4) uint8 of all cut-outs; faces are masked, too."""
    words = [file_word(entity["word"]) for entity in record["entities"]]
    for one in record["references"]:
        word, frame = words[one["entity"]], one["frame"]
        yield f"{word}.frame{frame + 1}.png", cut_out(frames[frame], one["mask"], one["box"])
    for one in (*record["references"], *record.get("lone_faces", ())):
        if one.get("face") is not None:
            word, frame = words[one["entity"]], one["frame"]
            mask = one["face_mask"] if "face_mask" in one else one["mask"]
            yield f"{word}.face.frame{frame + 1}.png", cut_out(frames[frame], mask, one["face"])


def file_word(word: str) -> str:
    return word.replace(" ", "_").replace("/", "_")


def tags_json(tags: Mapping[str, list[str]]) -> str:
    """Indented by 4, each list on one line."""
    lines = [f"    {json.dumps(tag)}: {json.dumps(words)}" for tag, words in tags.items()]
    return "{\n" + ",\n".join(lines) + "\n}"


def _subject_pictures(name: str, tags: Mapping[str, list[str]], files: Sequence[str]) -> tuple[Pictures, ...]:
    """The three lists' lines of subject mode. Without a background, which the authors' have, the last adds none."""
    word = tags["subject"][0]
    images = _paths(name, word, ".frame", files)
    ground = {word: [f"{FOLDER}/{name}/background.jpg"] for word in tags["background"][:1] if "background.jpg" in files}
    return {word: [images[len(images) // 2]]}, {word: images}, {word: images, **ground}


def _paths(name: str, word: str, infix: str, files: Sequence[str]) -> list[str]:
    start = file_word(word) + infix
    return sorted(f"{FOLDER}/{name}/{file}" for file in files if file.startswith(start) and file.endswith(".png"))


def _write_lists(out: Path, mode: str, lists: Sequence[str], lines: Sequence[Line]) -> None:
    """No newline at the end; pictures as Python writes a dictionary."""
    broken = next((name for name, prompt, _ in lines if len(prompt.splitlines()) > 1), None)
    if broken is not None:
        raise ValueError(f"the prompt of {broken} has several lines; the official lists hold a sample a line")
    columns = {"videos": [name for name, _, _ in lines], "prompts": [prompt for _, prompt, _ in lines]}
    for i, kind in enumerate(lists):
        columns[f"word_tag_{kind}"] = [str(pictures[i]) for _, _, pictures in lines]
    for column, rows in columns.items():
        (out / f"{mode}_{column}.txt").write_bytes("\n".join(rows).encode())
