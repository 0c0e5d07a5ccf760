"""Entities become boxes and masks by the rules of §3.1: found, unambiguous, large enough, one box a thing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from video_alchemist.curation.clip import Clip, Pixels, Rejected, Source
from video_alchemist.curation.grounding import Grounding, ground, overlap_of
from video_alchemist.dataset.masks import decode_mask, encode_mask
from video_alchemist.pretrained.detector import Detection
from video_alchemist.records import Entity

RULES = Grounding(min_side=4, min_area=0.005)
DOG, ROBOT = (4.0, 4.0, 20.0, 20.0), (24.0, 4.0, 44.0, 24.0)


class Scripted:
    """Detector and segmenter for tests: word -> its candidates, in every frame or by frame; masks fill their box."""

    def __init__(self, mask_score: float = 0.95, **found: list | dict) -> None:
        self.found, self.mask_score, self.encoded = found, mask_score, 0

    def detect(self, frames: Sequence[np.ndarray], words: Sequence[Sequence[str]]) -> list[list[list[Detection]]]:
        return [
            [[Detection(*one) for one in self._of(word, int(frame[0, 0, 0]))] for word in row]
            for frame, row in zip(frames, words, strict=True)
        ]

    def _of(self, word: str, number: int) -> list:
        known = self.found.get(word, [])
        return known.get(number, []) if isinstance(known, dict) else known

    def segment(self, frames: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> list:
        self.encoded += len(frames)
        answers = []
        for frame, rows in zip(frames, boxes, strict=True):
            masks = np.zeros((len(rows), *frame.shape[:2]), bool)
            for mask, (x0, y0, x1, y1) in zip(masks, rows.round().astype(int), strict=True):
                mask[y0:y1, x0:x1] = True
            answers.append((masks, np.full(len(rows), self.mask_score, np.float32)))
        return answers


def clip_of(caption: str, **kinds: str) -> Clip:
    """Frames of 32 x 48 pixels; the first pixel of frame i is i."""
    frames = np.zeros((3, 32, 48, 3), np.uint8)
    frames[:, 0, 0] = np.arange(3)[:, None]
    entities, place = [], 0
    for word in caption.split():
        if word in kinds:
            start = caption.index(word, place)
            entities.append(Entity(word, kinds[word], (start, start + len(word))))  # type: ignore[arg-type]
        place += len(word) + 1
    pixels = Pixels(frames, frames, frames)
    return Clip("a", Source("a", "a.mp4"), caption=caption, entities=tuple(entities), pixels=pixels)


BEACH = clip_of("a dog and a robot on the beach", dog="subject", robot="object", beach="background")


def run(script: Scripted, clip: Clip = BEACH, rules: Grounding = RULES) -> Clip | Rejected:
    (outcome,) = ground([clip], script.detect, script.segment, rules)
    assert isinstance(outcome, (Clip, Rejected))
    return outcome


def test_found_in_all_frames() -> None:
    """Guards against rows and frames that are mixed up, masks that are turned, and frames encoded more than once."""
    script = Scripted(dog=[(DOG, 0.8)], robot={0: [(ROBOT, 0.7)], 2: [(ROBOT, 0.6), (DOG, 0.2)]})
    clip = run(script)
    assert isinstance(clip, Clip)
    assert [(one.entity, one.frame) for one in clip.sightings] == [(0, 0), (1, 0), (0, 1), (0, 2), (1, 2)]
    assert [entity.word for entity in clip.entities] == ["dog", "robot", "beach"]
    dog = clip.sightings[0]
    assert (dog.box, dog.detection_score, round(dog.mask_score, 3)) == (DOG, 0.8, 0.95)
    rows, columns = np.nonzero(decode_mask(dog.mask))
    assert (rows.min(), rows.max(), columns.min(), columns.max(), dog.mask["size"]) == (4, 19, 4, 19, [32, 48])
    assert script.encoded == 3


def test_thresholds_are_the_papers() -> None:
    """Guards against `>=`: 0.4 and 0.9 themselves are not enough in the authors' code."""
    assert isinstance(run(Scripted(dog=[(DOG, 0.4)])), Rejected)
    assert isinstance(run(Scripted(dog=[(DOG, 0.41)])), Clip)
    outcome = run(Scripted(mask_score=0.9, dog=[(DOG, 0.8)]))
    assert isinstance(outcome, Rejected) and (outcome.code, outcome.detail) == ("subject_not_segmented", "'dog'")


def test_what_is_not_found_goes() -> None:
    """Guards against entities that stay without a picture, and against rows that no longer fit the entities."""
    clip = run(Scripted(robot=[], dog={1: [(DOG, 0.8)]}))
    assert isinstance(clip, Clip)
    assert [entity.word for entity in clip.entities] == ["dog", "beach"]
    assert [(one.entity, one.frame) for one in clip.sightings] == [(0, 1)]
    other = run(
        Scripted(dog=[(DOG, 0.8)], robot=[(ROBOT, 0.8)]), clip_of("a robot sees a dog", robot="object", dog="subject")
    )
    assert (
        isinstance(other, Clip) and [other.entities[one.entity].word for one in other.sightings] == ["robot", "dog"] * 3
    )
    outcome = run(Scripted(robot=[(ROBOT, 0.8)]))
    assert isinstance(outcome, Rejected) and outcome.code == "subject_not_found"


