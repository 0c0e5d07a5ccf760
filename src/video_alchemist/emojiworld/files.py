"""EmojiWorld as files: plain clips with caption sidecars, the input of curation, and their truth to judge it by.

FOLDER/00000017.mp4   the clip
FOLDER/00000017.txt   its caption
FOLDER/00000017.json  caption, entity words, boxes, masks (COCO RLE), faces, actions, seed
"""

from __future__ import annotations

import io
import json
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from video_alchemist.curation.entity_words import occurrence
from video_alchemist.dataset.masks import encode_mask
from video_alchemist.dataset.shards import ROOT, read_manifest, write_backgrounds, write_manifest, write_shard
from video_alchemist.emojiworld.assets import Assets, load_assets
from video_alchemist.emojiworld.captions import BACKGROUND, caption
from video_alchemist.emojiworld.render import Rendered, render
from video_alchemist.emojiworld.scenes import SPLITS, UNDESIRABLE, Scene, Split, sample_scene
from video_alchemist.records import Entity, Example, Reference
from video_alchemist.video import replacing, write_video

CHUNK = 32
REFERENCE_FRAMES = (0.05, 0.5, 0.95)  # §3.1


def write_world(
    folder: Path,
    num_clips: int,
    *,
    seed: int = 0,
    split: Split = "train",
    size: tuple[int, int] = (64, 64),
    num_frames: int = 17,
    fps: float = 12.0,
    undesirable_share: float = 0.0,
) -> Iterator[int]:
    """Renders clips of size (width, height) into a folder, yielding how many are done. Same seed, same clips."""
    _check(split, num_clips, num_frames, fps, undesirable_share)
    assets = load_assets()
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, num_clips, CHUNK):
        numbers = range(start, min(start + CHUNK, num_clips))
        scenes = [numbered_scene(assets, seed, number, split, undesirable_share) for number in numbers]
        rendered = render(scenes, assets, torch.linspace(0, 1, num_frames), (size[1], size[0]))
        for i, number in enumerate(numbers):
            name = f"{number:08d}"
            text, _, _ = caption(scenes[i], assets)
            write_video(folder / f"{name}.mp4", rendered.video[i].permute(0, 2, 3, 1).numpy(), fps)
            (folder / f"{name}.txt").write_text(text + "\n", encoding="utf-8")
            with replacing(folder / f"{name}.json") as path:
                path.write_text(json.dumps(truth(scenes[i], rendered, i, assets, fps)) + "\n", encoding="utf-8")
            yield number + 1


def write_world_shards(
    folder: Path,
    num_clips: int,
    *,
    seed: int = 0,
    split: Split = "train",
    size: tuple[int, int] = (64, 64),
    num_frames: int = 17,
    fps: float = 12.0,
    shard_size: int = 256,
) -> Iterator[int]:
    """The same clips as training shards (dataset/shards.py), annotated by what is known instead of by detectors."""
    _check(split, num_clips, num_frames, fps, 0.0)
    config = {"world": "emoji", "seed": seed, "split": split, "num_clips": num_clips, "size": list(size)}
    config |= {"num_frames": num_frames, "fps": fps, "shard_size": shard_size}
    if (folder / ROOT).exists() and read_manifest(folder)["config"] != config:
        raise ValueError(f"{str(folder)!r} holds other shards; expected a new folder, or the same request again")
    assets = load_assets()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ROOT).unlink(missing_ok=True)  # until all is written
    counts: dict[int, int] = {}
    for number, start in enumerate(range(0, num_clips, shard_size)):
        records: list[dict[str, Any]] = []
        files: dict[str, dict[str, bytes]] = {}
        grounds: dict[str, bytes] = {}
        for first in range(start, min(start + shard_size, num_clips), CHUNK):
            numbers = range(first, min(first + CHUNK, start + shard_size, num_clips))
            scenes = [numbered_scene(assets, seed, n, split) for n in numbers]
            rendered = render(scenes, assets, torch.linspace(0, 1, num_frames), (size[1], size[0]))
            stills = render(scenes, assets, torch.tensor(REFERENCE_FRAMES), (size[1], size[0]))
            for i, n in enumerate(numbers):
                record = shard_record(scenes[i], stills, i, assets, f"{seed}-{n:08d}", num_frames, fps)
                name = record["id"]
                records.append(record)
                files[name] = {f"f{k}.jpg": _jpeg(frame) for k, frame in enumerate(stills.video[i])}
                files[name]["mp4"] = _mp4(rendered.video[i].permute(0, 2, 3, 1).numpy(), fps)
                if any(entity["kind"] == "background" for entity in record["entities"]):
                    grounds[name] = _jpeg(stills.background[i])
                yield n + 1
        write_shard(folder, number, records, files)
        write_backgrounds(folder, number, grounds)
        counts[number] = len(records)
    write_manifest(folder, counts, config=config)


