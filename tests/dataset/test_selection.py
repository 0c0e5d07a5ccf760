"""Selection of conditioning pictures (App. A.3): each of the five steps has a known distribution."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from video_alchemist.dataset.selection import select

TRIALS = 4000
SIGMA = 0.5 / TRIALS**0.5  # of the frequency of an event of probability 1/2; smaller for any other


def draws(candidates: dict[str, list[str]], background: tuple[str, str] | None = None, **options: float) -> list:
    rng = np.random.default_rng(0)
    return [select(candidates, background, rng, **options) for _ in range(TRIALS)]


def frequencies(counts: list[int]) -> dict[int, float]:
    return {value: count / len(counts) for value, count in Counter(counts).items()}


def test_one_to_three_subjects_drawn_with_replacement() -> None:
    """Guards against drawing without replacement: of 3 subjects all 3 come only in 1/3 x 2/9 of the clips."""
    candidates = {word: [word] for word in ("dog", "robot", "hat")}
    seen = frequencies([len(selected) for selected in draws(candidates)])
    expected = {1: (1 + 1 / 3 + 1 / 9) / 3, 2: (2 / 3 + 2 / 3) / 3, 3: (2 / 9) / 3}
    assert seen == pytest.approx(expected, abs=4 * SIGMA)


def test_number_of_subjects_is_uniform() -> None:
    """Guards against a bound off by one in step 1: with many subjects hardly any is drawn twice."""
    candidates = {f"word {i}": ["picture"] for i in range(1000)}
    seen = frequencies([len(selected) for selected in draws(candidates)])
    assert seen == pytest.approx({1: 1 / 3, 2: 1 / 3, 3: 1 / 3}, abs=4 * SIGMA)


def test_one_to_three_pictures_drawn_with_replacement() -> None:
    """Guards against a bound off by one in step 3 and against step 4 without replacement."""
    seen = frequencies([len(selected) for selected in draws({"dog": ["early", "middle", "late"]})])
    expected = {1: (1 + 1 / 3 + 1 / 9) / 3, 2: (2 / 3 + 2 / 3) / 3, 3: (2 / 9) / 3}
    assert seen == pytest.approx(expected, abs=4 * SIGMA)


def test_background_in_half_of_the_clips() -> None:
    """Guards against a background that always comes, which the model would then depend on."""
    share = np.mean([("beach", "sand") in selected for selected in draws({"dog": ["a"]}, ("beach", "sand"))])
    assert share == pytest.approx(0.5, abs=3 * SIGMA)
    assert all(len(s) == 1 for s in draws({"dog": ["a"]}, ("beach", "sand"), background_probability=0))


@pytest.mark.parametrize("max_images", [2, 4, 6])
def test_cut_keeps_background_and_every_subject(max_images: int) -> None:
    """Guards against more pictures than the model has indices for, and against a cut that loses a subject."""
    candidates = {word: [f"{word} {i}" for i in range(50)] for word in ("dog", "robot", "hat")}
    selections = draws(candidates, ("beach", "sand"), max_images=max_images, background_probability=1)
    lengths = {len(selected) for selected in selections}
    assert max(lengths) == max_images
    assert all(selected[-1] == ("beach", "sand") for selected in selections)
    most_subjects = max(len({word for word, _ in selected[:-1]}) for selected in selections)
    assert most_subjects == min(3, max_images - 1)


def test_order_and_pairs() -> None:
    """Guards against pictures bound to another subject's word, and an order that changes from draw to draw."""
    candidates = {"dog": ["dog 0", "dog 1"], "cat": [], "robot": ["robot 0", "robot 1", "robot 2"]}
    everything = [(word, picture) for word, pictures in candidates.items() for picture in pictures]
    for selected in draws(candidates):
        places = [everything.index(pair) for pair in selected]
        assert places == sorted(set(places))


def test_same_seed_same_selection() -> None:
    """Guards against hidden global randomness, which resuming a run could not repeat."""
    candidates = {"dog": ["a", "b"], "robot": ["c"]}
    assert draws(candidates, ("beach", "sand")) == draws(candidates, ("beach", "sand"))


def test_nothing_to_choose_from() -> None:
    """Guards against a crash on clips whose entities have no picture, or room for none."""
    assert select({}, None, np.random.default_rng(0)) == []
    with pytest.raises(ValueError, match="max_images is 1; expected at least 2"):
        select({"dog": ["a"]}, ("beach", "sand"), np.random.default_rng(0), max_images=1)
