"""Backgrounds without their subjects: grown masks, the right prompt and seed, and nothing left to detect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from video_alchemist.curation.background import (
    BackgroundRules,
    background_word,
    foreground,
    paint_background,
    seed_of,
    verify_backgrounds,
)
from video_alchemist.curation.clip import Clip, Pixels, Rejected, Sighting, Source
from video_alchemist.dataset.masks import encode_mask
from video_alchemist.pretrained.detector import Detection
from video_alchemist.pretrained.inpainter import TeleaInpainter
from video_alchemist.records import Entity

RULES = BackgroundRules(dilation=0.05)  # 2 pixels of 40
ENTITIES = (Entity("dog", "subject", (2, 5)), Entity("beach", "background", (10, 15)))


def clip_of(mask: np.ndarray, frame: int = 1, entities: tuple[Entity, ...] = ENTITIES) -> Clip:
    """A grey gradient with a white subject in the mask."""
    frames = np.repeat(np.arange(60, dtype=np.uint8)[None, None, :, None] * 2, 3, axis=3).repeat(40, 1).repeat(3, 0)
    frames[frame][mask] = 255
    sighting = Sighting(0, frame, (0, 0, 1, 1), 0.8, 0.9, encode_mask(mask))
    pixels = Pixels(frames, frames, frames)
    return Clip("a-0-1", Source("a", "a.mp4"), entities=entities, sightings=(sighting,), pixels=pixels)


def ring() -> np.ndarray:
    y, x = np.mgrid[0:40, 0:60]
    distance = np.hypot(y - 20, x - 30)
    return (distance < 9) & (distance > 6)


def whites(frames: Sequence[np.ndarray], words: Sequence[Sequence[str]]) -> list[list[list[Detection]]]:
    """A detector for tests: sees a dog wherever there are white pixels."""
    return [
        [[Detection((0, 0, 9, 9), float((frame > 250).all(axis=-1).mean() * 50))] for word in row]
        for frame, row in zip(frames, words, strict=True)
    ]


def test_masks_grow_and_lose_their_holes() -> None:
    """Guards against rims of the subject, and against what shines through between its legs."""
    grown = foreground(clip_of(ring()), RULES)
    y, x = np.mgrid[0:40, 0:60]
    distance = np.hypot(y - 20, x - 30)
    assert grown[distance < 10].all() and not grown[distance > 12.5].any()
    corner = np.zeros((40, 60), bool)
    corner[:20, :20] = ring()[8:28, 18:38]  # touches nothing: a hole stays a hole's worth of mask
    assert foreground(clip_of(corner), RULES)[12, 12]


def test_painted_and_verified() -> None:
    """Guards against pictures that still show the subject, or that change where nothing was to be removed."""
    clip = clip_of(ring())
    painted = paint_background(clip, TeleaInpainter(), RULES)
    assert isinstance(painted, Clip) and painted.pixels is not None and painted.pixels.background is not None
    mask, before = foreground(clip, RULES), clip.pixels.frames[1] if clip.pixels else None
    np.testing.assert_array_equal(painted.pixels.background[~mask], before[~mask])
    assert painted.measures["background_masked"] == mask.mean()
    (verified,) = verify_backgrounds([painted], whites, RULES)
    assert isinstance(verified, Clip) and verified.measures["background_residue"] == 0
    dirty = replace(painted, pixels=replace(painted.pixels, background=before))
    (rejected,) = verify_backgrounds([dirty], whites, RULES)
    assert isinstance(rejected, Rejected) and rejected.code == "background_not_clean"
    assert rejected.detail.startswith("'dog' is still detected") and rejected.clip.measures["background_residue"] > 0.4


def test_what_the_inpainter_is_told() -> None:
    """Guards against prompts of the caption, and against seeds that depend on when or where a clip is painted."""
    asked = []

    def inpainter(frame: np.ndarray, mask: np.ndarray, prompt: str, seed: int) -> np.ndarray:
        asked.append((frame.shape, mask.sum(), prompt, seed))
        return frame

    paint_background(clip_of(ring()), inpainter, RULES)
    paint_background(clip_of(ring()), inpainter, RULES)
    assert asked[0] == asked[1] and asked[0][2:] == ("beach", seed_of("a-0-1"))
    assert seed_of("a-0-1") != seed_of("b-0-1") and 0 <= seed_of("x") < 2**32


def test_subjects_that_nobody_saw_in_the_middle_frame() -> None:
    """Guards against a background with a subject in it that was found only in the other frames."""
    outcome = paint_background(clip_of(ring(), frame=0), TeleaInpainter(), RULES)
    assert isinstance(outcome, Rejected) and outcome.detail == "'dog' was not found in the middle frame"


def test_hardly_any_background() -> None:
    outcome = paint_background(clip_of(np.ones((40, 60), bool)), TeleaInpainter(), RULES)
    assert isinstance(outcome, Rejected) and outcome.code == "background_not_clean"


def test_background_word() -> None:
    assert background_word(clip_of(ring())) == "beach"
    assert background_word(clip_of(ring(), entities=ENTITIES[:1])) is None
