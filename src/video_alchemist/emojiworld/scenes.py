"""What happens in an EmojiWorld clip, as pure descriptions: who, doing what, where, under which light and camera.

No pixels here: `captions` puts a scene into words, `render` into frames, both from the same description, so that the
words of a clip and everything in its picture are known.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from video_alchemist.emojiworld.assets import HUES, Assets, Identity

Split = Literal["train", "test_concept", "test_artist"]
Light = Literal["day", "night", "sunset"]
Undesirable = Literal["still_foreground", "slight_motion", "screen_in_screen", "screen_recording"]
SPLITS: tuple[Split, ...] = ("train", "test_concept", "test_artist")
UNDESIRABLE: tuple[Undesirable, ...] = ("still_foreground", "slight_motion", "screen_in_screen", "screen_recording")

MAX_ACTORS = 3
NUM_ACTORS_SHARES = (0.45, 0.37, 0.18)  # one, two, three actors
BROAD_SHARE = 0.25  # named "animal" instead of "fox"
TINT_SHARE = 0.3
COLOUR_IN_WORDS_SHARE = 0.5
JITTER_SHARE = 0.5
CAMERA_SHARE = 0.5

SOLO_ACTIONS = (
    "jumps", "spins", "sways", "grows", "shrinks", "shakes", "runs", "rises", "falls", "flips", "circles", "waves",
    "waits",
)  # fmt: skip
PAIR_ACTIONS = ("hides behind", "meets")
ACTIONS = SOLO_ACTIONS + PAIR_ACTIONS
# Whoever is hidden behind must stay where it is and keep its size.
COVER_ACTIONS = ("sways", "shakes", "waves", "waits")

# word -> (preposition and article of the caption, lights it is seen under)
BACKGROUNDS: dict[str, tuple[str, tuple[Light, ...]]] = {
    "beach": ("on a", ("day", "night", "sunset")),
    "sea": ("at the", ("day", "night", "sunset")),
    "snowy mountain": ("on a", ("day", "night", "sunset")),
    "desert": ("in the", ("day", "night", "sunset")),
    "night sky": ("in the", ("night",)),
    "moon": ("on the", ("night",)),
    "kitchen": ("in a", ("day", "night")),
    "bedroom": ("in a", ("day", "night")),
    "lake": ("by a", ("day", "night", "sunset")),
    "hill": ("on a", ("day", "night", "sunset")),
    "forest": ("in a", ("day", "night", "sunset")),
    "meadow": ("on a", ("day", "night", "sunset")),
    "city": ("in a", ("day", "night", "sunset")),
    "village": ("in a", ("day", "night", "sunset")),
    "jungle": ("in the", ("day", "night")),
    "garden": ("in a", ("day", "night", "sunset")),
}


@dataclass(frozen=True)
class Actor:
    """One subject or object and its motion.

    identity: index into the assets' sprites. word: what the caption calls it, without colour.
    x, y: rest position of its centre in frame halves, (-1, -1) top left; scale: its height over the frame's.
    colour: name of its tint; colour_in_words: whether the caption says so.
    hue (radians) and saturation: a recolouring no word tells of; (0, 1) leaves the artist's colours.
    phase, speed in cycles and relative tempo; direction: -1 | 1; tilt in radians; bend: sideways bow of the sprite.
    depth: the larger, the nearer to the camera; unique in a scene.
    """

    identity: int
    word: str
    kind: str
    action: str
    colour: str | None = None
    colour_in_words: bool = False
    broad: bool = False
    partner: int | None = None
    x: float = 0.0
    y: float = 0.2
    scale: float = 0.5
    phase: float = 0.0
    speed: float = 1.0
    direction: int = 1
    mirrored: bool = False
    tilt: float = 0.0
    bend: float = 0.0
    depth: int = 0
    hue: float = 0.0
    saturation: float = 1.0


@dataclass(frozen=True)
class Background:
    """A named place; every seed is another one of that name."""

    name: str
    seed: int


@dataclass(frozen=True)
class Scene:
    """A clip's description. camera: (pan x, pan y, log zoom) over the whole clip, in frame halves."""

    actors: tuple[Actor, ...]
    background: Background
    light: Light = "day"
    camera: tuple[float, float, float] = (0.0, 0.0, 0.0)
    seed: int = 0
    undesirable: Undesirable | None = None


