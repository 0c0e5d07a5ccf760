"""The text encoder's role, played by T5's class with random weights."""

from __future__ import annotations

import pytest
import torch

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
