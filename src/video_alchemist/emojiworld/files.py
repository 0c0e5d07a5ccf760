"""EmojiWorld as files: plain clips with caption sidecars, the input of curation, and their truth to judge it by.

FOLDER/00000017.mp4   the clip
FOLDER/00000017.txt   its caption
FOLDER/00000017.json  caption, entity words, boxes, masks (COCO RLE), faces, actions, seed
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

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
    if split not in SPLITS:
        raise ValueError(f"split {split!r}; expected one of {', '.join(SPLITS)}")
    if num_clips < 1 or num_frames < 1:
        raise ValueError(f"{num_clips} clips of {num_frames} frames; expected at least 1 of each")
    if not 0 <= undesirable_share <= 1:
        raise ValueError(f"undesirable share {undesirable_share}; expected 0 to 1")
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
                "masks": [run_lengths(mask) for mask in rendered.masks[index, actor]],
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


def run_lengths(mask: Tensor) -> dict[str, Any]:
    """A mask (H, W) as COCO's uncompressed RLE: lengths of runs down the columns, of zeros first."""
    flat = mask.T.flatten().numpy()
    changes = np.flatnonzero(np.diff(flat)) + 1
    edges = np.concatenate([[0], changes, [flat.size]])
    counts = np.diff(edges).tolist()
    return {"size": list(mask.shape), "counts": counts if not flat[0] else [0, *counts]}


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
