"""Words and pictures as tensors: order, places, masks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from video_alchemist.model.condition import EncodedCondition, encode_conditions, place_references, reference_image
from video_alchemist.pretrained.image_encoder import ViTImageEncoder
from video_alchemist.pretrained.text_encoder import T5TextEncoder
from video_alchemist.records import Condition, Reference
from video_alchemist.sampling.pipeline import AlchemistPipeline

MEAN = STD = (0.5, 0.5, 0.5)


def encode(
    pipeline: AlchemistPipeline, *conditions: Condition, max_length: int = 12, negative_prompt: str | None = None
) -> EncodedCondition:
    text = T5TextEncoder(pipeline.text_encoder, pipeline.tokenizer, max_length)
    image = ViTImageEncoder(pipeline.image_encoder, 16, MEAN, STD)
    return encode_conditions(conditions, text, image, word_length=2, negative_prompt=negative_prompt)


def test_pictures_stand_with_their_words(pipeline: AlchemistPipeline, pictures: dict[str, Path]) -> None:
    """Guards against a picture bound to another subject's word, or to another sample's."""
    two = Condition("A dog and a robot", (Reference("robot", pictures["robot"]), Reference("dog", pictures["dog"])))
    none, one = Condition("A cat"), Condition("A dog and a dog", (Reference("dog", pictures["cat"], occurrence=1),))
    encoded = encode(pipeline, two, none, one)
    assert encoded.image_mask is not None and encoded.word_index is not None and encoded.image_tokens is not None
    assert encoded.image_mask.tolist() == [[True, True], [False, False], [True, False]]
    assert encoded.word_index.tolist() == [[[1, -1], [4, -1]], [[-1, -1], [-1, -1]], [[4, -1], [-1, -1]]]
    image_encoder = ViTImageEncoder(pipeline.image_encoder, 16, MEAN, STD)
    for b, n, name in ((0, 0, "dog"), (0, 1, "robot"), (2, 0, "cat")):
        alone = image_encoder(reference_image(Reference(name, pictures[name]), 16)[None])[0]
        torch.testing.assert_close(encoded.image_tokens[b, n], alone, atol=1e-5, rtol=1e-5)
    assert not encoded.image_tokens[1].any()


def test_order_is_that_of_the_words(pictures: dict[str, Path]) -> None:
    """Guards against videos that depend on which of two subjects is named first; views of one keep their order."""
    dog, dog_too, robot = (
        Reference("dog", pictures["dog"]),
        Reference("dog", pictures["cat"]),
        Reference("robot", pictures["robot"]),
    )
    for references in ((robot, dog, dog_too), (dog, robot, dog_too), (dog, dog_too, robot)):
        placed = place_references(Condition("A dog beside a robot", references))
        assert [place.reference for place in placed] == [dog, dog_too, robot]


def test_seven_pictures(pictures: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="7 reference images; expected at most 6"):
        place_references(Condition("A dog", (Reference("dog", pictures["dog"]),) * 7))


def test_no_pictures_is_stage_one(pipeline: AlchemistPipeline) -> None:
    encoded = encode(pipeline, Condition("A dog"), Condition("A cat jumps"))
    assert encoded.image_tokens is None and encoded.word_index is None and encoded.image_mask is None


def test_negative_prompt(pipeline: AlchemistPipeline, pictures: dict[str, Path]) -> None:
    """Guards against a negative prompt that is taken for one more condition, or padded differently."""
    condition = Condition("A dog jumps", (Reference("dog", pictures["dog"]),))
    plain, encoded = encode(pipeline, condition), encode(pipeline, condition, negative_prompt="A cat")
    assert plain.null_tokens is None and encoded.null_tokens is not None and encoded.null_mask is not None
    torch.testing.assert_close(encoded.text_tokens, plain.text_tokens)
    torch.testing.assert_close(encoded.image_tokens, plain.image_tokens)
    assert encoded.null_mask.tolist() == [[True] * 3 + [False]]
    cat = encode(pipeline, Condition("A cat")).text_tokens
    torch.testing.assert_close(encoded.null_tokens[:, :3], cat)
    half = encoded.to("cpu", torch.bfloat16)
    assert half.null_tokens.dtype == torch.bfloat16 and half.null_mask.dtype == torch.bool


@pytest.mark.filterwarnings("ignore:the text encoder reads")
def test_word_beyond_the_text_encoder(pipeline: AlchemistPipeline, pictures: dict[str, Path]) -> None:
    """Guards against a picture that is bound to no word, in silence, because the prompt was cut before it."""
    condition = Condition("A cat jumps on the beach beside a dog", (Reference("dog", pictures["dog"]),))
    with pytest.raises(ValueError, match="'dog' stands beyond the 5 tokens"):
        encode(pipeline, condition, max_length=5)


def test_backgrounds_fill_their_square() -> None:
    """Guards against white bars beside a wide background: its middle is shown instead."""
    wide = torch.zeros(20, 60, 3, dtype=torch.uint8)
    wide[:, 20:40] = 255
    background = reference_image(Reference("beach", wide.numpy(), kind="background"), 8)
    torch.testing.assert_close(background, torch.ones(3, 8, 8))
    segment = reference_image(Reference("dog", wide.numpy()), 12)
    assert segment.shape == (3, 12, 12) and float(segment.min()) == 0
