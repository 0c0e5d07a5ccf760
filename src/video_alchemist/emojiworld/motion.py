"""Where every actor is at every moment: one affine map a frame, from the sprite's square to the frame.

F frames · u time in the clip, 0 to 1. Frame halves: (-1, -1) top left, (1, 1) bottom right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from video_alchemist.emojiworld.scenes import Actor, Scene


@dataclass
class Pose:
    """x, y centre; width, height relative to the resting size; turn in radians; shear; all (F,)."""

    x: np.ndarray
    y: np.ndarray
    width: np.ndarray
    height: np.ndarray
    turn: np.ndarray
    shear: np.ndarray


def pose(scene: Scene, index: int, u: np.ndarray) -> Pose:
    """An actor's pose at times u (F,): its action around its place of rest."""
    actor = scene.actors[index]
    one, zero = np.ones_like(u), np.zeros_like(u)
    p = Pose(actor.x * one, actor.y * one, one.copy(), one.copy(), actor.tilt * one, zero.copy())
    _act(p, actor, scene, u)
    return p


def _act(p: Pose, actor: Actor, scene: Scene, u: np.ndarray) -> None:
    wave = np.sin(2 * np.pi * (actor.speed * u + actor.phase))
    side = actor.direction
    match actor.action:
        case "jumps":
            hop = np.abs(np.sin(np.pi * (2 * actor.speed * u + actor.phase)))
            p.y -= 0.55 * hop
            p.height *= 0.88 + 0.17 * hop
        case "spins":
            p.turn += side * 2 * np.pi * actor.speed * u
        case "sways":
            p.turn += 0.45 * wave
        case "grows":
            p.width *= 0.55 + 0.75 * u
            p.height *= 0.55 + 0.75 * u
        case "shrinks":
            p.width *= 1.25 - 0.75 * u
            p.height *= 1.25 - 0.75 * u
        case "shakes":
            p.x += 0.13 * np.sin(2 * np.pi * (3 * actor.speed * u + actor.phase))
        case "runs":
            p.x += side * 1.1 * (u - 0.5)
            p.y -= 0.07 * np.abs(np.sin(6 * np.pi * u))
        case "rises":
            p.y += 0.25 - 0.95 * u
        case "falls":
            p.y += -0.75 + 0.95 * u
        case "flips":
            p.width *= np.cos(2 * np.pi * (actor.speed * u + actor.phase))
        case "circles":
            angle = 2 * np.pi * (side * actor.speed * u + actor.phase)
            p.x += 0.28 * np.cos(angle)
            p.y += 0.28 * np.sin(angle) - 0.15
        case "waves":
            p.shear += 0.55 * np.sin(2 * np.pi * (2 * actor.speed * u + actor.phase))
        case "meets":
            other = scene.actors[actor.partner] if actor.partner is not None else actor
            target = (actor.x + other.x) / 2 - side * 0.7 * actor.scale
            start = actor.x - side * 0.25
            p.x = start + (target - start) * np.clip(1.4 * u, 0, 1)
        case "hides behind":
            other = scene.actors[actor.partner] if actor.partner is not None else actor
            hidden = np.clip(1.5 * u, 0, 1)
            p.x = actor.x + (other.x - actor.x) * hidden
            p.y = actor.y + (other.y - actor.y) * hidden


def affine(scene: Scene, index: int, u: np.ndarray, aspect: float) -> np.ndarray:
    """Sprite square [-1, 1]^2 -> frame halves, camera included: (F, 2, 3). aspect: frame width over height."""
    actor, p = scene.actors[index], pose(scene, index, u)
    pan_x, pan_y, zoom = camera(scene, u)
    flip = -1.0 if actor.mirrored else 1.0
    cos, sin = np.cos(p.turn), np.sin(p.turn)
    width, height = actor.scale * p.width * flip, actor.scale * p.height
    # turn @ shear @ scale, then the frame's aspect: sprites stay square in wide frames.
    a, b = cos * width, (cos * p.shear - sin) * height
    c, d = sin * width, (sin * p.shear + cos) * height
    maps = np.stack([a / aspect, b / aspect, p.x + pan_x, c, d, p.y + pan_y], axis=-1) * zoom[:, None]
    return maps.reshape(-1, 2, 3)


def shadow(scene: Scene, index: int, u: np.ndarray, aspect: float) -> np.ndarray:
    """The actor's shadow on the ground under it: (F, 4) centre x, y and half axes in frame halves, camera included.

    It stays on the ground while the actor rises from it, and gets smaller.
    """
    actor, p = scene.actors[index], pose(scene, index, u)
    pan_x, pan_y, zoom = camera(scene, u)
    lift = np.clip(actor.y - p.y, 0, 1)
    width = 0.75 * actor.scale * (1 - 0.5 * lift) * np.maximum(np.abs(p.width), 0.3)
    ground = (actor.y + 0.93 * actor.scale) * np.ones_like(u)
    return np.stack([p.x + pan_x, ground + pan_y, width / aspect, 0.22 * width], axis=-1) * zoom[:, None]


def camera(scene: Scene, u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shift in frame halves and magnification at times u; none in the middle of the clip."""
    tau = u - 0.5
    pan_x, pan_y, zoom = scene.camera
    shake_x = shake_y = np.zeros_like(u)
    if scene.undesirable == "slight_motion":
        shake_x = 0.012 * np.sin(9 * u + scene.seed % 7)
        shake_y = 0.012 * np.cos(7 * u + scene.seed % 5)
    return pan_x * tau + shake_x, pan_y * tau + shake_y, np.exp(zoom * tau)
