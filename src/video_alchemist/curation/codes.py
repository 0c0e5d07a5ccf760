"""Why clips leave: every reject code, what it means, and whether another run may go better (App. A.1-A.2's funnel)."""

from __future__ import annotations

from typing import NamedTuple


class Code(NamedTuple):
    """transient: the clip itself is not to blame, so that the next run tries it again."""

    meaning: str
    transient: bool = False


CODES: dict[str, Code] = {
    # the file
    "no_such_file": Code("the file is not there", transient=True),
    "unreadable": Code("the file could not be read", transient=True),
    "empty_file": Code("the file has no bytes"),
    "not_a_video": Code("no container of a known kind"),
    "no_video_stream": Code("a container without pictures"),
    "truncated": Code("the file ends before its last frame"),
    "absurd_header": Code("the header promises more than so few bytes can hold"),
    "corrupt_frames": Code("frames could not be decoded"),
    "too_short": Code("shorter than the profile wants"),
    "too_long": Code("longer than the profile wants"),
    "too_small": Code("fewer pixels a side than the profile wants"),
    "too_large": Code("more pixels a side than the profile wants"),
    # undesirable samples (App. A.1)
    "not_single_shot": Code("several shots"),
    "no_motion": Code("nothing moves"),
    "still_foreground": Code("pan and zoom over a still picture"),
    "slight_motion": Code("tiny camera movement, resting foreground"),
    "screen_in_screen": Code("an image or video laid over another"),
    "screen_recording": Code("a recording of a computer screen"),
    # where a profile names a text detector
    "text_overlay": Code("text covers more of a frame than the profile wants"),
    # entity words (App. A.2)
    "no_caption": Code("no caption was given, and no captioner"),
    "entity_no_answer": Code("the extractor of entity words could not be asked", transient=True),
    "entity_answer_invalid": Code("the answer is no dictionary of lists of words"),
    "entity_not_in_caption": Code("an entity word is no part of the caption"),
    "entity_no_subject": Code("no human and no animal in the caption"),
    "entity_plural_subject": Code("a subject's word names several"),
    # subjects (§3.1)
    "subject_not_found": Code("a subject of the caption was detected in no frame"),
    "subject_too_small": Code("a subject was detected only where it is tiny"),
    "subject_not_segmented": Code("a subject was detected, but no mask of it is good enough"),
    "ambiguous_entity": Code("two places of the picture answer to one subject's word"),
    # the engine
    "failed": Code("a step raised an error"),
    "io_error": Code("a file could not be read or written", transient=True),
    "crashed": Code("the process died of it, again and again"),
    "timed_out": Code("a step did not end"),
    # background (§3.1); the clip stays, without a background
    "background_not_clean": Code("subjects remain visible in the background picture"),
}


def rejection(code: str) -> Code:
    """The entry of a code; unknown ones are a programming error."""
    if code not in CODES:
        raise ValueError(f"reject code {code!r} is unknown; expected one of {', '.join(CODES)}")
    return CODES[code]
