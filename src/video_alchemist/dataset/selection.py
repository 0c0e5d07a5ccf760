"""Which pictures condition a training clip (App. A.3): a random number of subjects, each with a random number of
pictures, so that the model cannot read motion or size off the number of references.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from video_alchemist.records import MAX_IMAGES

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
MAX_SUBJECTS = 3  # App. A.3: "the number of conditional subjects from 1 to 3"
MAX_PICTURES = 3  # App. A.3: "the number of conditional reference images from 1 to 3"


def select(
    candidates: Mapping[K, Sequence[T]],
    background: tuple[K, T] | None,
    rng: np.random.Generator,
    *,
    max_images: int = MAX_IMAGES,
    background_probability: float = 0.5,
) -> list[tuple[K, T]]:
    """The (word, picture) pairs that condition one clip: App. A.3's five steps, then the cut to `max_images` (Table 5).

    Our reading of "with replacement": drawing a subject twice means that subject once, and drawing a picture twice
    means that picture once, so fewer may come out than were asked for. Subjects and pictures stand in the order of
    `candidates`, the background last. The cut takes random pictures of subjects that have several; the background
    and one picture of every selected subject always stay.
    """
    has_background = background is not None
    room = max_images - has_background
    if room < 1:
        needed = "a subject and the background" if has_background else "a subject"
        raise ValueError(f"max_images is {max_images}; expected at least {1 + has_background}, for {needed}")

    words = [word for word, pictures in candidates.items() if len(pictures) > 0]
    selected: list[tuple[K, int]] = []
    if words:
        num_subjects = rng.integers(1, min(MAX_SUBJECTS, room) + 1)  # step 1
        subjects = set(rng.integers(len(words), size=num_subjects).tolist())  # step 2, with replacement
        for subject in sorted(subjects):
            word = words[subject]
            num_pictures = rng.integers(1, MAX_PICTURES + 1)  # step 3
            pictures = set(rng.integers(len(candidates[word]), size=num_pictures).tolist())  # step 4, with replacement
            selected += [(word, picture) for picture in sorted(pictures)]
    include_background = bool(rng.random() < background_probability)  # step 5

    kept = _cut(selected, max_images - (has_background and include_background), rng)
    result = [(word, candidates[word][picture]) for word, picture in kept]
    if background is not None and include_background:
        result.append(background)
    return result


def _cut(selected: list[tuple[K, int]], max_images: int, rng: np.random.Generator) -> list[tuple[K, int]]:
    """At most `max_images` of the pairs, dropping at random pictures whose subject has another one."""
    kept = list(selected)
    while len(kept) > max_images:
        words = [word for word, _ in kept]
        spare = [i for i, word in enumerate(words) if words.count(word) > 1]
        del kept[spare[rng.integers(len(spare))]]
    return kept
