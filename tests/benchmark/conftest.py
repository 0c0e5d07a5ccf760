"""A tiny benchmark: clips of coloured squares, whose colour says the word and the frame they are from."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from video_alchemist.benchmark.prepare import prepare_shards
from video_alchemist.benchmark.samples import BenchmarkData
from video_alchemist.dataset.masks import encode_mask
from video_alchemist.dataset.shards import write_backgrounds, write_manifest, write_shard
from video_alchemist.video import write_video

HEIGHT, WIDTH, NUM_FRAMES, FPS = 32, 64, 5, 12.0


def colour(row: int, frame: int) -> tuple[int, int, int]:
    return 60 * row + 40, 80 * frame + 40, 200


def jpeg(picture: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=100, subsampling=0)
    return stream.getvalue()


def box(row: int) -> list[int]:
    return [14 * row, 8, 14 * row + 12, 24]


def tiny_clip(
    clip_id: str,
    caption: str,
    words: Mapping[str, str],
    pictures: Mapping[str, Sequence[int]] | None = None,
    faces: Mapping[str, Sequence[int]] | None = None,
    source: str | None = None,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """words: word -> kind. pictures, faces: the frames that a word is seen in; by default all, and none."""
    frames = np.full((3, HEIGHT, WIDTH, 3), 120, np.uint8)
    references = []
    for row, (word, kind) in enumerate(words.items()):
        for frame in (pictures or {}).get(word, (0, 1, 2)) if kind != "background" else ():
            x0, y0, x1, y1 = box(row)
            mask = np.zeros((HEIGHT, WIDTH), bool)
            mask[y0:y1, x0 : x1 - 4] = True  # narrower than the box: alpha is the mask, not the box
            frames[frame, y0:y1, x0:x1] = colour(row, frame)
            face = [x0, y0, x1, y0 + 8] if frame in (faces or {}).get(word, ()) else None
            references.append(
                {"entity": row, "frame": frame, "box": box(row), "mask": encode_mask(mask), "face": face}
            )  # fmt: skip
    entities = [
        {"word": word, "kind": kind, "span": [caption.index(word), caption.index(word) + len(word)], "occurrence": 0}
        for word, kind in words.items()
    ]
    record = {
        "id": clip_id, "caption": caption, "entities": entities, "references": references, "fps": FPS,
        "num_frames": NUM_FRAMES, "size": [WIDTH, HEIGHT], "provenance": {"source": source or clip_id},
    }  # fmt: skip
    return record, {f"f{i}.jpg": frame for i, frame in enumerate(frames)}


def write_tiny_shards(folder: Path, clips: Sequence[tuple[dict[str, Any], dict[str, np.ndarray]]]) -> Path:
    """Clips as shards; those with a background word get a background picture, unless they are named "...-plain"."""
    folder.mkdir(parents=True, exist_ok=True)
    video = folder.parent / "clip.mp4"
    write_video(video, np.full((NUM_FRAMES, HEIGHT, WIDTH, 3), 90, np.uint8), FPS)
    contents = video.read_bytes()
    video.unlink()
    files = {
        record["id"]: {"mp4": contents, **{name: jpeg(frame) for name, frame in frames.items()}}
        for record, frames in clips
    }
    grounds = {
        record["id"]: jpeg(np.full((HEIGHT, WIDTH, 3), 10, np.uint8))
        for record, _ in clips
        if any(entity["kind"] == "background" for entity in record["entities"]) and "-plain" not in record["id"]
    }
    write_shard(folder, 0, [record for record, _ in clips], files)
    write_backgrounds(folder, 0, grounds)
    write_manifest(folder, {0: len(clips)})
    return folder


SUBJECT, OBJECT, BACKGROUND = "subject", "object", "background"


@pytest.fixture(scope="session")
def tiny_clips() -> list[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """one: a dog with faces on a beach · pair: a dog and a robot · trio-plain: a dog, a cat, a robot; faces of two."""
    return [
        tiny_clip("one", "A dog on the beach", {"dog": SUBJECT, "beach": BACKGROUND}, faces={"dog": (0, 2)}),
        tiny_clip("pair", "A robot and a dog", {"dog": SUBJECT, "robot": OBJECT}, pictures={"dog": (0, 2)}),
        tiny_clip(
            "trio-plain", "A dog beside a cat and a robot on the beach",
            {"dog": SUBJECT, "cat": SUBJECT, "robot": OBJECT, "beach": BACKGROUND}, faces={"dog": (0,), "cat": (1,)},
        ),
    ]  # fmt: skip


@pytest.fixture(scope="session")
def tiny_data(tiny_clips, tmp_path_factory: pytest.TempPathFactory) -> BenchmarkData:
    folder = tmp_path_factory.mktemp("benchmark")
    write_tiny_shards(folder / "shards", tiny_clips)
    return prepare_shards(folder / "shards", folder)


@pytest.fixture
def tiny() -> type:
    """The functions above, since test files cannot import each other."""

    class Tiny:
        clip: Callable[..., Any] = staticmethod(tiny_clip)
        write_shards: Callable[..., Path] = staticmethod(write_tiny_shards)
        colour: Callable[..., Any] = staticmethod(colour)

    return Tiny