def sample_scene(
    rng: np.random.Generator,
    assets: Assets,
    split: Split = "train",
    num_actors: int | None = None,
    undesirable: Undesirable | None = None,
) -> Scene:
    """A random scene whose actors are all of `split`; the same generator state gives the same scene."""
    if num_actors is None:
        num_actors = int(rng.choice(MAX_ACTORS, p=NUM_ACTORS_SHARES)) + 1
    if not 1 <= num_actors <= MAX_ACTORS:
        raise ValueError(f"num_actors={num_actors} is out of range: expected 1 to {MAX_ACTORS}")
    name = str(rng.choice(list(BACKGROUNDS)))
    light = rng.choice(BACKGROUNDS[name][1])
    actors = _cast(rng, _pool(assets, split), num_actors, name)
    actors = _place(rng, [_paint(rng, actor, taken=_words(name, actors)) for actor in actors])
    actors = _direct(rng, actors)
    return Scene(
        actors=tuple(actors),
        background=Background(name, int(rng.integers(2**31))),
        light=str(light),  # type: ignore[arg-type]
        camera=_camera(rng, undesirable),
        seed=int(rng.integers(2**31)),
        undesirable=undesirable,
    )


_Pool = dict[str, dict[str, list[Identity]]]  # kind -> concept -> identities
_last_pools: tuple[Assets, dict[str, _Pool]] | None = None


def _pool(assets: Assets, split: Split) -> _Pool:
    """The identities of a split by kind and concept; kept for the assets seen last."""
    global _last_pools
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is unknown: expected one of {', '.join(SPLITS)}")
    if _last_pools is None or _last_pools[0] is not assets:
        pools: dict[str, _Pool] = {name: defaultdict(lambda: defaultdict(list)) for name in SPLITS}
        for identity in assets.identities:
            pools[identity.split][identity.kind][identity.concept].append(identity)
        _last_pools = (assets, pools)
    return _last_pools[1][split]


def _cast(rng: np.random.Generator, pool: _Pool, num_actors: int, background: str) -> list[Actor]:
    """Draw concept, then identity, so that much-drawn concepts are not favoured; no two actors share a word."""
    actors: list[Actor] = []
    broader: list[str] = []
    while len(actors) < num_actors:
        wants_subject = not actors or rng.random() < 0.6
        kind = "subject" if (wants_subject and pool["subject"]) or not pool["object"] else "object"
        concept = str(rng.choice(list(pool[kind])))
        identities = pool[kind][concept]
        identity = identities[rng.integers(len(identities))]
        # "An animal and a fox" would leave open who is who.
        broad = bool(rng.random() < BROAD_SHARE) and identity.broader not in broader
        if identity.broader in {actor.word for actor in actors}:
            continue
        word = identity.broader if broad else identity.concept
        if _words(word) & (_words(background, actors) | _words(*HUES)):
            continue
        actors.append(Actor(identity=identity.index, word=word, kind=kind, action="waits", broad=broad))
        broader.append(identity.broader)
    return actors


def _words(*texts: str | list[Actor]) -> set[str]:
    """Every single word of some texts and of some actors' names."""
    names = [text if isinstance(text, str) else " ".join(actor.word for actor in text) for text in texts]
    return set(" ".join(names).split())


