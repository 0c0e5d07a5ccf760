"""Quality without references: each measure on videos whose defect is known, and blind to what is no defect."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from video_alchemist.benchmark.quality import flicker, learned_quality, motion_smoothness, sharpness
from video_alchemist.benchmark.rows import Row

F, H, W = 12, 48, 64
BLOCKS = np.random.default_rng(0).integers(0, 2, size=(H // 8, W // 8, 1)).repeat(8, axis=0).repeat(8, axis=1) * 255
SHARP = BLOCKS.repeat(3, axis=2).astype(np.uint8)
TEXTURE = cv2.GaussianBlur(SHARP, (0, 0), 1.5)


def analysis(frames: Any = None, flows: Any = None) -> Any:
    frames = np.stack([TEXTURE] * F) if frames is None else np.asarray(frames)
    return SimpleNamespace(frames=frames, flows=flows, row=partial(Row, "clip"))


def value(metric: Any, **given: Any) -> float:
    (row,) = metric(analysis(**given))
    assert (row.id, row.metric, row.word) == ("clip", metric.__name__, "")
    return row.value


def lit(gains: Any) -> np.ndarray:
    return np.stack([(TEXTURE * gain).round().astype(np.uint8) for gain in gains])


def patched(places: Any) -> np.ndarray:
    frames = np.stack([TEXTURE] * len(places))
    for frame, x in zip(frames, places, strict=True):
        frame[10:30, x : x + 16] = 255
    return frames


def test_flicker_sees_jumping_light_but_no_fade_and_no_motion() -> None:
    """Guards against a plain frame difference, which calls fades and moving things flicker. Margin: 20-fold."""
    assert value(flicker) == 0
    jumping = value(flicker, frames=lit([1.0, 0.9] * 6))
    assert jumping == pytest.approx(0.1 * np.median(TEXTURE) / 255, rel=0.1)  # as far as the light jumps
    assert value(flicker, frames=lit(np.linspace(0.5, 1, F))) < jumping / 20
    assert value(flicker, frames=patched(range(0, 4 * F, 4))) < jumping / 20
    black_and_white = np.zeros((F, H, W, 3), np.uint8)
    black_and_white[::2] = 255
    assert value(flicker, frames=black_and_white) == 1


def test_sharpness_orders_blur_and_ignores_contrast() -> None:
    """Guards against the bare variance of the Laplacian, which falls with contrast. Margins: 1.5-fold a doubling of
    the blur, 5 % for contrast."""
    blurred = [value(sharpness, frames=[cv2.GaussianBlur(SHARP, (0, 0), sigma)] * 2) for sigma in (0.5, 1, 2, 4)]
    assert all(sharp > 1.5 * soft for sharp, soft in zip(blurred[:-1], blurred[1:], strict=True))
    assert value(sharpness, frames=lit([0.5])) == pytest.approx(value(sharpness, frames=lit([1.0])), rel=0.05)
    assert value(sharpness, frames=np.full((2, H, W, 3), 77, np.uint8)) == 0


def test_sharpness_is_of_what_is_seen_whatever_the_size() -> None:
    """Guards against rewarding or punishing a method for its resolution alone: an enlarged video has gained nothing."""
    large = cv2.resize(TEXTURE, (4 * W, 4 * H), interpolation=cv2.INTER_CUBIC)
    assert value(sharpness, frames=[large]) == pytest.approx(value(sharpness, frames=[TEXTURE]), rel=0.1)


def still_then(*steps: float) -> np.ndarray:
    """Flows of a patch that goes `steps` pixels to the right, frame by frame, over a still ground."""
    flows, x = np.zeros((len(steps), H, W, 2), np.float32), 20.0
    for flow, step in zip(flows, steps, strict=True):
        flow[10:30, round(x) : round(x) + 16, 0] = step
        x += step
    return flows


def test_motion_smoothness_ranks_steady_jumpy_and_trembling() -> None:
    """Guards against comparing flows at the same pixel: a patch in steady flight leaves its pixels. Written margins:
    stills 1, steady > 0.9 (a patch covers and uncovers ground), stop and go 0.4 to 0.7, trembling < 0.2."""
    assert value(motion_smoothness, flows=still_then(*[3.0] * 8)) > 0.9
    assert 0.4 < value(motion_smoothness, flows=still_then(*[6.0, 6.0, 0.0] * 2)) < 0.7
    assert value(motion_smoothness, flows=still_then(*[6.0, -6.0] * 4)) < 0.2
    assert value(motion_smoothness, flows=still_then(*[0.0] * 8)) == 1


def test_noise_of_the_flow_network_is_not_motion() -> None:
    """Guards against a still video called shaky because a network answers hundredths of a pixel instead of none."""
    flows = np.random.default_rng(0).normal(0, 0.01, size=(8, H, W, 2)).astype(np.float32)
    assert value(motion_smoothness, flows=flows) > 0.9


def test_learned_quality_is_the_mean_over_frames() -> None:
    """Guards against frames that are embedded a second time for it, and a single frame that speaks for all."""
    embeddings = np.array([[1.0, 0.0], [0.5, 2.0], [3.0, 1.0]], np.float32)
    models = SimpleNamespace(quality=lambda seen: seen.sum(axis=1))
    (row,) = learned_quality(SimpleNamespace(frame_embeddings=embeddings, models=models, row=partial(Row, "clip")))
    assert (row.metric, row.value, row.frames) == ("learned_quality", pytest.approx(7.5 / 3), 3)


@pytest.mark.parametrize("metric", [flicker, motion_smoothness])
def test_single_pictures_have_no_value(metric: Any) -> None:
    """Guards against text-to-image methods scoring perfect steadiness (Table 1, †)."""
    (row,) = metric(analysis(frames=[TEXTURE], flows=np.zeros((0, H, W, 2), np.float32)))
    assert row.value is None and "fewer than" in row.note