def shard_record(
    scene: Scene, stills: Rendered, index: int, assets: Assets, clip_id: str, num_frames: int, fps: float
) -> dict[str, Any]:
    """What a shard's <id>.json says of a clip, by the truth of its three reference frames."""
    text, entities, actors = caption(scene, assets)
    references = []
    for row, actor in enumerate(actors):
        for frame in range(len(REFERENCE_FRAMES)) if actor != BACKGROUND else ():
            mask, face = stills.masks[index, actor, frame], stills.faces[index, actor, frame]
            if mask.float().mean() < 0.01:  # too little is seen to know it by
                continue
            references.append(
                {
                    "entity": row,
                    "frame": frame,
                    "box": stills.boxes[index, actor, frame].tolist(),
                    "detection_score": 1.0,
                    "mask_score": 1.0,
                    "mask": encode_mask(mask.numpy()),
                    "face": None if face.isnan().any() else face.tolist(),
                    "face_score": 0.0 if face.isnan().any() else 1.0,
                }
            )
    described = [
        {"word": e.word, "kind": e.kind, "span": list(e.span), "occurrence": occurrence(text, e)} for e in entities
    ]
    return {
        "id": clip_id,
        "caption": text,
        "entities": described,
        "references": references,
        "fps": fps,
        "num_frames": num_frames,
        "size": [stills.video.shape[-1], stills.video.shape[-2]],
        "measures": {},
        "perceptual_hash": "",
        "provenance": {"source": clip_id, "path": "", "license": "Apache-2.0, MIT, CC-BY-4.0", "profile": "truth"},
    }


def _jpeg(picture: Tensor) -> bytes:
    """(3, H, W) uint8 as JPEG."""
    stream = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(stream, "JPEG", quality=95, subsampling=0)
    return stream.getvalue()


def _mp4(frames: np.ndarray, fps: float) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "clip.mp4")
        write_video(path, frames, fps)
        return path.read_bytes()


def _check(split: str, num_clips: int, num_frames: int, fps: float, undesirable_share: float) -> None:
    if split not in SPLITS:
        raise ValueError(f"split {split!r}; expected one of {', '.join(SPLITS)}")
    if num_clips < 1 or num_frames < 1:
        raise ValueError(f"{num_clips} clips of {num_frames} frames; expected at least 1 of each")
    if not 0 < fps < math.inf:
        raise ValueError(f"fps is {fps}; expected a positive number")
    if not 0 <= undesirable_share <= 1:
        raise ValueError(f"undesirable share {undesirable_share}; expected 0 to 1")


def numbered_scene(assets: Assets, seed: int, number: int, split: Split, undesirable_share: float = 0.0) -> Scene:
    """Scene `number` of the world with this seed, undesirable with the given probability."""
    rng = np.random.default_rng((seed, number, 99))
    kind = UNDESIRABLE[rng.integers(len(UNDESIRABLE))] if rng.random() < undesirable_share else None
    return sample_scene(np.random.default_rng((seed, number)), assets, split, undesirable=kind)


def truth(scene: Scene, rendered: Rendered, index: int, assets: Assets, fps: float) -> dict[str, Any]:
    """What is known of a clip, as JSON: of every entity its word, and of actors boxes, faces and masks a frame."""
    text, entities, actors = caption(scene, assets)
    described = []
    for entity, actor in zip(entities, actors, strict=True):
        item: dict[str, Any] = {"word": entity.word, "kind": entity.kind, "span": list(entity.span)}
        if actor != BACKGROUND:
            item |= {
                "action": scene.actors[actor].action,
                "concept": assets.identities[scene.actors[actor].identity].concept,
                "boxes": _finite(rendered.boxes[index, actor]),
                "faces": _finite(rendered.faces[index, actor]),
                "masks": [encode_mask(mask.numpy()) for mask in rendered.masks[index, actor]],
            }
        described.append(item)
    return {
        "caption": text,
        "entities": described,
        "undesirable": scene.undesirable,
        "light": scene.light,
        "seed": scene.seed,
        "fps": fps,
    }


def _finite(boxes: Tensor) -> list[list[float] | None]:
    """Boxes (F, 4) as lists, null where nothing is seen (JSON knows no NaN)."""
    return [None if math.isnan(box[0]) else box for box in boxes.tolist()]


def example(
    scene: Scene, assets: Assets, clip_id: str, num_frames: int = 17, size: int = 64, fps: float = 12.0
) -> Example:
    """A clip as the record that training and benchmark know, with its reference pictures cut by the true masks."""
    text, entities, actors = caption(scene, assets)
    rendered = render([scene], assets, torch.linspace(0, 1, num_frames), (size, size))
    stills = render([scene], assets, torch.tensor(REFERENCE_FRAMES), (2 * size, 2 * size))
    references = [
        picture
        for entity, actor in zip(entities, actors, strict=True)
        if actor != BACKGROUND
        for picture in _cut(entity, stills, actor)
    ]
    grounds = [e for e, actor in zip(entities, actors, strict=True) if actor == BACKGROUND]
    clean = stills.background[0].permute(1, 2, 0).numpy()
    return Example(
        id=clip_id,
        caption=text,
        entities=entities,
        references=tuple(references),
        background=Reference(grounds[0].word, clean, kind="background") if grounds else None,
        video=rendered.video[0].permute(0, 2, 3, 1).numpy(),
        fps=fps,
        provenance={"world": "emoji", "seed": scene.seed},
    )


def _cut(entity: Entity, stills: Rendered, actor: int) -> list[Reference]:
    """The entity's pictures from the reference frames it is seen in."""
    pictures = []
    for f in range(stills.video.shape[1]):
        mask = stills.masks[0, actor, f]
        if mask.float().mean() < 0.01:
            continue
        x0, y0, x1, y1 = (int(value) for value in stills.boxes[0, actor, f])
        rgb = stills.video[0, f, :, y0:y1, x0:x1].permute(1, 2, 0).numpy()
        alpha = (mask[y0:y1, x0:x1, None] * 255).byte().numpy()
        pictures.append(Reference(entity.word, np.concatenate([rgb, alpha], axis=-1), kind=entity.kind))
    return pictures
