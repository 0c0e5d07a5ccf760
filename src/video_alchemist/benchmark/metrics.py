"""All metrics, and the networks that each of them asks: §4.2's five, and what the paper leaves open."""

from __future__ import annotations

from video_alchemist.benchmark.fidelity import (
    background_similarity,
    copy_paste,
    copy_paste_excess,
    duplication,
    face_similarity_assigned,
    identity_margin,
    identity_mixing,
    missing_share,
    subject_similarity_assigned,
)
from video_alchemist.benchmark.motion import dynamic_degree, flow_magnitude
from video_alchemist.benchmark.quality import flicker, learned_quality, motion_smoothness, sharpness
from video_alchemist.benchmark.rows import Metric
from video_alchemist.benchmark.similarity import (
    face_similarity,
    subject_similarity,
    text_similarity,
    video_similarity,
)

FACES = ("face_detector", "face_embedder")
SIGHTED = ("detector", "segmenter")
SUBJECTS = (*SIGHTED, "subject_encoder")

ALL: tuple[tuple[Metric, tuple[str, ...]], ...] = (
    # §4.2
    (text_similarity, ("image_text",)),
    (video_similarity, ("image_text",)),
    (subject_similarity, SUBJECTS),
    (face_similarity, FACES),
    (dynamic_degree, ("optical_flow",)),
    # Beside it
    (flow_magnitude, ("optical_flow",)),
    (background_similarity, (*SIGHTED, "image_text")),
    (subject_similarity_assigned, SUBJECTS),
    (face_similarity_assigned, FACES),
    (copy_paste, SIGHTED),
    (copy_paste_excess, SIGHTED),
    (identity_mixing, SUBJECTS),
    (identity_margin, SUBJECTS),
    (missing_share, SIGHTED),
    (duplication, SIGHTED),
    (flicker, ()),
    (sharpness, ()),
    (motion_smoothness, ("optical_flow",)),
    (learned_quality, ("image_text", "quality")),
)
METRICS: dict[str, Metric] = {metric.__name__: metric for metric, _ in ALL}
ROLES: dict[str, tuple[str, ...]] = {metric.__name__: roles for metric, roles in ALL}
