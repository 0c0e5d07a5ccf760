"""Faces go to the subject that wears them, cropped as the authors' benchmark crops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from video_alchemist.curation.clip import Box, Clip, Pixels, Sighting, Source
from video_alchemist.curation.faces import FaceRules, crop_box, find_faces
from video_alchemist.dataset.masks import encode_mask
from video_alchemist.pretrained.face_detector import Face
from video_alchemist.records import Entity

RULES = FaceRules(score=0.3, inside=0.5, min_side=4)
ENTITIES = (Entity("man", "subject", (2, 5)), Entity("car", "object", (10, 13)), Entity("boy", "subject", (20, 23)))


def sighting(entity: int, box: Box, frame: int = 1) -> Sighting:
    mask = np.zeros((40, 60), bool)
    mask[int(box[1]) : int(box[3]), int(box[0]) : int(box[2])] = True
    return Sighting(entity, frame, box, 0.8, 0.95, encode_mask(mask))


def clip_of(*sightings: Sighting) -> Clip:
    frames = np.zeros((3, 40, 60, 3), np.uint8)
    frames[:, 0, 0] = np.arange(3)[:, None]
    pixels = Pixels(frames, frames, frames)
    return Clip("a", Source("a", "a.mp4"), entities=ENTITIES, sightings=sightings, pixels=pixels)


MAN, CAR, BOY = sighting(0, (0, 0, 20, 40)), sighting(1, (20, 0, 40, 40)), sighting(2, (40, 0, 60, 40))


def faces_of(clip: Clip, *faces: Face) -> list[Box | None]:
    def detector(frames: Sequence[np.ndarray]) -> list[list[Face]]:
        return [list(faces) if frame[0, 0, 0] == 1 else [] for frame in frames]

    (outcome,) = find_faces([clip], detector, RULES)
    assert isinstance(outcome, Clip)
    return [one.face for one in outcome.sightings]


def test_crop_rule() -> None:
    """Guards against crops without hair: up by 0.17 of the height, down by 0.03, and never out of the frame."""
    assert crop_box((10, 20, 20, 30), (40, 60)) == pytest.approx((10, 18.3, 20, 30.3))
    assert crop_box((-3, 1, 70, 39.9), (40, 60)) == (0, 0, 60, 40)


def test_each_face_goes_to_its_subject() -> None:
    """Guards against faces given to the neighbour, to a car, or to somebody they only touch."""
    man, boy = Face((5, 10, 15, 20), 0.9), Face((45, 10, 55, 20), 0.6)
    assert faces_of(clip_of(MAN, CAR, BOY), man, boy) == [pytest.approx((5, 8.3, 15, 20.3)), None,
                                                          pytest.approx((45, 8.3, 55, 20.3))]  # fmt: skip
    in_the_car, at_the_edge = Face((25, 10, 35, 20), 0.9), Face((14, 10, 34, 30), 0.9)
    assert faces_of(clip_of(MAN, CAR, BOY), in_the_car, at_the_edge) == [None] * 3


def test_weak_and_small_faces_do_not_count() -> None:
    assert faces_of(clip_of(MAN), Face((5, 10, 15, 20), 0.29), Face((5, 10, 8, 13), 0.9)) == [None]


def test_the_best_face_of_a_subject_counts() -> None:
    found = faces_of(clip_of(MAN), Face((2, 25, 12, 35), 0.5), Face((5, 10, 15, 20), 0.8))
    assert found == [pytest.approx((5, 8.3, 15, 20.3))]


def test_frames_without_subjects_are_not_looked_at() -> None:
    """Guards against work for nothing, and against a batch without any subject."""

    def never(frames: Sequence[np.ndarray]) -> list[list[Face]]:
        raise AssertionError("nobody there")

    assert find_faces([clip_of(CAR), clip_of()], never, RULES) == [clip_of(CAR), clip_of()]
