"""Which reference pictures a training clip is given (App. A.3), cut out of its frames; only those frames are decoded.

S side of a picture in pixels
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from video_alchemist.dataset.frames import middle
from video_alchemist.dataset.masks import cut_reference, views
from video_alchemist.dataset.picture import fit_square, read_picture
from video_alchemist.dataset.selection import select
from video_alchemist.dataset.shards import FRAMES, ShardDataset, decode_picture
from video_alchemist.records import View

Candidate = tuple[dict[str, Any], View] | None  # a reference of the record and what of it; None = the background

@dataclass(frozen=True)
class Selected:
    """A picture that conditions a clip."""

    span: tuple[int, int]  # of its word in the caption
    rgba: Tensor  # (4, S, S) float in [0, 1]
    is_scenery: bool  # a background, which fills its square


def select_pictures(
    dataset: ShardDataset, position: int, rng: np.random.Generator, size: int, max_images: int
) -> list[Selected]:
    """App. A.3 on one clip, in the order of the words in its caption."""
    members = dataset.members(position)
    record = json.loads(members["json"])
    entities = record["entities"]
    in_order = sorted(range(len(entities)), key=lambda row: entities[row]["span"])
    candidates: dict[int, list[Candidate]] = {row: [] for row in in_order if entities[row]["kind"] != "background"}
    for reference in record["references"]:
        candidates[reference["entity"]] += [(reference, view) for view in views(reference)]
    grounds = [row for row in in_order if entities[row]["kind"] == "background"]
    ground = (grounds[0], None) if grounds and dataset.has("background", position) else None
    frames: dict[int, np.ndarray] = {}
    selected = []
    chosen = select(candidates, ground, rng, max_images=max_images)
    for row, candidate in sorted(chosen, key=lambda pair: entities[pair[0]]["span"]):
        if candidate is None:
            rgba = scenery(dataset, position, size)
        else:
            reference, view = candidate
            number = reference["frame"]
            if number not in frames:
                frames[number] = decode_picture(members[FRAMES[number]])
            rgba = fit_square(read_picture(cut_reference(record, reference, view, frames[number])), size)
        selected.append(Selected(tuple(entities[row]["span"]), rgba, candidate is None))
    return selected


def scenery(dataset: ShardDataset, position: int, size: int) -> Tensor:
    """The middle of a clip's clean background, or of its middle frame where there is none: (4, S, S), opaque."""
    if dataset.has("background", position):
        picture = decode_picture(dataset.member("background", position))
    else:
        picture = decode_picture(dataset.members(position)[FRAMES[1]])
    rgb = torch.from_numpy(middle(picture, (size, size))).permute(2, 0, 1).float() / 255
    return torch.cat([rgb, torch.ones(1, size, size)])
