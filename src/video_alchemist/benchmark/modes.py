"""Which samples a mode has, and which pictures a model is given of them (§4.2, "Experimental Setups", and Table 1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from video_alchemist.benchmark.samples import Sample, Target
from video_alchemist.dataset.shards import did_you_mean
from video_alchemist.records import MAX_IMAGES, Reference, View

# §4.2: "1,736 test videos with a single subject", "1,285 test videos with a single person's face crop". The authors'
# lists end there: "multi" and "background" are ours.
MEMBERSHIP: dict[str, Callable[[Sample], bool]] = {
    "subject": lambda sample: len(sample.subjects) == 1,
    "face": lambda sample: sum(bool(subject.faces) for subject in sample.subjects) == 1,
    "multi": lambda sample: sum(bool(target.pictures) for target in sample.targets) >= 2,
    "background": lambda sample: sample.background is not None,
    "all": lambda sample: True,
}
MODES = tuple(MEMBERSHIP)

# Table 1's column "Reference Images"; "background" is several pictures of the subject and one of the background.
VARIANTS = ("text", "single", "multiple", "background", "face", "faces")


def conditioning(sample: Sample, variant: str, mode: str = "subject") -> tuple[Reference, ...]:
    """The pictures that a model is given: of the subjects, in mode "multi" of the objects, too.

    At most six in all (Table 5), shared out evenly; of several pictures those around the middle one.
    """
    if variant not in VARIANTS:
        known = ", ".join(VARIANTS)
        raise ValueError(f"variant {variant!r}; expected one of {known}{did_you_mean(variant, VARIANTS)}")
    if variant == "text":
        return ()
    view: View = "face" if variant in ("face", "faces") else "whole"
    targets = [target for target in _conditioned(sample, mode) if _pictures(target, view)]
    if not targets:
        raise ValueError(f"{sample.id} has no {'face crop' if view == 'face' else 'subject'} to be conditioned on")
    rows = [_pictures(target, view) for target in targets]
    if variant in ("single", "face"):
        rows = [_around_middle(row, 1) for row in rows]
    shared = _share_out(rows, MAX_IMAGES - (variant == "background"))
    references = [
        Reference(target.word, picture, None, target.kind, view, target.occurrence)
        for target, row in zip(targets, shared, strict=True)
        for picture in row
    ]
    if variant == "background":
        if sample.background is None or sample.background_word is None:
            raise ValueError(f"{sample.id} has no background picture; those of mode 'background' have one")
        word, picture = sample.background_word, sample.background
        references.append(Reference(word, picture, None, "background", "whole", sample.background_occurrence))
    return tuple(references)


def _conditioned(sample: Sample, mode: str) -> tuple[Target, ...]:
    return sample.targets if mode == "multi" else sample.subjects


def _pictures(target: Target, view: View) -> Sequence[np.ndarray]:
    return target.faces if view == "face" else target.pictures


def _around_middle(row: Sequence[np.ndarray], count: int) -> Sequence[np.ndarray]:
    """A single one is `row[len(row) // 2]`, as in the authors' lists."""
    nearest = sorted(range(len(row)), key=lambda i: abs(i - len(row) // 2))[:count]
    return [row[i] for i in sorted(nearest)]


def _share_out(rows: Sequence[Sequence[np.ndarray]], room: int) -> list[Sequence[np.ndarray]]:
    """At most `room` pictures: one of each row, then a second of each, and so on."""
    turns = sorted((turn, i) for i, row in enumerate(rows) for turn in range(len(row)))[:room]
    counts = Counter(i for _, i in turns)
    return [_around_middle(row, counts[i]) for i, row in enumerate(rows)]
