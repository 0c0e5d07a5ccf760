"""Masks as COCO's uncompressed RLE (lengths of runs down the columns, of zeros first), and what is cut out by them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from video_alchemist.records import Reference, View


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """(H, W) bool => {"size": [H, W], "counts": [...]}."""
    flat = mask.T.reshape(-1).astype(bool)
    edges = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]])
    counts = np.diff(edges).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat.size and flat[0] else counts}


def decode_mask(rle: Mapping[str, Any]) -> np.ndarray:
    """{"size": [H, W], "counts": [...]} => (H, W) bool."""
    height, width = rle["size"]
    counts = np.asarray(rle["counts"], dtype=np.int64)
    if counts.sum() != height * width or (counts < 0).any():
        raise ValueError(f"runs of {counts.sum()} pixels in all; expected {height} x {width}")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(width, height).T


def cut_out(frame: np.ndarray, mask: Mapping[str, Any], box: Sequence[float]) -> np.ndarray:
    """The box of a frame (H, W, 3) uint8, its mask as alpha => (h, w, 4) uint8."""
    return crop(np.dstack([frame, decode_mask(mask).astype(np.uint8) * 255]), box)


def crop(picture: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """The pixels that a box x0, y0, x1, y1 touches, at least one."""
    height, width = picture.shape[:2]
    x0, y0 = min(max(0, math.floor(box[0])), width - 1), min(max(0, math.floor(box[1])), height - 1)
    x1, y1 = min(width, math.ceil(box[2])), min(height, math.ceil(box[3]))
    return picture[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]


def views(reference: Mapping[str, Any]) -> tuple[View, ...]:
    """What a record's reference can be shown as: the segment, and the face where there is one."""
    return ("whole",) if reference.get("face") is None else ("whole", "face")


def cut_reference(
    record: Mapping[str, Any], reference: Mapping[str, Any], view: View, frame: np.ndarray
) -> Reference:
    """A reference of a record with its picture, cut out of its frame (H, W, 3) uint8."""
    entity = record["entities"][reference["entity"]]
    whole = view == "whole"
    picture = cut_out(frame, reference["mask"], reference["box"]) if whole else crop(frame, reference["face"])
    return Reference(entity["word"], picture, None, entity["kind"], view, entity["occurrence"])
