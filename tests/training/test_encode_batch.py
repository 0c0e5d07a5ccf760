"""From pixels and words to what the transformer learns from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from video_alchemist.dataset.loader import ClipBatch
from video_alchemist.pretrained.roles import Roles
from video_alchemist.pretrained.single_frames import collapsed_time
from video_alchemist.pretrained.text_encoder import T5TextEncoder
from video_alchemist.training import encode
from video_alchemist.training.encode import encode_batch, encode_video

CAPTIONS = ("A dog jumps beside a robot", "A cat sits on the beach and the beach and the beach and a dog")
SPANS = (((2, 5), (21, 26)), ((2, 5), (57, 60)))  # dog, robot; cat, and a dog that the text encoder never reads


@pytest.fixture(scope="module")
def roles(pipeline) -> Roles:
    return pipeline.roles


@pytest.fixture
def clips() -> ClipBatch:
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(0, 256, (2, 5, 16, 32, 3), generator=generator, dtype=torch.uint8)
    return ClipBatch("32x16x5", ("a", "b"), CAPTIONS, SPANS, torch.rand(4, 3, 16, 16, generator=generator), video)


def test_pictures_are_bound_to_their_words(clips, roles) -> None:
    """Guards against pictures bound to another clip's or another picture's word, and to words that were cut off."""
    with pytest.warns(UserWarning, match="reads 12 tokens"):
        batch = encode_batch(clips, roles, 2, "cpu")
        offsets = roles.text_encoder(CAPTIONS).offsets
    assert batch.image_mask is not None and batch.image_mask.tolist() == [[True, True], [True, False]]
    for b, row in enumerate(batch.word_index):
        for n, places in enumerate(row):
            words = [CAPTIONS[b][slice(*offsets[b][place])] for place in places.tolist() if place >= 0]
            assert words == [["dog"], ["robot"], ["cat"], []][2 * b + n]
    torch.testing.assert_close(batch.image_tokens.flatten(0, 1), roles.image_encoder(clips.pictures))
    assert (batch.bucket, batch.ids) == (clips.bucket, clips.ids) and batch.null_text is None


def test_rows_of_different_lengths(clips, roles) -> None:
    """Guards against pictures that slip into another clip's row where clips have different numbers of them."""
    some = replace(clips, spans=((), SPANS[0]), captions=CAPTIONS[:1] * 2, pictures=clips.pictures[:2])
    batch = encode_batch(some, roles, 2, "cpu")
    assert batch.image_mask.tolist() == [[False, False], [True, True]]
    torch.testing.assert_close(batch.image_tokens[1], roles.image_encoder(some.pictures))
    assert batch.image_tokens[0].eq(0).all()


def test_without_pictures(clips, roles) -> None:
    """Stage I has none at all; in stage II a batch without any still has a place for one, or a rank of several would
    leave out layers that the others wait for."""
    none = replace(clips, captions=CAPTIONS[:1] * 2, pictures=clips.pictures[:0])
    assert encode_batch(replace(none, spans=()), roles, 2, "cpu").image_tokens is None
    batch = encode_batch(replace(none, spans=((), ())), roles, 2, "cpu")
    assert batch.image_tokens.shape == (2, 1, 4, 24) and batch.image_tokens.eq(0).all()
    assert not batch.image_mask.any() and batch.word_index.tolist() == [[[-1, -1]]] * 2


def test_what_dropped_text_becomes(clips, roles) -> None:
    """Guards against zeros where the model was trained on the encoding of no text, padded as the captions are."""
    some = replace(clips, captions=CAPTIONS[:1] * 2)
    padded = T5TextEncoder(roles.text_encoder.model, roles.text_encoder.tokenizer, 12, pad_to_max=True)
    batch = encode_batch(some, roles._replace(text_encoder=padded), 2, "cpu", null_text=True)
    assert batch.null_text.shape == (1, 12, 16) and batch.text_mask.all()
    torch.testing.assert_close(batch.null_text, padded([""]).tokens)
    assert torch.equal(encode_batch(some, roles, 2, "cpu", null_text=batch.null_text).null_text, batch.null_text)


def test_many_clips_go_through_the_autoencoder_in_parts(clips, roles, monkeypatch) -> None:
    """Guards against memory that grows with the batch, and against parts put together in another order."""
    whole = encode_video(roles.autoencoder, clips.video, "cpu")
    monkeypatch.setattr(encode, "MAX_PIXELS", 1)
    torch.testing.assert_close(encode_video(roles.autoencoder, clips.video, "cpu"), whole)
    black = encode_video(roles.autoencoder, torch.zeros(1, 5, 16, 32, 3, dtype=torch.uint8), "cpu")
    torch.testing.assert_close(black, roles.autoencoder.encode(-torch.ones(1, 3, 5, 16, 32)))


@torch.no_grad()
def test_single_frames_are_encoded_as_clips_are(pipeline) -> None:
    """Guards against 2D convolutions with summed kernels that give another picture than the causal 3D ones, that are
    not taken for single frames, or that stay in place for clips."""
    model, autoencoder = pipeline.autoencoder, pipeline.roles.autoencoder
    frames = torch.randint(0, 256, (2, 5, 16, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    clip = encode_video(autoencoder, frames, "cpu")
    expected = autoencoder.encode(frames[:, :1].permute(0, 4, 1, 2, 3) / 127.5 - 1)
    found = encode_video(autoencoder, frames[:, :1], "cpu")
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert not torch.equal(found, expected)  # of another sum
    decoded = model.decode(expected).sample
    with collapsed_time():
        torch.testing.assert_close(model.decode(expected).sample, decoded, atol=1e-5, rtol=1e-4)
    assert torch.equal(encode_video(autoencoder, frames, "cpu"), clip)
