"""The paper's pipeline as a literal list (Fig. 2, §3.1, App. A.1-A.2): cheap steps that reject much come first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from video_alchemist.curation.background import paint_background, read_frame, verify_backgrounds
from video_alchemist.curation.captions import caption_clips, find_entities
from video_alchemist.curation.clip import Clip, Outcome, Rejected, Step
from video_alchemist.curation.decode import decode_clip
from video_alchemist.curation.encode import encode_background, encode_clip
from video_alchemist.curation.faces import find_faces
from video_alchemist.curation.grounding import ground
from video_alchemist.curation.motion import measure_motion
from video_alchemist.curation.probe import probe_clip
from video_alchemist.curation.profile import CurationProfile
from video_alchemist.curation.roles import Roles
from video_alchemist.curation.shots import keep_single_shots
from video_alchemist.curation.undesirable import keep_desirable


def annotation_steps(p: CurationProfile, roles: Roles) -> list[Step]:
    """From sources to clips whose subjects have boxes, masks and faces. Nothing is loaded before a step runs."""
    split, longest = p.split_shots, p.limits.max_source_seconds if p.split_shots else p.limits.max_seconds
    return [
        each("probe", lambda clip: probe_clip(clip, p.limits, split)),
        each("decode", lambda clip: decode_clip(clip, p.limits, roles.clip_filter.size, longest)),
        each("shots", lambda clip: keep_single_shots(clip, roles.shot_detector, p.shot_end, split)),  # A.1
        each("decode_shots", lambda clip: decode_clip(clip, p.limits, roles.clip_filter.size)),
        each("motion", lambda clip: measure_motion(clip, p.min_motion)),
        batch("undesirable", p.batch, lambda clips: keep_desirable(clips, roles.clip_filter, p.undesirable)),  # A.1
        batch("caption", p.batch, lambda clips: caption_clips(clips, roles.captioner)),
        batch("entities", p.batch, lambda clips: find_entities(clips, roles.entity_extractor)),  # Fig. 7, A.2
        batch("ground", p.batch, lambda clips: ground(clips, roles.detector, roles.segmenter, p.grounding)),
        batch("faces", p.batch, lambda clips: find_faces(clips, roles.face_detector, p.faces)),
        each("encode", encode_clip),
    ]


def background_steps(p: CurationProfile, roles: Roles) -> list[Step]:
    """From annotated clips to clean background pictures; the costly part, and a stage of its own."""
    return [
        each("frame", read_frame),
        each("inpaint", lambda clip: paint_background(clip, roles.inpainter, p.background)),
        batch("verify", p.batch, lambda clips: verify_backgrounds(clips, roles.detector, p.background)),
        each("encode", encode_background),
    ]


def each(name: str, function: Callable[[Clip], Outcome], version: int = 1) -> Step:
    """A step that looks at one clip at a time."""
    return batch(name, 1, lambda clips: [function(clip) for clip in clips], version)


def batch(name: str, size: int, function: Callable[[Sequence[Clip]], list[Outcome]], version: int = 1) -> Step:
    """A step whose models see several clips at a time."""

    def run(clips: Sequence[Clip]) -> list[Outcome]:
        outcomes = function(clips)
        return [replace(one, step=name) if isinstance(one, Rejected) else one for one in outcomes]

    return Step(name, run, version, size)
