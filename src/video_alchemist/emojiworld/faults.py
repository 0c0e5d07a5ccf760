"""Videos with one known fault: clips of EmojiWorld's benchmark, rendered again with a single thing wrong.

What a metric must say of them is known beforehand, so that they judge the judges (§4.2, "Evaluation metrics"):
`python benchmarks/known_truth.py`. F frames · H,W pixels
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import torch

from video_alchemist.benchmark.generate import ROOT as GENERATION
from video_alchemist.benchmark.samples import BenchmarkData
from video_alchemist.dataset.storage import write_durably
from video_alchemist.emojiworld.assets import Assets, Identity, load_assets
from video_alchemist.emojiworld.benchmark_data import SPLIT
from video_alchemist.emojiworld.files import numbered_scene
from video_alchemist.emojiworld.render import render
from video_alchemist.emojiworld.scenes import BACKGROUNDS, MAX_ACTORS, Actor, Background, Scene
from video_alchemist.video import write_video

COLOURS = ("hue", "saturation", "colour")
LOOKS = ("identity", *COLOURS)
NOISE, BLUR, FLICKER = 25.0, 1.5, 0.15  # standard deviation of 255; of a Gaussian in pixels of 64; share of the light


@dataclass(frozen=True)
class Clip:
    """A sample's scene, and how it is filmed. number: of the clip in its world. size: width, height."""

    scene: Scene
    assets: Assets
    number: int
    size: tuple[int, int]
    num_frames: int

    def film(self, scene: Scene) -> np.ndarray:
        """(F, H, W, 3) uint8."""
        times = torch.linspace(0, 1, self.num_frames)
        scenes = [scene] if scene.actors else [scene, self.scene]  # the renderer wants an actor in one of them
        return render(scenes, self.assets, times, self.size[::-1], truth=False).video[0].permute(0, 2, 3, 1).numpy()

    @cached_property
    def frames(self) -> np.ndarray:
        return self.film(self.scene)

    @cached_property
    def rng(self) -> np.random.Generator:
        return np.random.default_rng((self.number, 4))

    @property
    def subjects(self) -> list[int]:
        return [i for i, actor in enumerate(self.scene.actors) if actor.kind == "subject"]

    def changed(self, actors: dict[int, Actor]) -> np.ndarray:
        """The film with other actors in these slots."""
        kept = self.scene.actors
        return self.film(replace(self.scene, actors=tuple(actors.get(i, kept[i]) for i in range(len(kept)))))

    def recast(self, wanted: Callable[[Identity, Identity], bool]) -> np.ndarray | None:
        """The film with another drawing as its first subject, as much of a face as it; None where there is none."""
        actor = self.scene.actors[self.subjects[0]]
        own = self.assets.identities[actor.identity]
        fit = [
            one.index
            for one in self.assets.identities
            if (one.kind, one.split) == (own.kind, own.split)
            and (one.face_box is None) == (own.face_box is None)
            and wanted(own, one)
        ]
        if not fit:
            return None
        return self.changed({self.subjects[0]: replace(actor, identity=int(self.rng.choice(fit)))})


Fault = Callable[[Clip], np.ndarray | None]  # the film with the fault; None where the clip cannot have it

# ------------------------------------------------------------------------------------------------------------------
# Who is seen


def sibling(clip: Clip) -> np.ndarray | None:
    """The first subject is another drawing of the same concept: the word still fits, the identity does not."""
    return clip.recast(lambda own, one: one.concept == own.concept and one.index != own.index)


def stranger(clip: Clip) -> np.ndarray | None:
    """The first subject is something else."""
    seen = {clip.assets.identities[actor.identity].concept for actor in clip.scene.actors}
    return clip.recast(lambda own, one: one.concept not in seen)


def missing(clip: Clip) -> np.ndarray:
    """The first subject is never there."""
    gone = clip.subjects[0]
    rest = tuple(replace(actor, partner=None) for i, actor in enumerate(clip.scene.actors) if i != gone)
    return clip.film(replace(clip.scene, actors=rest))


def half_missing(clip: Clip) -> np.ndarray:
    """The first subject is gone from the middle on."""
    half = clip.num_frames // 2
    return np.concatenate([clip.frames[:half], missing(clip)[half:]])


def doubled(clip: Clip) -> np.ndarray | None:
    """The first subject is there twice, the second time on the emptier side."""
    actors = clip.scene.actors
    if len(actors) == MAX_ACTORS:
        return None
    one = actors[clip.subjects[0]]
    side = -1 if np.mean([actor.x for actor in actors]) > 0 else 1
    twin = replace(one, x=0.62 * side, partner=None, scale=0.8 * one.scale, depth=max(a.depth for a in actors) + 1)
    return clip.film(replace(clip.scene, actors=(*actors, twin)))


