"""A folder of clips whose pixels tell which clip and which frame they are of."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from video_alchemist.dataset.masks import encode_mask
from video_alchemist.dataset.shards import write_backgrounds, write_manifest, write_shard
from video_alchemist.video import write_video

Shape = tuple[tuple[int, int], int, float]  # (width, height), frames, frames a second
CAPTION = "A dog near a robot on the beach"
ENTITIES = (("dog", "subject"), ("robot", "object"), ("beach", "background"))
FACE = {"dog": [2, 2, 6, 6], "robot": None}


def grey(frame: int) -> int:
    """The brightness of a frame by its number."""
    return 20 + 12 * frame


def jpeg(picture: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=95, subsampling=0)
    return stream.getvalue()


def mp4(folder: Path, size: tuple[int, int], num_frames: int, fps: float) -> bytes:
    """Plain grey frames, brighter by the number, between black bars left and right or above and below: a bucket of
    another aspect must cut them off."""
    frames = np.zeros((num_frames, size[1], size[0], 3), dtype=np.uint8)
    side = min(size)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    for k in range(num_frames):
        frames[k, top : top + side, left : left + side] = grey(k)
    write_video(folder / "clip.mp4", frames, fps, crf=1)
    return (folder / "clip.mp4").read_bytes()


def record(clip_id: str, shape: Shape) -> dict:
    """A dog in the left half of three frames, with a face in it, a robot in the right half, and a beach."""
    (width, height), num_frames, fps = shape
    entities, references = [], []
    for row, (word, kind) in enumerate(ENTITIES):
        start = CAPTION.index(word)
        entities.append({"word": word, "kind": kind, "span": [start, start + len(word)], "occurrence": 0})
        if kind == "background":
            continue
        box = [row * width // 2, 0, (row + 1) * width // 2, height]
        mask = np.zeros((height, width), dtype=bool)
        mask[:, box[0] : box[2]] = True
        for frame in range(3):
            cut = {"box": box, "mask": encode_mask(mask), "face": FACE[word]}
            references.append({"entity": row, "frame": frame, **cut})
    return {
        "id": clip_id, "caption": CAPTION, "entities": entities, "references": references, "fps": fps,
        "num_frames": num_frames, "size": [width, height], "provenance": {"source": clip_id},
    }  # fmt: skip


def write_clips(folder: Path, shapes: Sequence[Shape], shard_size: int = 1000, backgrounds: bool = True) -> Path:
    """Clips c000, c001, ... of the given shapes, as shards."""
    videos: dict[Shape, bytes] = {}
    for number in range(0, len(shapes), shard_size):
        records, files, grounds = [], {}, {}
        for i, shape in enumerate(shapes[number : number + shard_size], start=number):
            if shape not in videos:
                videos[shape] = mp4(folder, *shape)
            (width, height), name = shape[0], f"c{i:03d}"
            records.append(record(name, shape))
            stills = [np.full((height, width, 3), 40 + 60 * k, dtype=np.uint8) for k in range(3)]
            files[name] = {f"f{k}.jpg": jpeg(still) for k, still in enumerate(stills)} | {"mp4": videos[shape]}
            grounds[name] = jpeg(np.full((height, width, 3), (0, 0, 250), dtype=np.uint8))
        write_shard(folder, number // shard_size, records, files)
        write_backgrounds(folder, number // shard_size, grounds if backgrounds else {})
    (folder / "clip.mp4").unlink(missing_ok=True)
    starts = range(0, len(shapes), shard_size)
    write_manifest(folder, {start // shard_size: len(shapes[start : start + shard_size]) for start in starts})
    return folder


@pytest.fixture(scope="session")
def clips() -> Callable[..., Path]:
    return write_clips


@pytest.fixture(scope="session")
def brightness_of() -> Callable[[int], int]:
    return grey
