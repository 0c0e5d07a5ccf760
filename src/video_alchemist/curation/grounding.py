"""Where the entity words are in the three frames: boxes, masks, and whether a word means one thing only (§3.1).

"We apply GroundingDINO to each frame to detect the bounding boxes. These bounding boxes are then used by SAM to segment
the mask regions corresponding to each entity."

n boxes · H,W pixels
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from video_alchemist.curation.clip import Box, Clip, Outcome, Sighting
from video_alchemist.curation.probe import reject
from video_alchemist.dataset.masks import encode_mask

if TYPE_CHECKING:
    from video_alchemist.pretrained.detector import Detection, Detector
    from video_alchemist.pretrained.segmenter import Segmenter


@dataclass(frozen=True)
class Grounding:
    """What counts as found. Scores in [0, 1].

    ambiguity: a runner-up elsewhere in the frame, within this of the best score, makes the word ambiguous.
    same_place: boxes of one word that overlap by more (IoU) are the same thing.
    overlap: of boxes of two words that overlap by more (IoU), the lower one goes.
    min_area: share of the frame that the mask covers. min_side: pixels of the box's shorter side.
    """

    detection_score: float = 0.4
    mask_score: float = 0.9
    ambiguity: float = 0.1
    same_place: float = 0.5
    overlap: float = 0.8
    min_area: float = 0.005
    min_side: float = 32.0


@dataclass(frozen=True)
class Found:
    """A word's box in a frame, before it has a mask."""

    entity: int
    frame: int
    box: Box
    score: float


def ground(clips: Sequence[Clip], detector: Detector, segmenter: Segmenter, rules: Grounding) -> list[Outcome]:
    """The clips with the sightings of their entities; what is never found goes, a lost subject takes its clip along.

    An entity that is ambiguous in any frame is so altogether, since its pictures might show two identities.
    """
    words = [grounded_words(clip) for clip in clips]
    frames = [frame for clip in clips for frame in _frames(clip)]
    prompts = [list(rows.values()) for rows in words for _ in range(3)]
    detections = detector(frames, prompts) if any(prompts) else [[] for _ in frames]
    found, troubles = [], []
    for i, rows in enumerate(words):
        some, trouble = _judge_detections(list(rows), detections[3 * i : 3 * i + 3], frames[3 * i].shape[:2], rules)
        found.append(some)
        troubles.append(trouble)
    sightings = _segment(frames, found, segmenter)
    return [
        _conclude(clip, seen, trouble, frames[3 * i].shape[:2], rules)
        for i, (clip, seen, trouble) in enumerate(zip(clips, sightings, troubles, strict=True))
    ]


def grounded_words(clip: Clip) -> dict[int, str]:
    """Rows of the subjects and objects to look for, with their words. A word of two entities is none of either."""
    counts = Counter(entity.word.lower() for entity in clip.entities)
    return {
        row: entity.word
        for row, entity in enumerate(clip.entities)
        if entity.kind != "background" and counts[entity.word.lower()] == 1
    }


def overlap_of(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0.0) * max(height, 0.0)
    either = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / either if either > 0 else 0.0


def _judge_detections(
    rows: list[int], detections: Sequence[Sequence[Sequence[Detection]]], size: tuple[int, int], rules: Grounding
) -> tuple[list[Found], dict[int, str]]:
    """The boxes of a clip that are worth a mask, and by row of an entity the code that speaks against it so far."""
    found: list[Found] = []
    trouble = dict.fromkeys(rows, "subject_not_found")
    ambiguous: set[int] = set()
    for frame, by_word in enumerate(detections):
        for row, candidates in zip(rows, by_word, strict=True):
            good = [one for one in candidates if one.score > rules.detection_score]
            if not good:
                continue
            if _ambiguous(good, rules):
                ambiguous.add(row)
            box = _inside(good[0].box, size)
            if min(box[2] - box[0], box[3] - box[1]) < rules.min_side:
                trouble[row] = max(trouble[row], "subject_too_small", key=_SEVERITY.index)
                continue
            trouble[row] = "subject_not_segmented"
            found.append(Found(row, frame, box, float(good[0].score)))
    kept = [one for one in found if one.entity not in ambiguous]
    for row in ambiguous:
        trouble[row] = "ambiguous_entity"
    return _without_aliases(kept, trouble, rules), trouble


