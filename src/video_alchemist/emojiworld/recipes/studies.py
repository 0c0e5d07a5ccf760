"""What is asked of the shipped model to judge it, and how its answers are measured.

N samples · F frames · H,W pixels · A actors · G candidates · P patches of a frame
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from video_alchemist.emojiworld.assets import load_assets
from video_alchemist.emojiworld.captions import caption
from video_alchemist.emojiworld.recipes.judges import (
    Judges,
    describe_frames,
    describe_pictures,
    halves,
    match,
    portraits,
    restage,
)
from video_alchemist.emojiworld.recipes.scale import Scale
from video_alchemist.emojiworld.recipes.world import render_references, sample_scenes
from video_alchemist.emojiworld.render import render
from video_alchemist.emojiworld.scenes import BACKGROUNDS, SOLO_ACTIONS, Actor, Background, Scene, Split
from video_alchemist.records import Reference

BATCH = 16
NUM_CANDIDATES = 20
NUM_SAME_KIND = 10  # candidates of the same kind of thing, the true one among them
NUM_SAME_NAME = 5  # places of the same name, the true one among them
JUDGED_TIMES = (0.2, 0.5, 0.8)
SEED = 910_000
SPLIT_NAMES: dict[Split, str] = {
    "train": "seen identities",
    "test_concept": "held-out concepts",
    "test_artist": "held-out artist",
}
# Told apart in half a frame, whoever does them.
ACTION_PAIRS = (
    ("jumps", "spins"), ("grows", "shakes"), ("flips", "rises"), ("waves", "falls"),
    ("shrinks", "sways"), ("jumps", "shrinks"), ("spins", "rises"), ("grows", "falls"),
)  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """What the model is asked for, and the scene it comes from."""

    scene: Scene
    prompt: str
    references: tuple[Reference, ...] = ()


Measure = Callable[[Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class Study:
    """Samples and a measure: videos (N, 3, F, H, W) uint8 => a number a sample (N,) for each of its metrics.

    bounds: measure the true clips and their reconstructions too.
    """

    name: str
    samples: list[Sample]
    measure: Measure
    chance: float
    bounds: bool = True


def identity(
    judges: Judges, scale: Scale, split: Split, num_references: int, num_samples: int, seed: int = SEED
) -> Study:
    """One actor, some pictures of it: which of 20 candidates, in yet another pose, is found in the video?"""
    scenes = visible_scenes(scale, split, 1, num_samples, seed)
    pictures = render_references(scenes, load_assets(), scale.size, scale.reference_size, "cpu").pictures
    order = (1, 0, 2)[:num_references]  # the middle frame first
    samples = [
        Sample(scene, words(scene), tuple(actor_reference(scene, 0, pictures[i], k) for k in order))
        for i, scene in enumerate(scenes)
    ]
    rng = np.random.default_rng((seed, 1))
    cast = [actor for scene in scenes for actor in candidates(scene.actors[0], split, rng)]
    gallery = portraits(restage(cast, seed + 1, 0), "cpu").unflatten(0, (num_samples, NUM_CANDIDATES))
    pictures_given = {0: "no picture", 1: "1 picture"}.get(num_references, f"{num_references} pictures")
    name = f"identity, {SPLIT_NAMES[split]}, {pictures_given}"
    return Study(name, samples, retrieval(judges, gallery), 1 / NUM_CANDIDATES, bounds=num_references == 1)


def background(judges: Judges, scale: Scale, num_samples: int, seed: int = SEED + 10) -> Study:
    """A place by its picture: which of 20 places, five of that name and all in that light, is found in the video?"""
    named = (scene for scene in visible_scenes(scale, "train", 1, 2 * num_samples, seed) if place_words(scene))
    scenes = [scene for scene, _ in zip(named, range(num_samples), strict=False)]
    rng = np.random.default_rng((seed, 1))
    places = [place for scene in scenes for place in other_places(scene, rng)]
    grounds = render(places, load_assets(), torch.tensor([0.5]), scale.size, truth=False).background.float() / 255
    gallery = torch.cat([grounds, torch.ones_like(grounds[:, :1])], dim=1).unflatten(0, (len(scenes), NUM_CANDIDATES))
    clean = render_references(scenes, load_assets(), scale.size, scale.reference_size, "cpu").backgrounds
    samples = [
        Sample(
            scene,
            words(scene),
            (Reference(place_words(scene)[0], to_array(picture), kind="background"),),
        )
        for scene, picture in zip(scenes, clean, strict=True)
    ]
    return Study("background", samples, retrieval(judges, gallery), 1 / NUM_CANDIDATES)


def text(judges: Judges, scale: Scale, num_samples: int, seed: int = SEED + 20) -> Study:
    """Prompts alone: is the action recognised among all?"""
    scenes = [
        told(replace(scene, actors=(replace(scene.actors[0], action=SOLO_ACTIONS[i % len(SOLO_ACTIONS)]),)))
        for i, scene in enumerate(sample_scenes(seed, 0, num_samples, num_actors=1))
    ]
    samples = [Sample(scene, words(scene)) for scene in scenes]
    asked = torch.tensor([SOLO_ACTIONS.index(scene.actors[0].action) for scene in scenes])

    def measure(videos: Tensor) -> dict[str, Tensor]:
        return {"accuracy": (action_logits(judges, videos).argmax(dim=1) == asked).double()}

    return Study("text, actions without pictures", samples, measure, 1 / len(SOLO_ACTIONS))


def binding(judges: Judges, scale: Scale, split: Split, num_samples: int, seed: int = SEED + 30) -> Study:
    """Two pictures for words as broad as "animal" and "toy": does each do its own action, not the other's?"""
    scenes = pair_scenes(scale, split, num_samples, seed)
    pictures = render_references(scenes, load_assets(), scale.size, scale.reference_size, "cpu").pictures
    samples = [
        Sample(scene, words(scene), tuple(actor_reference(scene, actor, pictures[i], 1) for actor in (0, 1)))
        for i, scene in enumerate(scenes)
    ]
    cast = [actor for scene in scenes for actor in scene.actors]
    gallery = portraits(restage(cast, seed + 1, 0), "cpu").unflatten(0, (num_samples, 2))
    asked = torch.tensor([[SOLO_ACTIONS.index(actor.action) for actor in scene.actors] for scene in scenes])  # (N, A)

    def measure(videos: Tensor) -> dict[str, Tensor]:
        sides = locate(judges, videos, gallery)  # (N, A)
        logits = action_logits(judges, halves(videos).flatten(0, 1)).unflatten(0, (-1, 2))  # (N, 2, actions)
        own = logits[torch.arange(len(videos))[:, None], sides]  # (N, A, actions)
        chosen = own.gather(2, asked[:, None].expand(-1, 2, -1)).argmax(dim=2)  # which of the prompt's two actions
        return {"accuracy": (chosen == torch.arange(2)).double().mean(dim=1)}

    return Study(f"binding, {SPLIT_NAMES[split]}", samples, measure, 0.5)


