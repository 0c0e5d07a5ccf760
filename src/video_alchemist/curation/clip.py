"""What walks through curation (§3.1, App. A.1-A.2): a clip that knows more after every step, or why it was rejected.

F frames · H,W pixels · n entity words
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from video_alchemist.records import Entity

FRAME_TIMES = (0.05, 0.5, 0.95)  # §3.1: "in the 5%, 50%, and 95% percentiles"
Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels


@dataclass(frozen=True)
class Source:
    """A video to curate. id: unique, of letters, digits, "-" and "_", and never dependent on the order of the inputs.

    start, end: seconds; the part to use, None = all of it.
    """

    id: str
    path: str
    caption: str | None = None
    start: float | None = None
    end: float | None = None
    license: str = ""
    video: str = ""  # the id that all parts of one video share, where it is cut into several sources
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Probe:
    """What the container says. rotation: degrees clockwise that a player turns the frames by; size is after it."""

    width: int
    height: int
    fps: float
    num_frames: int
    duration: float
    codec: str
    rotation: int = 0


@dataclass(frozen=True)
class Pixels:
    """All that was decoded of a clip, in one pass; it never leaves the process that decoded it."""

    tiny: np.ndarray  # (F, 27, 48, 3) uint8: every frame, for shots and motion
    small: np.ndarray  # (16, h, w, 3) uint8: evenly spread, for the clip filter and previews
    frames: np.ndarray  # (3, H, W, 3) uint8: the reference frames at FRAME_TIMES
    background: np.ndarray | None = None  # (H, W, 3) uint8: the middle frame without its subjects
    times: np.ndarray | None = None  # (F,) seconds since the start of the source, of every frame


@dataclass(frozen=True)
class Sighting:
    """An entity in one of the three frames. mask: COCO's uncompressed RLE {"size": [H, W], "counts": [...]}."""

    entity: int  # row of Clip.entities
    frame: int  # 0, 1, 2
    box: Box
    detection_score: float
    mask_score: float
    mask: Mapping[str, Any]
    face: Box | None = None
    face_score: float = 0.0


@dataclass(frozen=True)
class Clip:
    """A part of a source, with everything found out so far. id: `<source id>-<start ms>-<end ms>` once it is cut.

    measures: numbers by name ("motion", "still_foreground", ...), for histograms and for later thresholds.
    """

    id: str
    source: Source
    start: float = 0.0
    end: float = 0.0
    probe: Probe | None = None
    caption: str = ""
    entities: tuple[Entity, ...] = ()
    sightings: tuple[Sighting, ...] = ()
    measures: Mapping[str, float] = field(default_factory=dict)
    perceptual_hash: str = ""
    pixels: Pixels | None = field(default=None, repr=False, compare=False)
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False, compare=False)  # to write, by suffix: "f0.jpg"


@dataclass(frozen=True)
class Rejected:
    """Why a clip left. code: one of `curation.codes`; transient ones (a disk that was away) are tried again by the next
    run. step: where; the engine fills it in."""

    clip: Clip
    code: str
    detail: str = ""
    transient: bool = False
    step: str = ""


Outcome = Clip | Rejected | tuple[Clip, ...]  # several: a video cut into its shots


@dataclass(frozen=True)
class Step:
    """One line of the literal list: a batch of clips in, one outcome for each out, in order.

    version: raise it where the outcome changes for the same input; it is part of the address of what is written.
    """

    name: str
    run: Callable[[Sequence[Clip]], list[Outcome]]
    version: int = 1
    batch: int = 16
