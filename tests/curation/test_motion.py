"""Motion tells moving from still, and a pan from a subject; hashes tell pictures apart."""

from __future__ import annotations

import numpy as np

from video_alchemist.curation.clip import Clip, Pixels, Rejected, Source
from video_alchemist.curation.motion import difference_hash, measure_motion, motion_of


def picture(seed: int = 0) -> np.ndarray:
    """(27, 60, 3) uint8, smooth as pictures are."""
    y, x = np.mgrid[0:27, 0:60].astype(float)
    waves = sum(np.sin(x * a + y * b + c) for a, b, c in np.random.default_rng(seed).uniform(0.05, 0.4, (5, 3)))
    return np.repeat((128 + 20 * waves).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def clip_of(tiny: np.ndarray) -> Clip:
    nothing = np.zeros((16, 8, 8, 3), np.uint8)
    return Clip("a", Source("a", "a.mp4"), pixels=Pixels(tiny, nothing, nothing[:3]))


def test_a_pan_is_motion_without_residue() -> None:
    """Guards against still pictures that pass because the camera moves over them: what a pan explains is measured."""
    pan = np.stack([picture()[:, i // 2 : i // 2 + 48] for i in range(17)])
    walk = np.repeat(picture()[None, :, :48], 17, axis=0)
    for i in range(17):
        walk[i, 10:18, 2 * i : 2 * i + 8] = 255
    (pan_motion, pan_residue), (walk_motion, walk_residue) = motion_of(pan), motion_of(walk)
    assert pan_motion > 2 and pan_residue < 0.25 * pan_motion
    assert walk_motion > 2 and walk_residue > 0.75 * walk_motion


def test_still_clips_leave() -> None:
    """Guards against stills in the training data, and against slow motion taken for none at high frame rates."""
    still = np.repeat(picture()[None, :, :48], 30, axis=0)
    outcome = measure_motion(clip_of(still), 0.1)
    assert isinstance(outcome, Rejected) and outcome.code == "no_motion" and outcome.clip.measures["motion"] == 0
    slow = np.stack([np.roll(picture()[:, :48], i // 60, axis=1) for i in range(480)])
    kept = measure_motion(clip_of(slow), 0.5)
    assert isinstance(kept, Clip) and kept.measures["motion"] > 0.5 and len(kept.perceptual_hash) == 16


def test_one_frame_does_not_move() -> None:
    assert motion_of(picture()[None, :, :48]) == (0.0, 0.0)


def test_hashes() -> None:
    """Guards against hashes that follow brightness or noise rather than the picture."""

    def distance(a: np.ndarray, b: np.ndarray) -> int:
        return (int(difference_hash(a), 16) ^ int(difference_hash(b), 16)).bit_count()

    one, other = picture(0)[:, :48], picture(1)[:, :48]
    noisy = (one.astype(int) + np.random.default_rng(0).integers(-3, 4, one.shape) - 20).clip(0, 255).astype(np.uint8)
    assert distance(one, noisy) <= 6
    assert distance(one, other) >= 16
    assert difference_hash(np.zeros((27, 48, 3), np.uint8)) == "0" * 16
