"""Face crops of the subjects (§3.1: "for reference images depicting humans, we apply face detection to extract face
crops"). H,W pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from video_alchemist.curation.clip import Box, Clip, Outcome, Sighting
from video_alchemist.dataset.masks import decode_mask

if TYPE_CHECKING:
    from video_alchemist.pretrained.face_detector import Face, FaceDetector

GROW_UP, GROW_DOWN = 0.17, 0.03  # of the box's height, for hair and chin: the authors' benchmark crops so


@dataclass(frozen=True)
class FaceRules:
    """score in [0, 1]; inside: share of the face's box that the subject's mask covers; min_side: pixels of the crop."""

    score: float = 0.2
    inside: float = 0.5
    min_side: float = 32.0


def find_faces(clips: Sequence[Clip], detector: FaceDetector, rules: FaceRules) -> list[Outcome]:
    """The clips with a face for each sighting of a subject that shows one. Animals have faces too, if the detector
    says so: no list of words decides who is a person."""
    wanted = [(i, frame) for i, clip in enumerate(clips) for frame in sorted(_frames_with_subjects(clip))]
    pictures = []
    for i, frame in wanted:
        pixels = clips[i].pixels
        assert pixels is not None, "decode a clip before looking for faces"
        pictures.append(pixels.frames[frame])
    found = dict(zip(wanted, detector(pictures) if pictures else [], strict=True))
    outcomes: list[Outcome] = []
    for i, clip in enumerate(clips):
        sightings = list(clip.sightings)
        for frame in _frames_with_subjects(clip):
            _assign(clip, sightings, frame, found[i, frame], rules)
        outcomes.append(replace(clip, sightings=tuple(sightings)))
    return outcomes


def crop_box(face: Box, size: tuple[int, int]) -> Box:
    """The face's box grown by the crop rule, inside a frame of size (H, W)."""
    x0, y0, x1, y1 = face
    height = y1 - y0
    return max(x0, 0.0), max(y0 - GROW_UP * height, 0.0), min(x1, float(size[1])), min(y1 + GROW_DOWN * height, size[0])


def _frames_with_subjects(clip: Clip) -> set[int]:
    return {one.frame for one in clip.sightings if clip.entities[one.entity].kind == "subject"}


def _assign(clip: Clip, sightings: list[Sighting], frame: int, faces: Sequence[Face], rules: FaceRules) -> None:
    """Gives each face, best first, to the subject whose mask covers most of it, unless that has one already."""
    rows = [
        row for row, one in enumerate(sightings)
        if one.frame == frame and clip.entities[one.entity].kind == "subject"
    ]  # fmt: skip
    masks = {row: decode_mask(sightings[row].mask) for row in rows}
    for face in sorted(faces, key=lambda face: -face.score):
        if face.score < rules.score:
            break
        box = (float(face.box[0]), float(face.box[1]), float(face.box[2]), float(face.box[3]))
        row = max(rows, key=lambda row: _covered(masks[row], box))
        crop = crop_box(box, masks[row].shape)
        large = min(crop[2] - crop[0], crop[3] - crop[1]) >= rules.min_side
        if large and sightings[row].face is None and _covered(masks[row], box) > rules.inside:
            sightings[row] = replace(sightings[row], face=crop, face_score=float(face.score))


def _covered(mask: np.ndarray, box: Box) -> float:
    """Share of the box, rounded to pixels, that lies in the mask."""
    x0, y0, x1, y1 = (max(round(value), 0) for value in box)
    part = mask[y0:y1, x0:x1]
    return float(part.mean()) if part.size else 0.0
