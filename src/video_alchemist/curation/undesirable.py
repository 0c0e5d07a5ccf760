"""The four kinds of undesirable samples (App. A.1), told by a fine-tuned video classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from video_alchemist.curation.clip import Clip, Outcome
from video_alchemist.curation.probe import reject

if TYPE_CHECKING:
    from video_alchemist.pretrained.clip_filter import ClipFilter


def keep_desirable(clips: Sequence[Clip], clip_filter: ClipFilter, threshold: float) -> list[Outcome]:
    """The clips with the score of every kind in [0, 1]; a clip leaves for the kind it scores highest in."""
    from video_alchemist.pretrained.clip_filter import UNDESIRABLE  # torch comes with it

    small = np.stack([_small(clip) for clip in clips])  # (B, 16, side, side, 3)
    outcomes: list[Outcome] = []
    for clip, scores in zip(clips, clip_filter(small), strict=True):
        measures = {**clip.measures, **{kind: float(score) for kind, score in zip(UNDESIRABLE, scores, strict=True)}}
        clip, worst = replace(clip, measures=measures), int(np.argmax(scores))
        if scores[worst] > threshold:
            outcomes.append(
                reject(clip, UNDESIRABLE[worst], f"score {scores[worst]:.2f}; accepted up to {threshold:g}")
            )
        else:
            outcomes.append(clip)
    return outcomes


def _small(clip: Clip) -> np.ndarray:
    assert clip.pixels is not None, "decode a clip before filtering it"
    return clip.pixels.small
