"""Masks as COCO's uncompressed RLE: lengths of runs down the columns, of zeros first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


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