def _paint(rng: np.random.Generator, actor: Actor, taken: set[str]) -> Actor:
    """Named tint or unnamed recolouring, mirror, tilt and bend: what makes one drawing many identities and poses."""
    colours = [name for name in HUES if name not in taken]
    tinted, jittered = rng.random() < TINT_SHARE, rng.random() < JITTER_SHARE
    colour, hue, saturation = str(rng.choice(colours)), rng.uniform(-np.pi, np.pi), rng.uniform(0.6, 1.3)
    in_words = bool(tinted and rng.random() < COLOUR_IN_WORDS_SHARE)
    jittered = jittered and not tinted
    return replace(
        actor,
        colour=colour if tinted else None,
        colour_in_words=in_words,
        hue=float(hue) if jittered else 0.0,
        saturation=float(saturation) if jittered else 1.0,
        mirrored=bool(rng.random() < 0.5),
        tilt=float(rng.uniform(-0.2, 0.2)) if rng.random() < 0.5 else 0.0,
        bend=float(rng.uniform(-0.2, 0.2)) if rng.random() < 0.3 else 0.0,
        phase=0.1 * float(rng.random()),  # from near rest: what has just begun is easier to foresee
        speed=float(rng.uniform(0.85, 1.2)),
        direction=int(rng.choice((-1, 1))),
    )


def _place(rng: np.random.Generator, actors: list[Actor]) -> list[Actor]:
    """Spread actors over the frame's width, standing on its lower half, the lower the nearer."""
    count = len(actors)
    columns = rng.permutation({1: [0.0], 2: [-0.45, 0.45], 3: [-0.62, 0.0, 0.62]}[count])
    low, high = {1: (0.45, 0.65), 2: (0.4, 0.55), 3: (0.35, 0.43)}[count]
    feet = rng.uniform(0.5, 0.9, size=count)
    depth = np.argsort(np.argsort(feet))
    placed = []
    for i, actor in enumerate(actors):
        scale = float(rng.uniform(low, high))
        x = float(columns[i] + rng.uniform(-1, 1) * (0.25 if count == 1 else 0.08))
        placed.append(replace(actor, x=x, y=float(feet[i]) - scale, scale=scale, depth=int(depth[i])))
    return placed


def _direct(rng: np.random.Generator, actors: list[Actor]) -> list[Actor]:
    """Give every actor an action of its own; with two or more, sometimes one that takes a partner."""
    actions = list(rng.permutation(SOLO_ACTIONS)[: len(actors)])
    actors = [replace(actor, action=str(action)) for actor, action in zip(actors, actions, strict=True)]
    if len(actors) == 1 or rng.random() > 0.3:
        return actors
    first, second = actors[0], actors[1]
    if rng.random() < 0.5:
        actors[0] = replace(first, action="meets", partner=1, direction=1 if first.x < second.x else -1)
        actors[1] = replace(second, action="meets", partner=0, direction=-1 if first.x < second.x else 1)
        return actors
    free = [action for action in COVER_ACTIONS if action not in {str(a) for a in actions[2:]}]
    near, far = max(first.depth, second.depth), min(first.depth, second.depth)
    scale = max(first.scale, second.scale) * 1.1
    actors[0] = replace(first, action="hides behind", partner=1, depth=far, scale=min(first.scale, 0.9 * scale))
    actors[1] = replace(second, action=str(rng.choice(free)), depth=near, scale=scale)
    return actors


def _camera(rng: np.random.Generator, undesirable: Undesirable | None) -> tuple[float, float, float]:
    """Pan and zoom of the clip: half of the clips have a resting camera, a still foreground moves by camera alone."""
    moves = rng.random() < CAMERA_SHARE
    pan_x, pan_y, zoom = rng.uniform(-1, 1, size=3)
    if undesirable == "still_foreground":
        return 0.2 + 0.2 * float(abs(pan_x)), 0.2 * float(pan_y), 0.35 * float(np.sign(zoom))
    if undesirable == "slight_motion" or not moves:
        return 0.0, 0.0, 0.0
    return 0.3 * float(pan_x), 0.12 * float(pan_y), 0.3 * float(zoom)
