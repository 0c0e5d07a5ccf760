"""Single-shot clips only (App. A.1: "we apply TransNetV2 to detect and exclude videos that contain multiple shots").

F frames
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from video_alchemist.curation.clip import Clip, Outcome
from video_alchemist.curation.probe import reject

if TYPE_CHECKING:
    from video_alchemist.pretrained.shot_detector import ShotDetector


def keep_single_shots(clip: Clip, detector: ShotDetector, threshold: float, split: bool = False) -> Outcome:
    """The clip, cut: with the id of its part. With several shots it leaves, or is `split` into them.

    Split parts come without pixels; those that are too short leave when they are decoded, each with its own code.
    """
    assert clip.pixels is not None, "decode a clip before looking for its shots"
    shots = shot_spans(detector(clip.pixels.tiny), threshold)
    if len(shots) == 1 and shots[0] == (0, len(clip.pixels.tiny)):
        return cut(clip, clip.start, clip.end)
    if not split:
        return reject(clip, "not_single_shot", f"{len(shots)} shots")
    times = clip.pixels.times
    assert times is not None
    edges = [*times.tolist(), clip.end]
    bare = replace(clip, pixels=None)
    return tuple(cut(bare, edges[first], edges[last]) for first, last in shots)


def cut(clip: Clip, start: float, end: float) -> Clip:
    """The part of the source from start to end (seconds), by its own id."""
    return replace(clip, id=f"{clip.source.id}-{1000 * start:.0f}-{1000 * end:.0f}", start=start, end=end)


def shot_spans(ends: np.ndarray, threshold: float) -> list[tuple[int, int]]:
    """(F,) probability that a shot ends at each frame -> frames [first, last) of each shot.

    A cut marks the last frame of its shot. A fade marks a run of frames: its first still belongs to the shot before,
    the rest to none, since both shots show in them.
    """
    marked = np.flatnonzero(ends[:-1] > threshold)  # the last frame ends its shot in any case
    spans, start = [], 0
    for frame in marked.tolist():
        if frame > 0 and ends[frame - 1] > threshold:
            start = frame + 1
            continue
        spans.append((start, frame + 1))
        start = frame + 1
    spans.append((start, len(ends)))
    return spans
