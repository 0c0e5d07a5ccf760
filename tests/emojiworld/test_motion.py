"""How actors move: slowly enough that four frames, which are one latent, show nearly the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from video_alchemist.emojiworld.assets import load_assets
from video_alchemist.emojiworld.motion import TEMPO, Pose, affine, pose
from video_alchemist.emojiworld.scenes import SOLO_ACTIONS, Scene, sample_scene

FRAMES = np.linspace(0, 1, 17)


def scene_of(action: str, **changes: float) -> Scene:
    scene = sample_scene(np.random.default_rng(0), load_assets(), num_actors=1)
    actor = replace(scene.actors[0], action=action, phase=0.0, speed=1.0, direction=1, tilt=0.0, **changes)
    return replace(scene, actors=(actor,), camera=(0.0, 0.0, 0.0))


def moves(action: str) -> Pose:
    return pose(scene_of(action), 0, FRAMES)


def test_cycles_of_a_clip() -> None:
    """Guards against a pace that latents smear: half a turn, one hop, one and a half shakes."""
    assert moves("spins").turn[-1] == pytest.approx(2 * np.pi * TEMPO) == pytest.approx(np.pi)
    hop = moves("jumps").y
    assert hop[0] == pytest.approx(hop[-1]) and hop.argmin() == 8
    turns = np.diff(np.sign(np.diff(moves("shakes").x))) != 0
    assert turns.sum() == 3


@pytest.mark.parametrize("action", [action for action in SOLO_ACTIONS if action != "waits"])
def test_four_frames_show_nearly_the_same(action: str) -> None:
    """Guards against one action that is left fast: corners of an actor go no farther than half of its side within
    four frames."""
    scene = scene_of(action, scale=0.5)
    maps = affine(scene, 0, FRAMES, 1.0)                                                   # (F, 2, 3)
    corners = maps @ np.array([[-1, 1, -1, 1], [-1, -1, 1, 1], [1, 1, 1, 1]])              # (F, 2, 4)
    way = np.linalg.norm(corners[3:] - corners[:-3], axis=1).max()
    assert way < 0.5 * 2 * scene.actors[0].scale, way


def test_who_waits_stays() -> None:
    """Guards against motion that no caption tells of."""
    still = moves("waits")
    assert all(np.ptp(value) == 0 for value in vars(still).values())
