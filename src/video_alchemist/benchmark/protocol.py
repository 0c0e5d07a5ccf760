"""What a score means: the paper's words (§4.2), or the released code to the digit. Every difference is one field.

The paper names models and "average cosine similarity"; it gives no thresholds, frame counts or crops. Where it is
silent, both protocols take the released code's number. Both look for a word with the same boxes: each box belongs to
the word that it fits best, and of a word's boxes the best one counts. Missing subjects and faces count 0 in both
("video frames with missing subjects or faces are assigned a similarity score of 0"), and targets are always all
pictures of a word, whatever the method was given.

No field can tell two things of the released code: it reads its face detector's auxiliary head, which is settled where
the detector's file is made, and it runs CLIP in half precision on a GPU.

F frames · H,W pixels
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np


class TooShort(ValueError):
    """A video that has not the frames that the protocol wants."""


@dataclass(frozen=True)
class Protocol:
    """As it stands: the paper's, without quirks."""

    name: str

    # Which videos and frames
    absent_is_zero: bool = True  # a missing or unreadable video shows no subject and no face; else it is left out
    num_frames: int | None = None  # the first so many; None = all of them ("the generated frames")
    drop_tail_of: int = 1  # videos are dealt to so many processes, and a last round that is not full is dropped

    # Text-S, Vid-S: "CLIP ViT-L/14 features"
    crop_type: Literal["short", "long"] = "short"  # a frame's middle square, or the whole frame in a black one

    # Subj-S: "the segmented subject of the generated frames"
    subject_words: Literal["conditioned", "all"] = "conditioned"  # whose similarity counts
    joined_prompt: bool = False  # all words as they are, "man . blue cap ."; else without marks, and split to fit
    runs_inside_words: bool = False  # "man" is also scored by its tokens inside "old man"
    detection_score: float = 0.4  # more than this
    clamp_boxes: bool = True  # boxes end at the frame's edges
    truncate_boxes: bool = False  # sides lose their fractions (towards 0); else they are rounded
    max_overhang: int = 0  # pixels that a box may reach over the right or the bottom edge, not both
    mask_score: float = 0.9  # more than this, in IoU that the segmenter expects

    # Face-S: "the generated face crops"
    face_score: float = 0.2  # more than this
    first_face_only: bool = False  # the surest face, whoever it is; else the one most like the subject's
    single_face_subject: bool = False  # a sample needs exactly one subject with face crops; else the mean over them
    flip_face_colours: bool = False  # the face detector, made for RGB, is shown BGR
    chained_face_box: bool = False  # the chin's share is of the box already grown, and the last row is out of reach

    # Dync-D: "optical flow magnitude", VBench's dynamic degree in the tables
    min_interval: int = 1  # of round(fps / 8) frames; 0: videos of 4 frames a second and less cannot be scored
    min_moving: int = 1  # pairs that have to move; 0: two frames always do
    padded_flow: bool = False  # counts the border that makes the sides multiples of 8

    def kept(self, ids: Sequence[str]) -> list[str]:
        """The samples that are scored: sorted, without the dropped tail."""
        if ids and len(ids) < self.drop_tail_of:
            raise ValueError(
                f"{len(ids)} videos for {self.drop_tail_of} processes, of which none may be idle; "
                f"expected at most world_size={len(ids)}"
            )
        return sorted(ids)[: len(ids) // self.drop_tail_of * self.drop_tail_of]

    def frames(self, frames: np.ndarray) -> np.ndarray:
        """Of all frames (F, H, W, 3), those that are looked at; TooShort where they do not suffice."""
        if len(frames) == 0:
            raise TooShort("no frames")
        if self.num_frames is None:
            return frames
        missing = self.num_frames - len(frames)
        if missing > 1:  # the released code breaks off here
            raise TooShort(f"{len(frames)} frames; expected at least {self.num_frames}, or one less")
        return np.concatenate([frames, frames[-1:]]) if missing == 1 else frames[: self.num_frames]


def paper() -> Protocol:
    """§4.2 as it is written.

    The subject's similarity is that of the words whose pictures the method was given (the subjects', where nobody says
    more); the face's, that of the face most like the subject's own; all frames count; the text is the whole caption, as
    far as CLIP reads.
    """
    return Protocol("paper")


def official(num_frames: int, world_size: int = 1, crop_type: Literal["short", "long"] = "short") -> Protocol:
    """The released evaluation code (February 2025, unchanged since), for scores to be set beside others made with it.

    num_frames: its --num_frames; 49 suits the paper's own videos. world_size: GPUs that it is run on, which changes
    the score: 1,285 face videos on 8 GPUs are 1,280.
    """
    for name, value in {"num_frames": num_frames, "world_size": world_size}.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; expected 1 or more")
    return Protocol(
        "official",
        num_frames=num_frames,  # indices 0..F-1 at the video's own rate; one short: the last again; two: an error
        absent_is_zero=False,  # it lists the folder: the mean is over what is there; an unreadable file ends its run
        drop_tail_of=world_size,  # N' = N // world * world of the sorted files
        crop_type=crop_type,  # its only setting besides; its own configurations leave it at "short"
        subject_words="all",  # the embeddings' file holds subjects and objects, and nothing filters it
        joined_prompt=True,  # " . ".join(words), lower case, and "."; in the caption's order: there, it is a set's
        runs_inside_words=True,  # every run of the word's BERT ids in the prompt's
        clamp_boxes=False,
        truncate_boxes=True,  # .int()
        max_overhang=3,  # the mask inside the box may be 0 to 3 pixels smaller than the box, in one dimension
        first_face_only=True,  # the first detection, and they are sorted by confidence
        single_face_subject=True,  # else there is no file of face embeddings, and the evaluation fails
        flip_face_colours=True,
        chained_face_box=True,  # y2' from y1', and at most H - 1
        min_interval=0,  # frames[::round(fps / 8)]; VBench has max(1, ...)
        min_moving=0,  # round(L / 4.0) is 0 for two frames
        padded_flow=True,  # never unpadded
    )