def studies(judges: Judges, scale: Scale, num_samples: int) -> list[Callable[[], Study]]:
    """Everything that is measured, made when its turn comes."""
    splits: tuple[Split, ...] = ("train", "test_concept", "test_artist")
    made: list[Callable[[], Study]] = [
        lambda split=split, n=n: identity(judges, scale, split, n, num_samples)  # type: ignore[misc]
        for split in splits
        for n in (1, 0, 3)
    ]
    made += [
        lambda split=split: binding(judges, scale, split, num_samples)  # type: ignore[misc]
        for split in ("train", "test_concept")
    ]
    return made + [lambda: background(judges, scale, num_samples), lambda: text(judges, scale, num_samples)]


# Scenes and pictures


def visible_scenes(scale: Scale, split: Split, num_actors: int, count: int, seed: int) -> list[Scene]:
    """Scenes whose actors are all well seen in the three reference frames."""
    scenes: list[Scene] = []
    start = 0
    while len(scenes) < count:
        drawn = sample_scenes(seed, start, BATCH, split, num_actors)
        valid = render_references(drawn, load_assets(), scale.size, scale.reference_size, "cpu").valid
        scenes += [s for s, seen in zip(drawn, valid[:, :num_actors].all(dim=(1, 2)).tolist(), strict=True) if seen]
        start += BATCH
    return scenes[:count]


