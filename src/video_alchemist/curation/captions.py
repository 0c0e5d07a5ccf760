"""Captions, and the entity words in them (§3.1, App. A.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from video_alchemist.curation.clip import Clip, Outcome
from video_alchemist.curation.entity_words import EntityError, entities_of
from video_alchemist.curation.probe import reject
from video_alchemist.pretrained.entity_extractor import EntityExtractor


class Captioner(Protocol):
    """Says what clips show: (B clips of (3, H, W, 3) uint8, their frames at 5, 50 and 95 %) -> B captions."""

    def __call__(self, clips: Sequence[np.ndarray], /) -> list[str]: ...


def caption_clips(clips: Sequence[Clip], captioner: Captioner | None) -> list[Outcome]:
    """The caption that came with the source, else the captioner's; a clip without either leaves."""
    given = [_tidy(clip.source.caption or "") for clip in clips]
    if captioner is not None:
        bare = [i for i, text in enumerate(given) if not text]
        made = captioner([_frames(clips[i]) for i in bare]) if bare else []
        for i, text in zip(bare, made, strict=True):
            given[i] = _tidy(text)
    return [
        replace(clip, caption=text) if text else reject(clip, "no_caption")
        for clip, text in zip(clips, given, strict=True)
    ]


def find_entities(clips: Sequence[Clip], extractor: EntityExtractor) -> list[Outcome]:
    """The clips with the entity words of their captions, by the rules of App. A.2."""
    outcomes: list[Outcome] = []
    for clip, answer in zip(clips, extractor([clip.caption for clip in clips]), strict=True):
        try:
            outcomes.append(replace(clip, entities=entities_of(clip.caption, answer)))
        except EntityError as error:
            outcomes.append(reject(clip, error.code, error.detail))
    return outcomes


def _tidy(text: str) -> str:
    return " ".join(text.split())


def _frames(clip: Clip) -> np.ndarray:
    assert clip.pixels is not None, "decode a clip before captioning it"
    return clip.pixels.frames