# How far an entity came before it was lost.
_SEVERITY = ("subject_not_found", "subject_too_small", "subject_not_segmented")


def _ambiguous(candidates: Sequence[Detection], rules: Grounding) -> bool:
    if len(candidates) < 2:
        return False
    best, second = candidates[:2]
    elsewhere = overlap_of(best.box, second.box) <= rules.same_place
    return elsewhere and best.score - second.score <= rules.ambiguity


def _without_aliases(found: list[Found], trouble: dict[int, str], rules: Grounding) -> list[Found]:
    """Two words with one box in a frame name one thing ("woman", "doctor"): the better detected one keeps it."""
    kept: list[Found] = []
    for one in sorted(found, key=lambda one: (one.frame, -one.score, one.entity)):
        rivals = [
            other for other in kept if other.frame == one.frame and overlap_of(one.box, other.box) > rules.overlap
        ]
        if rivals:
            trouble[one.entity] = "alias"
        else:
            kept.append(one)
    return kept


def _segment(frames: Sequence[np.ndarray], found: Sequence[list[Found]], segmenter: Segmenter) -> list[list[Sighting]]:
    """A mask for every box; each frame goes through the segmenter once, with all its boxes."""
    numbers = [3 * i + frame for i, some in enumerate(found) for frame in sorted({one.frame for one in some})]
    boxes = [[one for one in found[n // 3] if one.frame == n % 3] for n in numbers]
    sightings: list[list[Sighting]] = [[] for _ in found]
    if not numbers:
        return sightings
    arrays = [np.array([one.box for one in some], dtype=np.float32) for some in boxes]
    for n, some, (masks, scores) in zip(numbers, boxes, segmenter([frames[n] for n in numbers], arrays), strict=True):
        for one, mask, score in zip(some, masks, scores, strict=True):
            sighting = Sighting(one.entity, one.frame, one.box, one.score, float(score), encode_mask(mask))
            sightings[n // 3].append(sighting)
    return sightings


def _conclude(
    clip: Clip, sightings: list[Sighting], trouble: dict[int, str], size: tuple[int, int], rules: Grounding
) -> Outcome:
    """Drops bad masks and the entities that nothing is left of; without one of its subjects a clip leaves."""
    good = []
    for one in sightings:
        if one.mask_score <= rules.mask_score:
            continue
        if sum(one.mask["counts"][1::2]) < rules.min_area * size[0] * size[1]:
            trouble[one.entity] = "subject_too_small"
            continue
        good.append(one)
    seen = {one.entity for one in good}
    for row, entity in enumerate(clip.entities):
        code = trouble.get(row, "ambiguous_entity")  # what was not looked for shares its word with another
        # An alias is not lost: another word has its picture.
        if entity.kind == "subject" and row not in seen and code != "alias":
            return reject(clip, code, repr(entity.word))
    if not any(clip.entities[row].kind == "subject" for row in seen):
        return reject(clip, "subject_not_found", "its place goes by the name of an object")
    kept = [row for row, entity in enumerate(clip.entities) if entity.kind == "background" or row in seen]
    moved = tuple(replace(one, entity=kept.index(one.entity)) for one in good)
    return replace(clip, entities=tuple(clip.entities[row] for row in kept), sightings=moved)


def _inside(box: Sequence[float], size: tuple[int, int]) -> Box:
    height, width = size
    x0, y0, x1, y1 = (float(value) for value in box)
    return max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))


def _frames(clip: Clip) -> np.ndarray:
    assert clip.pixels is not None, "decode a clip before looking for its entities"
    return clip.pixels.frames
