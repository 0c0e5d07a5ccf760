"""Captions come with the source or from a captioner; entity words follow the rules of App. A.2."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from video_alchemist.curation import entity_words
from video_alchemist.curation.captions import caption_clips, find_entities
from video_alchemist.curation.clip import Clip, Pixels, Rejected, Source
from video_alchemist.curation.codes import CODES
from video_alchemist.pretrained.entity_extractor import LexiconExtractor, NoAnswer


def clip_of(caption: str | None, level: int = 0) -> Clip:
    frames = np.full((3, 8, 8, 3), level, np.uint8)
    return Clip("a", Source("a", "a.mp4", caption), pixels=Pixels(frames, frames, frames))


def codes_of(outcomes: Sequence[object]) -> list[str]:
    return [one.code if isinstance(one, Rejected) else "kept" for one in outcomes]


def test_given_captions_and_captioner() -> None:
    """Guards against a captioner that is asked for what is known, or answers for the wrong clip."""
    asked = []

    def captioner(clips: Sequence[np.ndarray]) -> list[str]:
        asked.extend(clips)
        return [f"level {int(frames.mean())}\n" if frames.mean() else " " for frames in clips]

    clips = [clip_of('A "dog" 🐕\n runs'), clip_of(None, 7), clip_of("  ", 9), clip_of("A cat"), clip_of(None, 0)]
    assert codes_of(caption_clips(clips, None)) == ["kept", "no_caption", "no_caption", "kept", "no_caption"]
    outcomes = caption_clips(clips, captioner)
    captions = [one.caption for one in outcomes if isinstance(one, Clip)]
    assert captions == ['A "dog" 🐕 runs', "level 7", "level 9", "A cat"]
    assert codes_of(outcomes)[-1] == "no_caption" and len(asked) == 3


def captioned(text: str) -> Clip:
    return Clip("a", Source("a", "a.mp4"), caption=text)


def test_entity_words_of_the_grammar() -> None:
    """Guards against spans that do not point at their word, with emoji and quotes before it."""
    (clip,) = find_entities([captioned('🐕 "Wow": a dog jumps beside a robot on the beach')], LexiconExtractor())
    assert isinstance(clip, Clip)
    assert [clip.caption[e.span[0] : e.span[1]] for e in clip.entities] == [e.word for e in clip.entities]
    assert {(e.word, e.kind) for e in clip.entities} >= {("dog", "subject"), ("beach", "background")}


def test_every_code_of_the_rules_is_known() -> None:
    """Guards against codes that the report cannot explain, and against a busy server that costs clips for ever."""
    answers = {
        "A dog": "no dictionary",
        "A cat": {"subject": ["cow"], "object": [], "background": []},
        "A car": {"subject": [], "object": ["car"], "background": []},
        "Two dogs": {"subject": ["dogs"], "object": [], "background": []},
        "A cow": NoAnswer("busy"),
        "A horse": "{'subject': ['horse'], 'object': [], 'background': []}",
    }
    outcomes = find_entities(
        [captioned(text) for text in answers], lambda captions: [answers[text] for text in captions]
    )
    assert codes_of(outcomes) == [
        "entity_answer_invalid", "entity_not_in_caption", "entity_no_subject", "entity_plural_subject",
        "entity_no_answer", "kept",
    ]  # fmt: skip
    assert entity_words.CODES <= CODES.keys()
    assert [one.transient for one in outcomes if isinstance(one, Rejected)] == [False] * 4 + [True]
    assert {code for code in entity_words.CODES if CODES[code].transient} == entity_words.TRANSIENT
