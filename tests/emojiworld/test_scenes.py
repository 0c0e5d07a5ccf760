"""Scenes keep to their split, and are a function of the seed."""

import numpy as np
import pytest

from video_alchemist.emojiworld.assets import load_assets
from video_alchemist.emojiworld.scenes import SPLITS, sample_scene


@pytest.mark.parametrize("split", SPLITS)
def test_actors_are_of_the_split(split):
    """A held-out identity seen in training makes every open-set number a lie."""
    assets = load_assets()
    for i in range(100):
        scene = sample_scene(np.random.default_rng((3, i)), assets, split)
        assert {assets.identities[actor.identity].split for actor in scene.actors} == {split}
        assert 1 <= len(scene.actors) <= 3


def test_same_seed_same_scene():
    assets = load_assets()
    first, second = (sample_scene(np.random.default_rng(5), assets) for _ in range(2))
    assert first == second
    assert first != sample_scene(np.random.default_rng(6), assets)


def test_unknown_split_and_number_of_actors():
    assets, rng = load_assets(), np.random.default_rng(0)
    with pytest.raises(ValueError, match="expected one of train"):
        sample_scene(rng, assets, "tset")
    with pytest.raises(ValueError, match="expected 1 to 3"):
        sample_scene(rng, assets, num_actors=4)
