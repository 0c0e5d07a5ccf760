"""Training clips from shards (dataset/shards.py) in place of rendered ones: what `alchemist train --data` reads.

B clips · A entities · R pictures of each · H,W pixels
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from video_alchemist.dataset.augmentation import Augmentation
from video_alchemist.dataset.picture import fit_square, read_picture
from video_alchemist.dataset.shards import ROOT, TOMBSTONES, ShardDataset
from video_alchemist.dataset.storage import Folder
from video_alchemist.emojiworld.recipes.encoded import SHARD, Encoders, encode, join, shard_path
from video_alchemist.emojiworld.recipes.scale import Scale
from video_alchemist.emojiworld.recipes.world import WorldBatch
from video_alchemist.model.binding import find_word
from video_alchemist.records import MAX_IMAGES, Entity, Example

MAX_ENTITIES = 6  # subjects and objects of a clip; later ones are not conditioned on
GROUND = -1


def precompute_shards(
    scale: Scale, shards: str | Path, work: Path, device: str, clips: bool, networks: Path, augmentation: Augmentation
) -> Path:
    """Encodes every clip, or a frame of every clip, once; goes on where an earlier call stopped. The folder."""
    dataset = ShardDataset(shards)
    if len(dataset) == 0:
        raise ValueError(f"{str(shards)!r} holds no clips; expected some to train on")
    folder = work / "encoded" / f"{_fingerprint(shards)}-{'clips' if clips else 'pictures'}"
    folder.mkdir(parents=True, exist_ok=True)
    encoders = Encoders(scale, networks, device)
    for number in range(math.ceil(len(dataset) / SHARD)):
        path = shard_path(folder, number)
        if path.exists():
            continue
        positions = range(number * SHARD, min((number + 1) * SHARD, len(dataset)))
        parts = []
        for start in range(0, len(positions), scale.encode_batch // 2):
            some = positions[start : start + scale.encode_batch // 2]
            batch = batch_of([dataset[position] for position in some], scale, clips, device)
            parts.append(encode(batch, encoders, augmentation, seed=some[0]))
        temporary = path.with_suffix(".tmp")
        save_file(join(parts), temporary)
        os.replace(temporary, path)
        print(f"encoded {folder.name} {positions[-1] + 1}/{len(dataset)}", flush=True)
    return folder


def _fingerprint(shards: str | Path) -> str:
    """Of the clips that may be trained on: other shards, or a takedown, are encoded anew."""
    folder = Folder(shards)
    contents = [folder.read(name) for name in (ROOT, TOMBSTONES) if name in folder]
    return hashlib.sha256(b"".join(contents)).hexdigest()[:12]


def batch_of(examples: Sequence[Example], scale: Scale, clips: bool, device: str) -> WorldBatch:
    """Examples as the batch that encoding knows, their clips resized, and resampled to the scale's frame rate."""
    size = scale.reference_size
    references = torch.zeros(len(examples), MAX_ENTITIES, MAX_IMAGES, 4, size, size)
    valid = torch.zeros(references.shape[:3], dtype=torch.bool)
    backgrounds = torch.ones(len(examples), 3, size, size)
    entities, rows = [], []
    for i, example in enumerate(examples):
        kept, placed = _table(example)
        entities.append(kept)
        rows.append(placed)
        pictures = defaultdict(list)
        for reference in example.references:
            pictures[find_word(example.caption, reference.word, reference.occurrence)].append(reference)
        for entity, row in zip(kept, placed, strict=True):
            if row == GROUND:
                assert example.background is not None
                backgrounds[i] = _resize(read_picture(example.background)[:3], (size, size))
                continue
            for k, reference in enumerate(pictures[entity.span][:MAX_IMAGES]):
                references[i, row, k] = fit_square(read_picture(replace(reference, mask=None)), size)
                valid[i, row, k] = True
    return WorldBatch(
        scenes=(),
        video=torch.stack([_frames(example, scale, clips) for example in examples]).to(device),
        captions=tuple(example.caption for example in examples),
        entities=tuple(entities),
        entity_actors=tuple(rows),
        references=references.to(device),
        valid=valid.to(device),
        backgrounds=backgrounds.to(device),
    )


def _table(example: Example) -> tuple[tuple[Entity, ...], tuple[int, ...]]:
    """The entities that pictures can be bound to, and the row of each; the background's is GROUND."""
    things = [entity for entity in example.entities if entity.kind != "background"][:MAX_ENTITIES]
    grounds = [entity for entity in example.entities if entity.kind == "background"][:1]
    if example.background is None:
        grounds = []
    return (*things, *grounds), (*range(len(things)), *(GROUND for _ in grounds))


def _frames(example: Example, scale: Scale, clips: bool) -> Tensor:
    """(3, F, H, W) in [-1, 1] of the scale's size; F frames at its rate, or of the whole clip where it is shorter."""
    video, wanted = example.video, scale.num_frames
    if clips:
        index = np.round(np.arange(wanted) * example.fps / scale.fps).astype(int)
        if index[-1] >= len(video):
            index = np.round(np.linspace(0, len(video) - 1, wanted)).astype(int)
    else:
        digest = hashlib.sha256(example.id.encode()).digest()
        index = np.array([int.from_bytes(digest[:4]) % len(video)])
    frames = torch.from_numpy(video[index]).permute(0, 3, 1, 2).float() / 127.5 - 1
    return _resize(frames, scale.size).transpose(0, 1)


def _resize(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """(..., 3, h, w) => (..., 3, *size): the middle of it, in the wanted proportions."""
    height, width = pictures.shape[-2:]
    scale = min(height / size[0], width / size[1])
    rows, columns = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    top, left = (height - rows) // 2, (width - columns) // 2
    middle = pictures[..., top : top + rows, left : left + columns]
    flat = middle.reshape(-1, *middle.shape[-3:])
    return F.interpolate(flat, size=size, mode="bilinear", antialias=True).reshape(*middle.shape[:-2], *size)
