"""EmojiWorld's captions: a small grammar, with the exact place of every entity word (§3.1: "an exact subset").

E.g. "A brown dog jumps beside a robot that spins on a snowy mountain at night."
"""

from __future__ import annotations

import numpy as np

from video_alchemist.emojiworld.assets import Assets
from video_alchemist.emojiworld.scenes import BACKGROUNDS, PAIR_ACTIONS, Actor, Scene
from video_alchemist.records import Entity

BACKGROUND = -1
BACKGROUND_SHARE = 0.85
UNSAID_SHARE = 0.5  # of those who wait, where the sentence bears it: people write "a dog jumps beside a robot"
LIGHTS = {"day": ("", "", " on a bright day"), "night": (" at night",), "sunset": (" at sunset",)}


class _Writer:
    """Text grown piece by piece, noting where the entity words stand."""

    def __init__(self) -> None:
        self.text = ""
        self.entities: list[Entity] = []
        self.actors: list[int] = []

    def add(self, text: str) -> None:
        self.text += text

    def name(self, word: str, kind: str, actor: int) -> None:
        self.entities.append(Entity(word, kind, (len(self.text), len(self.text) + len(word))))  # type: ignore[arg-type]
        self.actors.append(actor)
        self.text += word

    def actor(self, index: int, actor: Actor) -> None:
        colour = f"{actor.colour} " if actor.colour_in_words and actor.colour else ""
        self.add(f"{article(colour or actor.word)} {colour}")
        self.name(actor.word, actor.kind, index)


def article(word: str) -> str:
    """ "a" or "an", by the sound of the word's start as far as its letters tell."""
    sounds_like_you = ("uni", "use", "ufo", "eu", "ewe", "one", "ut", "uk")
    vowel = word[0].lower() in "aeiou" and not word.lower().startswith(sounds_like_you) or word.startswith("hour")
    return "an" if vowel else "a"


def _does(rng: np.random.Generator, actor: Actor, link: str) -> str:
    """An actor's action after its name; of one that only waits, now and then nothing."""
    unsaid = actor.action == "waits" and rng.random() < UNSAID_SHARE
    return "" if unsaid else link + actor.action


def caption(scene: Scene, assets: Assets) -> tuple[str, tuple[Entity, ...], tuple[int, ...]]:
    """A scene in words: the text, its entities in order, and the actor each names (-1 = the background)."""
    rng = np.random.default_rng((scene.seed, 77))
    writer = _Writer()
    # From left to right, but for pairs, which come first. Without a rule, nothing but noise tells who stands where, and
    # a small model draws both subjects in both places.
    order = sorted(range(len(scene.actors)), key=lambda i: (scene.actors[i].partner is None, scene.actors[i].x))
    first = order.pop(0)
    writer.actor(first, scene.actors[first])
    said = _does(rng, scene.actors[first], " ")
    writer.add(said)
    partner = scene.actors[first].partner
    if scene.actors[first].action in PAIR_ACTIONS and partner is not None:
        order.remove(partner)
        writer.add(" ")
        writer.actor(partner, scene.actors[partner])
        if scene.actors[first].action == "hides behind":
            writer.add(_does(rng, scene.actors[partner], " that "))
    for index in order:
        actor = scene.actors[index]
        joint = rng.choice(("beside", "and", "while")) if said else "beside"
        writer.add(f" {joint} ")
        writer.actor(index, actor)
        writer.add(_does(rng, actor, " that ") if joint == "beside" else f" {actor.action}")
    if rng.random() < BACKGROUND_SHARE:
        writer.add(f" {BACKGROUNDS[scene.background.name][0]} ")
        writer.name(scene.background.name, "background", BACKGROUND)
    writer.add(str(rng.choice(LIGHTS[scene.light])))
    if rng.random() < 0.5:
        writer.add(".")
    text = writer.text[0].upper() + writer.text[1:]
    return text, tuple(writer.entities), tuple(writer.actors)
