"""The paper's pipeline as a literal list (Fig. 2, §3.1, App. A.1-A.2): cheap steps that reject much come first."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from video_alchemist.curation.background import paint_background, read_frame, verify_backgrounds
from video_alchemist.curation.captions import caption_clips, find_entities
from video_alchemist.curation.clip import Clip, Outcome, Step
from video_alchemist.curation.decode import decode_clip
from video_alchemist.curation.encode import Hide, encode_background, encode_clip
from video_alchemist.curation.faces import find_faces
from video_alchemist.curation.grounding import ground
from video_alchemist.curation.hidden_faces import hide_faces
from video_alchemist.curation.motion import measure_motion
from video_alchemist.curation.probe import probe_clip
from video_alchemist.curation.profile import CurationProfile
from video_alchemist.curation.roles import Roles
from video_alchemist.curation.shots import keep_single_shots
from video_alchemist.curation.text_overlay import keep_textless
from video_alchemist.curation.undesirable import keep_desirable


def annotation_steps(p: CurationProfile, roles: Roles) -> list[Step]:
    """From sources to clips whose subjects have boxes, masks and faces. Nothing is loaded before a step runs."""
    split, longest = p.split_shots, p.limits.max_source_seconds if p.split_shots else p.limits.max_seconds
    with_text = p.models.text_detector != ""
    return [
        each("probe", lambda clip: probe_clip(clip, p.limits, split)),
        each("decode", lambda clip: decode_clip(clip, p.limits, roles.clip_filter.size, longest)),
        each("shots", lambda clip: keep_single_shots(clip, roles.shot_detector, p.shot_end, split)),  # A.1
        each("decode_shots", lambda clip: decode_clip(clip, p.limits, roles.clip_filter.size)),
        each("motion", lambda clip: measure_motion(clip, p.min_motion)),
        # A.1: the four kinds of undesirable samples
        Step("undesirable", lambda clips: keep_desirable(clips, roles.clip_filter, p.undesirable), batch=p.batch),
        *([each("text", lambda clip: keep_textless(clip, roles.text_detector, p.max_text))] if with_text else []),
        Step("caption", lambda clips: caption_clips(clips, roles.captioner), batch=p.batch),
        Step("entities", lambda clips: find_entities(clips, roles.entity_extractor), batch=p.batch),  # Fig. 7, A.2
        Step("ground", lambda clips: ground(clips, roles.detector, roles.segmenter, p.grounding), batch=p.batch),
        Step("faces", lambda clips: find_faces(clips, roles.face_detector, p.faces), batch=p.batch),
        each("encode", lambda clip: encode_clip(clip, _hide(p, roles))),
    ]


def background_steps(p: CurationProfile, roles: Roles) -> list[Step]:
    """From annotated clips to clean background pictures; the costly part, and a stage of its own."""
    return [
        each("frame", read_frame),
        each("inpaint", lambda clip: paint_background(clip, roles.inpainter, p.background)),
        Step("verify", lambda clips: verify_backgrounds(clips, roles.detector, p.background), batch=p.batch),
        each("encode", encode_background),
    ]


def each(name: str, function: Callable[[Clip], Outcome], version: int = 1) -> Step:
    """A step that looks at one clip at a time."""
    return Step(name, lambda clips: [function(clip) for clip in clips], version, batch=1)


def _hide(p: CurationProfile, roles: Roles) -> Hide | None:
    return partial(hide_faces, detector=roles.face_detector, score=p.faces.score) if p.blur_faces else None