TWO_DOGS = [(DOG, 0.8), (ROBOT, 0.72)]


@pytest.mark.parametrize(
    ("found", "code"),
    [
        ({"dog": TWO_DOGS}, "ambiguous_entity"),
        ({"dog": {0: [(DOG, 0.9)], 1: TWO_DOGS}}, "ambiguous_entity"),  # one frame suffices: which dog is it elsewhere?
        ({"dog": [(DOG, 0.8), (ROBOT, 0.69)]}, "kept"),
        ({"dog": [(DOG, 0.8), ((5.0, 4.0, 21.0, 20.0), 0.79)]}, "kept"),  # the same dog once more
        ({"dog": [(DOG, 0.45), (ROBOT, 0.39)]}, "kept"),  # the runner-up is no detection
        ({"dog": [((0.0, 0.0, 3.0, 30.0), 0.8)]}, "subject_too_small"),
    ],
)
def test_ambiguous_and_small_subjects(found: dict, code: str) -> None:
    """Guards against two identities under one word ("man" where there are two men)."""
    outcome = run(Scripted(**found))
    assert (outcome.code if isinstance(outcome, Rejected) else "kept") == code


def test_ambiguous_objects_go_alone() -> None:
    clip = run(Scripted(dog=[(DOG, 0.8)], robot=[(ROBOT, 0.7), ((2.0, 22.0, 12.0, 30.0), 0.65)]))
    assert isinstance(clip, Clip) and [entity.word for entity in clip.entities] == ["dog", "beach"]


def test_one_word_for_two_is_ambiguous() -> None:
    """Guards against two subjects of one word that share the pictures of one."""
    outcome = run(Scripted(dog=[(DOG, 0.8)]), clip_of("a dog meets a dog", dog="subject"))
    assert isinstance(outcome, Rejected) and outcome.code == "ambiguous_entity"


def test_tiny_masks() -> None:
    outcome = run(Scripted(dog=[(DOG, 0.8)]), rules=replace(RULES, min_area=0.2))
    assert isinstance(outcome, Rejected) and outcome.code == "subject_too_small"


def test_two_words_for_one_thing() -> None:
    """Guards against one picture under two words: the better detected word keeps it, and is enough for the clip."""
    clip = clip_of("a woman is a doctor with a coat", woman="subject", doctor="subject", coat="object")
    same = (4.0, 4.0, 20.0, 21.0)
    kept = run(Scripted(woman=[(DOG, 0.7)], doctor=[(same, 0.8)], coat=[(ROBOT, 0.6)]), clip)
    assert isinstance(kept, Clip) and [entity.word for entity in kept.entities] == ["doctor", "coat"]
    lost = run(Scripted(dog=[(DOG, 0.5)], robot=[(same, 0.8)]))
    assert isinstance(lost, Rejected) and lost.code == "subject_not_found", "an object in the place of the only subject"


def test_batches_are_as_single_clips() -> None:
    """Guards against frames of one clip given to another, and against a batch without any word."""
    script = Scripted(dog=[(DOG, 0.8)], robot={1: [(ROBOT, 0.7)]}, cat=[])
    clips = [BEACH, clip_of("a cat", cat="subject"), BEACH, clip_of("nothing")]
    together = ground(clips, script.detect, script.segment, RULES)
    assert together == [ground([clip], script.detect, script.segment, RULES)[0] for clip in clips]
    assert ground([clips[3]], script.detect, script.segment, RULES)[0].code == "subject_not_found"  # type: ignore[union-attr]


def test_overlap() -> None:
    assert overlap_of((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert overlap_of((0, 0, 1, 1), (1, 1, 2, 2)) == overlap_of((0, 0, 0, 0), (0, 0, 0, 0)) == 0


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (32, 48)])
def test_masks_survive_run_lengths(shape: tuple[int, int]) -> None:
    """Guards against rows for columns, and against masks that begin with a one."""
    rng = np.random.default_rng(0)
    for mask in (rng.random(shape) > 0.5, np.ones(shape, bool), np.zeros(shape, bool)):
        rle = encode_mask(mask)
        np.testing.assert_array_equal(decode_mask(rle), mask)
        assert sum(rle["counts"][1::2]) == mask.sum()
    assert encode_mask(np.array([[1, 0], [1, 1]], bool)) == {"size": [2, 2], "counts": [0, 2, 1, 1]}
    with pytest.raises(ValueError, match="expected 2 x 2"):
        decode_mask({"size": [2, 2], "counts": [3]})
