"""The text encoder's role, played by T5's class with random weights."""

from __future__ import annotations

import pytest
import torch
from transformers import UMT5Config, UMT5EncoderModel

from video_alchemist.pretrained.text_encoder import T5TextEncoder
from video_alchemist.sampling.pipeline import AlchemistPipeline


def test_tokens_know_their_characters(pipeline: AlchemistPipeline) -> None:
    """Guards against offsets of special tokens or padding that would bind a picture to nothing."""
    encoder = T5TextEncoder(pipeline.text_encoder, pipeline.tokenizer, 12)
    texts = ["A dog jumps", "A dog"]
    encoding = encoder(texts)
    assert encoding.tokens.shape == (2, 4, 16)
    assert encoding.mask.tolist() == [[True] * 4, [True, True, True, False]]
    assert [texts[0][start:end] for start, end in encoding.offsets[0]] == ["A", "dog", "jumps", ""]
    assert encoding.offsets[1][2:] == [(0, 0), (0, 0)]


def test_padding_changes_nothing(pipeline: AlchemistPipeline) -> None:
    """Guards against attention to padding: a text must mean the same beside a longer one."""
    encoder = T5TextEncoder(pipeline.text_encoder, pipeline.tokenizer, 12)
    alone, together = encoder(["A dog"]), encoder(["A dog", "A dog jumps on the beach"])
    torch.testing.assert_close(together.tokens[0, :3], alone.tokens[0])


def test_cut_texts_are_said(pipeline: AlchemistPipeline) -> None:
    encoder = T5TextEncoder(pipeline.text_encoder, pipeline.tokenizer, 3)
    with pytest.warns(UserWarning, match="reads 3 tokens; cut: 'A dog jumps'"):
        assert encoder(["A dog jumps"]).tokens.shape[1] == 3


def test_padding_as_wan_does(pipeline: AlchemistPipeline) -> None:
    """Guards against Wan's texts without their zeros, which it attends to: trimmed to their true length, padded after
    the encoder, not before, and all of them visible."""
    torch.manual_seed(0)
    size = {"vocab_size": 32, "d_model": 16, "d_kv": 8, "num_heads": 2, "num_layers": 1, "d_ff": 16}
    model = UMT5EncoderModel(UMT5Config(**size)).eval()
    encoding = T5TextEncoder(model, pipeline.tokenizer, 12, pad_to_max=True)(["A dog jumps", ""])
    assert encoding.tokens.shape == (2, 12, 16) and encoding.mask.all()
    alone = T5TextEncoder(model, pipeline.tokenizer, 12)(["A dog jumps"]).tokens[0]
    torch.testing.assert_close(encoding.tokens[0, :4], alone)
    assert not encoding.tokens[0, 4:].any() and encoding.tokens[1, 0].any() and not encoding.tokens[1, 1:].any()
    assert [len(row) for row in encoding.offsets] == [12, 12] and encoding.offsets[1][1:] == [(0, 0)] * 11
