"""Modes: who belongs to them, and which pictures a model is given."""

from __future__ import annotations

import numpy as np
import pytest

from video_alchemist.benchmark.modes import MODES, VARIANTS, conditioning
from video_alchemist.benchmark.samples import Sample, Target


def sample(kinds: str, num_pictures: int = 3, num_faces: int = 0) -> Sample:
    """kinds: a letter a target, s or o. A picture's pixels are its target's number, and its own number."""
    targets = []
    for i, kind in enumerate(kinds):
        pictures = tuple(np.full((4, 4, 4), (i, k, 0, 255), np.uint8) for k in range(num_pictures))
        faces = tuple(np.full((2, 2, 3), (i, k, 9), np.uint8) for k in range(num_faces))
        name = f"word{i}"
        place = ({"s": "subject", "o": "object"}[kind], (6 * i, 6 * i + 5), pictures, tuple(range(num_pictures)))
        targets.append(Target(name, *place, faces))
    ground = np.zeros((8, 8, 3), np.uint8)
    prompt = " ".join(target.word for target in targets)
    return Sample("a", prompt, tuple(targets), (ground,) * 3, ground, "beach", (0, 5), 12.0, 5, (8, 8))


def shown(*arguments: object, **options: object) -> list[tuple[int, int]]:
    """Target and picture of every reference but the background's."""
    references = conditioning(*arguments, **options)  # type: ignore[arg-type]
    return [tuple(one.image[0, 0, :2].tolist()) for one in references if one.kind != "background"]


def test_membership(tiny_data):
    """§4.2's two modes by the authors' rules (exactly one subject, exactly one face), and ours."""
    assert {mode: tiny_data.ids(mode) for mode in MODES} == {
        "subject": ["one", "pair"],
        "face": ["one"],
        "multi": ["pair", "trio-plain"],
        "background": ["one"],
        "all": ["one", "pair", "trio-plain"],
    }


@pytest.mark.parametrize(("count", "chosen"), [(1, 0), (2, 1), (3, 1)])
def test_a_single_picture_is_the_middle_one(count, chosen):
    """The authors' lists take images[len // 2]: 3 -> 2nd, 2 -> 2nd, 1 -> 1st."""
    assert shown(sample("s", num_pictures=count), "single") == [(0, chosen)]
    assert shown(sample("s", num_faces=count), "face") == [(0, chosen)]


def test_what_each_variant_shows():
    """Table 1's "Reference Images": the subject's pictures only, objects in mode "multi" only."""
    one = sample("so", num_faces=2)
    seen = {variant: conditioning(one, variant) for variant in VARIANTS}
    assert {variant: len(references) for variant, references in seen.items()} == {
        "text": 0, "single": 1, "multiple": 3, "background": 4, "face": 1, "faces": 2,
    }  # fmt: skip
    assert [reference.kind for reference in seen["background"]] == ["subject"] * 3 + ["background"]
    assert {reference.view for reference in seen["faces"]} == {"face"}
    assert shown(one, "single", mode="multi") == [(0, 1), (1, 1)]
    assert [r.kind for r in conditioning(one, "multiple", "multi")] == ["subject"] * 3 + ["object"] * 3


def test_six_pictures_are_shared_out():
    """Table 5: six images at most. Guards against the last targets being left out by those before."""
    assert shown(sample("ssoo"), "multiple", mode="multi") == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 1), (3, 1)]
    assert shown(sample("ssoo"), "background", mode="multi") == [(0, 0), (0, 1), (1, 1), (2, 1), (3, 1)]


def test_what_cannot_be_shown_is_named(tiny_data):
    """Guards against a model conditioned on nothing under the name of a reference variant."""
    with pytest.raises(ValueError, match="trio-plain has no background picture"):
        conditioning(tiny_data["trio-plain"], "background")
    with pytest.raises(ValueError, match="pair has no face crop"):
        conditioning(tiny_data["pair"], "face")
    with pytest.raises(ValueError, match="variant 'sinlge'.*did you mean 'single'"):
        conditioning(tiny_data["pair"], "sinlge")
