"""The only goods handed from room to room: what a clip shows, and what the model is asked for.

Curated clips, training clips and benchmark samples are all `Example`s; whoever wants a video makes a `Condition`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Kind = Literal["subject", "object", "background"]
View = Literal["whole", "face"]
MAX_IMAGES = 6  # Table 5: "Conditioning images 6"


@dataclass(frozen=True)
class Entity:
    """An entity word of a caption (§3.1): `text[span[0]:span[1]] == word`."""

    word: str
    kind: Kind
    span: tuple[int, int]


@dataclass(frozen=True)
class Reference:
    """A picture of an entity, bound to the word that names it (§3.2).

    image: a path, a PIL image, or an array (H, W, 3 or 4) uint8. An alpha channel is the mask.
    mask: a path, a PIL image or an array (H, W), non-zero where the subject is; overrides alpha.
    word: as it stands in the prompt; `occurrence` picks one of several (0 = first).
    """

    word: str
    image: Any
    mask: Any = None
    kind: Kind = "subject"
    view: View = "whole"
    occurrence: int = 0


@dataclass(frozen=True)
class Condition:
    """What a video is asked for. No references = text-to-video = stage I."""

    text: str
    references: tuple[Reference, ...] = ()


@dataclass(frozen=True)
class Example:
    """A clip with everything known about it.

    references: candidate pictures of subjects and objects (frames at 5, 50, 95 %), several a word.
    background: the clean background picture, bound to the background's word; None where there is none.
    video: (F, H, W, 3) uint8, or None where only the description is at hand.
    """

    id: str
    caption: str
    entities: tuple[Entity, ...]
    references: tuple[Reference, ...] = ()
    background: Reference | None = None
    video: Any = None
    fps: float = 24.0
    provenance: dict[str, Any] = field(default_factory=dict)


def resolve_path(image: Any) -> Path | None:
    """The path of a reference's picture, or None where the picture is given itself."""
    return Path(image) if isinstance(image, (str, Path)) else None
