"""A clean background picture: the middle frame without its subjects and objects (§3.1).

"We dilate the foreground mask before applying an inpainting algorithm. We use the background entity word as the
positive prompt." The removed words are then looked for again: the authors did that by eye, for their benchmark.

H,W pixels
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from video_alchemist.curation.clip import FRAME_TIMES, Clip, Outcome, Pixels
from video_alchemist.curation.grounding import grounded_words
from video_alchemist.curation.probe import reject
from video_alchemist.dataset.masks import decode_mask

if TYPE_CHECKING:
    from video_alchemist.pretrained.detector import Detector
    from video_alchemist.pretrained.inpainter import Inpainter

MIDDLE = 1  # "we only use the middle frame of each video sequence"


@dataclass(frozen=True)
class BackgroundRules:
    """dilation: of the mask, as share of the frame's shorter side, by which it grows on all sides.

    max_masked: share of the frame; where more is hidden there is nothing to continue the background from.
    detection_score: a removed word that is detected with more was not removed.
    """

    dilation: float = 0.02  # the authors' code grows by some 5 pixels of 240
    max_masked: float = 0.75
    detection_score: float = 0.4


def background_word(clip: Clip) -> str | None:
    """The word that names the place; clips without one get no background picture."""
    return next((entity.word for entity in clip.entities if entity.kind == "background"), None)


def read_frame(clip: Clip) -> Outcome:
    """The clip with its middle frame (which stands for all three), from its file in the shard."""
    from PIL import Image

    frame = np.asarray(Image.open(io.BytesIO(clip.files[f"f{MIDDLE}.jpg"])).convert("RGB"))
    frames = np.broadcast_to(frame, (len(FRAME_TIMES), *frame.shape))
    return replace(clip, files={}, pixels=Pixels(np.zeros((0, 27, 48, 3), np.uint8), frame[None], frames))


def paint_background(clip: Clip, inpainter: Inpainter, rules: BackgroundRules) -> Outcome:
    """The clip with its background picture, still to be verified. The same clip gives the same picture."""
    word, pixels = background_word(clip), clip.pixels
    assert pixels is not None and word is not None, "expected a decoded clip with a background word"
    visible = {one.entity for one in clip.sightings if one.frame == MIDDLE}
    hidden = [e.word for row, e in enumerate(clip.entities) if e.kind != "background" and row not in visible]
    if hidden:  # it may well be in the picture; nobody knows where
        return reject(clip, "background_not_clean", f"{hidden[0]!r} was not found in the middle frame")
    mask = foreground(clip, rules)
    clip = replace(clip, measures={**clip.measures, "background_masked": float(mask.mean())})
    if mask.mean() > rules.max_masked:
        detail = f"{mask.mean():.0%} of the frame is hidden; accepted up to {rules.max_masked:.0%}"
        return reject(clip, "background_not_clean", detail)
    painted = inpainter(pixels.frames[MIDDLE], mask, word, seed_of(clip.id))
    return replace(clip, pixels=replace(pixels, background=painted))


def verify_backgrounds(clips: Sequence[Clip], detector: Detector, rules: BackgroundRules) -> list[Outcome]:
    """The clips in whose background picture none of the removed words is detected any more."""
    pictures = []
    for clip in clips:
        assert clip.pixels is not None and clip.pixels.background is not None, "paint a background before verifying it"
        pictures.append(clip.pixels.background)
    words = [list(grounded_words(clip).values()) for clip in clips]
    outcomes: list[Outcome] = []
    for clip, asked, by_word in zip(clips, words, detector(pictures, words), strict=True):
        scores = [max((one.score for one in candidates), default=0.0) for candidates in by_word]
        worst = int(np.argmax(scores))
        clip = replace(clip, measures={**clip.measures, "background_residue": float(scores[worst])})
        if scores[worst] > rules.detection_score:
            detail = f"{asked[worst]!r} is still detected, score {scores[worst]:.2f}"
            outcomes.append(reject(clip, "background_not_clean", detail))
        else:
            outcomes.append(clip)
    return outcomes


def foreground(clip: Clip, rules: BackgroundRules) -> np.ndarray:
    """(H, W) bool: all sightings of the middle frame, grown, without holes."""
    assert clip.pixels is not None
    height, width = clip.pixels.frames.shape[1:3]
    union = np.zeros((height, width), dtype=bool)
    for one in clip.sightings:
        if one.frame == MIDDLE:
            union |= decode_mask(one.mask)
    radius = max(1, round(rules.dilation * min(height, width)))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    grown = cv2.dilate(union.astype(np.uint8), kernel)
    # Holes are what does not hang together with a margin around the picture.
    outside = np.pad(grown, 1)
    cv2.floodFill(outside, None, (0, 0), (2,))
    return outside[1:-1, 1:-1] != 2


def seed_of(clip_id: str) -> int:
    return int.from_bytes(hashlib.sha256(clip_id.encode()).digest()[:4], "big")