def pair_scenes(scale: Scale, split: Split, count: int, seed: int) -> list[Scene]:
    """Two actors of different broader words, which name them, each with its own action of a pair."""
    identities = load_assets().identities
    scenes: list[Scene] = []
    start = 0
    while len(scenes) < count:
        for scene in visible_scenes(scale, split, 2, BATCH, seed + start):
            broader = [identities[actor.identity].broader for actor in scene.actors]
            if len(set(broader)) < 2 or len(scenes) == count:
                continue
            pair = ACTION_PAIRS[len(scenes) % len(ACTION_PAIRS)][:: 1 if len(scenes) // len(ACTION_PAIRS) % 2 else -1]
            actors = tuple(
                replace(actor, word=word, broad=True, colour_in_words=False, action=action, partner=None)
                for actor, word, action in zip(scene.actors, broader, pair, strict=True)
            )
            scenes.append(replace(scene, actors=actors))
        start += 1
    return scenes


def actor_reference(scene: Scene, actor: int, pictures: Tensor, frame: int) -> Reference:
    """An actor's picture (A, R, 4, S, S) in one of the reference frames."""
    described = scene.actors[actor]
    return Reference(described.word, to_array(pictures[actor, frame]), kind=described.kind)  # type: ignore[arg-type]


def candidates(actor: Actor, split: Split, rng: np.random.Generator) -> list[Actor]:
    """The actor first, then others of its split in looks of their own: 9 of its kind of thing, 10 of other kinds."""
    identities = load_assets().identities
    pool = [i for i in identities if i.split == split and i.kind != "scenery" and i.index != actor.identity]
    same = rng.permutation([i.index for i in pool if i.broader == identities[actor.identity].broader])
    other = rng.permutation([i.index for i in pool if i.broader != identities[actor.identity].broader])
    same = same[: NUM_SAME_KIND - 1]  # the held-out artist drew few creatures
    chosen = [*same, *other[: NUM_CANDIDATES - 1 - len(same)]]
    paints = sample_scenes(int(rng.integers(2**31)), 0, len(chosen), num_actors=1)
    return [actor, *(replace(s.actors[0], identity=int(i)) for i, s in zip(chosen, paints, strict=True))]


def other_places(scene: Scene, rng: np.random.Generator) -> list[Scene]:
    """The scene first, then the same in other places that are seen in its light, some of the same name."""
    own = scene.background.name
    names = [name for name, (_, lights) in BACKGROUNDS.items() if scene.light in lights and name != own]
    chosen = [own] * (NUM_SAME_NAME - 1)
    chosen += [str(name) for name in rng.choice(names, size=NUM_CANDIDATES - NUM_SAME_NAME)]
    return [scene, *(replace(scene, background=Background(name, int(rng.integers(2**31)))) for name in chosen)]


def words(scene: Scene) -> str:
    """The prompt that a scene's caption is."""
    return caption(scene, load_assets())[0]


def told(scene: Scene) -> Scene:
    """The scene under a seed with which its caption says what its first actor does: who waits may only be named."""
    while scene.actors[0].action not in words(scene):
        scene = replace(scene, seed=scene.seed + 1)
    return scene


def place_words(scene: Scene) -> list[str]:
    """The background's word, where the caption names it."""
    return [entity.word for entity in caption(scene, load_assets())[1] if entity.kind == "background"]


def to_array(picture: Tensor) -> np.ndarray:
    """(C, H, W) in [0, 1] => (H, W, C) uint8."""
    return (picture.permute(1, 2, 0).clamp(0, 1) * 255).round().byte().cpu().numpy()


# Measures


def judged_frames(judges: Judges, videos: Tensor) -> Tensor:
    """(n, 3, F, H, W) uint8 => patch features of some frames (n, len(JUDGED_TIMES), P, d)."""
    index = [round(time * (videos.shape[2] - 1)) for time in JUDGED_TIMES]
    frames = videos[:, :, index].transpose(1, 2).flatten(0, 1).to(judges.appearance.device).float() / 127.5 - 1
    return describe_frames(judges.appearance, frames).unflatten(0, (len(videos), len(index)))


def retrieval(judges: Judges, gallery: Tensor) -> Measure:
    """Is the first candidate of each sample's gallery (N, G, 4, S, S) the best found, and which place does it take?"""

    def measure(videos: Tensor) -> dict[str, Tensor]:
        found = []
        for video, pictures in zip(videos, gallery, strict=True):
            frames = judged_frames(judges, video[None])[0]
            described = describe_pictures(judges.appearance, pictures.to(frames.device))
            found.append(match(frames, *described).mean(dim=0).cpu())
        rank = ranks(torch.stack(found)).double()
        return {"accuracy": (rank == 1).double(), "rank": rank}

    return measure


def ranks(found: Tensor) -> Tensor:
    """The place of the first candidate by its score, (N, G) => (N,) from 1; ties count against it."""
    return 1 + (found[:, 1:] >= found[:, :1]).sum(dim=1)


def locate(judges: Judges, videos: Tensor, gallery: Tensor) -> Tensor:
    """The half in which each of two actors (N, 2, 4, S, S) is found: (N, 2), 0 = left; never both in one."""
    sides = []
    for video, pictures in zip(videos, gallery, strict=True):
        frames = judged_frames(judges, video[None])[0]  # (3, P, d)
        described = describe_pictures(judges.appearance, pictures.to(frames.device))
        grid = frames.unflatten(1, (int(frames.shape[1] ** 0.5), -1))  # (3, rows, columns, d)
        left, right = (match(half.flatten(1, 2), *described).mean(dim=0) for half in grid.chunk(2, dim=2))
        sides.append([0, 1] if left[0] + right[1] >= left[1] + right[0] else [1, 0])
    return torch.tensor(sides)


def action_logits(judges: Judges, videos: Tensor) -> Tensor:
    """(n, 3, F, H, W) uint8 => (n, actions), on the CPU."""
    device = judges.motion.device
    return torch.cat([judges.motion(part.to(device).float() / 127.5 - 1).cpu() for part in videos.split(BATCH)])
