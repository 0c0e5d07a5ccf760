"""A Condition (words and pictures) as the tensors that the transformer is conditioned on (§3.2).

Training and sampling both come through here, so what the model learned to read is what it is given.

B conditions · S text tokens · N reference images · L tokens of one image · d image channels · W word_length
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from video_alchemist.dataset.picture import WHITE, compose, paste_on, read_picture
from video_alchemist.model.binding import find_word, token_index
from video_alchemist.pretrained.image_encoder import ImageEncoder
from video_alchemist.pretrained.text_encoder import TextEncoder
from video_alchemist.records import MAX_IMAGES, Condition, Reference


@dataclass(frozen=True)
class EncodedCondition:
    """The fields of a training Batch that say what is asked for. Those of pictures are None where nobody has one."""

    text_tokens: Tensor  # (B, S, D_text) float
    text_mask: Tensor  # (B, S) bool, True = a token
    image_tokens: Tensor | None = None  # (B, N, L, d) float
    word_index: Tensor | None = None  # (B, N, W) long, -1 = padding
    image_mask: Tensor | None = None  # (B, N) bool, True = a picture
    null_tokens: Tensor | None = None  # (1, S, D_text) float: what dropped text becomes, None = zeros
    null_mask: Tensor | None = None  # (1, S) bool

    def to(self, device: torch.device | str, dtype: torch.dtype) -> EncodedCondition:
        """On a device; `dtype` is that of the tokens."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        moved = {name: x.to(device, dtype if x.is_floating_point() else None) for name, x in given.items()}
        return EncodedCondition(**moved)


@dataclass(frozen=True)
class PlacedReference:
    """A reference with the characters of its word in the prompt."""

    reference: Reference
    span: tuple[int, int]


def place_references(condition: Condition, max_images: int = MAX_IMAGES) -> list[PlacedReference]:
    """References in the order of their words in the text: which of two subjects a user names first must not change the
    video. Pictures of one word keep their order."""
    if len(condition.references) > max_images:
        raise ValueError(
            f"{len(condition.references)} reference images; expected at most {max_images}, as the model was trained on"
        )
    placed = [
        PlacedReference(reference, find_word(condition.text, reference.word, reference.occurrence))
        for reference in condition.references
    ]
    return sorted(placed, key=lambda place: place.span)


def reference_image(reference: Reference, size: int) -> Tensor:
    """What the image encoder sees: a segment on white, or the middle of a background. => (3, size, size) in [0, 1]."""
    rgba = read_picture(reference)
    if reference.kind != "background":
        return compose(rgba, size)
    side = min(rgba.shape[1:])
    top, left = (rgba.shape[1] - side) // 2, (rgba.shape[2] - side) // 2
    rgb = paste_on(rgba, rgba.new_tensor(WHITE).view(3, 1, 1))[:, top : top + side, left : left + side]
    return F.interpolate(rgb[None], size=(size, size), mode="bilinear", antialias=True, align_corners=False)[0]


@torch.no_grad()
def encode_conditions(
    conditions: Sequence[Condition],
    text_encoder: TextEncoder,
    image_encoder: ImageEncoder,
    word_length: int,
    max_images: int = MAX_IMAGES,
    negative_prompt: str | None = None,
) -> EncodedCondition:
    """Conditions as one batch, padded to the longest text and to the most pictures, with masks.

    negative_prompt: what the text becomes where guidance drops it; None = zeros.
    """
    places = [place_references(condition, max_images) for condition in conditions]
    negative = [] if negative_prompt is None else [negative_prompt]
    text = text_encoder([*(condition.text for condition in conditions), *negative])
    encoded = EncodedCondition(text.tokens[: len(conditions)], text.mask[: len(conditions)])
    if negative:
        encoded = replace(encoded, null_tokens=text.tokens[-1:], null_mask=text.mask[-1:])
    width = max(map(len, places), default=0)
    if width == 0:
        return encoded

    images = [reference_image(place.reference, image_encoder.size) for row in places for place in row]
    tokens = image_encoder(torch.stack(images))  # (all pictures, L, d)
    image_tokens = tokens.new_zeros(len(conditions), width, *tokens.shape[1:])  # (B, N, L, d)
    word_index = torch.full((len(conditions), width, word_length), -1)  # (B, N, W)
    image_mask = torch.zeros(len(conditions), width, dtype=torch.bool)  # (B, N)
    for b, row in enumerate(places):
        for n, place in enumerate(row):
            index = token_index(text.offsets[b], place.span, word_length)
            if index[0] < 0:
                raise ValueError(
                    f"{place.reference.word!r} stands beyond the {len(text.offsets[b])} tokens that the text encoder "
                    f"reads of {conditions[b].text!r}; expected it earlier, or a shorter prompt"
                )
            word_index[b, n], image_mask[b, n] = torch.tensor(index), True
    # In the order of `places`, row by row: exactly the order of True in image_mask.
    image_tokens[image_mask.to(tokens.device)] = tokens
    return replace(
        encoded,
        image_tokens=image_tokens,
        word_index=word_index.to(tokens.device),
        image_mask=image_mask.to(tokens.device),
    )