def _exchange(clip: Clip, names: Sequence[str], both: bool = True) -> np.ndarray | None:
    """Of the first two subjects, whose looks of these names must differ."""
    if len(clip.subjects) < 2:
        return None
    i, j = clip.subjects[:2]
    first, second = clip.scene.actors[i], clip.scene.actors[j]
    looks = [{name: getattr(actor, name) for name in names} for actor in (first, second)]
    if looks[0] == looks[1]:
        return None
    return clip.changed({i: replace(first, **looks[1]) if both else first, j: replace(second, **looks[0])})


def exchanged(clip: Clip) -> np.ndarray | None:
    """Two subjects have changed roles: each is seen, but does what the other should."""
    return _exchange(clip, LOOKS)


def recoloured(clip: Clip) -> np.ndarray | None:
    """Two subjects have exchanged their colours."""
    return _exchange(clip, COLOURS)


def mixed(clip: Clip) -> np.ndarray | None:
    """The second subject looks like the first."""
    return _exchange(clip, LOOKS, both=False)


# ------------------------------------------------------------------------------------------------------------------
# Where, and how it moves


def elsewhere(clip: Clip) -> np.ndarray:
    """Another place."""
    scene = clip.scene
    fit = [name for name, (_, lights) in BACKGROUNDS.items() if scene.light in lights and name != scene.background.name]
    return clip.film(replace(scene, background=Background(str(clip.rng.choice(fit)), clip.number)))


def still(clip: Clip) -> np.ndarray:
    """The frame that the middle pictures are cut from: a reference pasted."""
    return clip.frames[[clip.num_frames // 2] * clip.num_frames]


def running(clip: Clip) -> np.ndarray:
    """Everybody runs: what has to count as motion."""
    actors = tuple(replace(actor, action="runs", partner=None) for actor in clip.scene.actors)
    return clip.film(replace(clip.scene, actors=actors))


# ------------------------------------------------------------------------------------------------------------------
# The picture


def noisy(clip: Clip) -> np.ndarray:
    return _bytes(clip.frames + clip.rng.normal(0, NOISE, clip.frames.shape))


def blurred(clip: Clip) -> np.ndarray:
    return np.stack([cv2.GaussianBlur(frame, (0, 0), BLUR * clip.size[1] / 64) for frame in clip.frames])


def flickering(clip: Clip) -> np.ndarray:
    """Every other frame is darker."""
    light = 1 - FLICKER * (np.arange(clip.num_frames) % 2)
    return _bytes(clip.frames * light[:, None, None, None])


def _bytes(frames: np.ndarray) -> np.ndarray:
    return frames.round().clip(0, 255).astype(np.uint8)


def true(clip: Clip) -> np.ndarray:
    """No fault."""
    return clip.frames


FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        true, sibling, stranger, missing, half_missing, doubled, exchanged, recoloured, mixed, elsewhere, still,
        running, noisy, blurred, flickering,
    )
}  # fmt: skip


def write_faults(
    data: BenchmarkData,
    out: Path,
    names: Sequence[str] = tuple(FAULTS),
    num_frames: int | None = None,
    ids: Sequence[str] | None = None,
) -> Iterator[str]:
    """Writes OUT/<fault>/<id>.mp4 for samples of the data, by default all, yielding the ids as they are done.

    data: of `prepare_world` annotated by the truth, whose ids tell the scenes. num_frames: None = the true clips'."""
    assets = load_assets()
    written: dict[str, list[str]] = {name: [] for name in names}
    for sample_id in data.ids("all") if ids is None else ids:
        seed, _, number = sample_id.partition("-")
        if not seed.isdigit() or not number.isdigit():
            raise ValueError(f"sample {sample_id!r}; expected data of `alchemist bench prepare --world --truth`")
        sample = data[sample_id]
        scene = numbered_scene(assets, int(seed), int(number), SPLIT)
        clip = Clip(scene, assets, int(number), sample.size, num_frames or sample.num_frames)
        for name in names:
            frames = FAULTS[name](clip)
            if frames is not None:
                (out / name).mkdir(parents=True, exist_ok=True)
                write_video(out / name / f"{sample_id}.mp4", frames, sample.fps)
                written[name].append(sample_id)
        yield sample_id
    for name, ids in written.items():
        if ids:  # so that samples that cannot have the fault do not count as missing
            text = json.dumps({"method": name, "mode": "all", "seeds": [0], "samples": ids})
            write_durably(out / name / GENERATION, text.encode())
