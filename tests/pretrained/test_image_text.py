"""CLIP's role, played by its class with random weights, against the benchmark's preprocessing written out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from video_alchemist.pretrained.image_text import ClipImageTextEncoder, square

WORDS = "<pad> <start> <end> <unk> a dog on the beach".split()
NETWORK = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: 10 + i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 11), ("<end>", 12)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<start>", eos_token="<end>", unk_token="<unk>"
    )


def model(end: int = 12) -> CLIPModel:
    torch.manual_seed(0)
    text = {**NETWORK, "vocab_size": 20, "max_position_embeddings": 6, "bos_token_id": 11, "eos_token_id": end}
    vision = {**NETWORK, "image_size": 24, "patch_size": 8}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()


def frames() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, shape, np.uint8) for shape in ((30, 41, 3), (47, 40, 3), (32, 32, 3))]


@torch.no_grad()
def test_images_as_the_benchmark_prepares_them(tmp_path: Path) -> None:
    """Guards against another crop, filter, order or normalisation, and against answers that depend on the batch or do
    not survive a folder."""
    network = model()
    network.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    for crop, boxes in {
        "short": [(6, 0, 36, 30), (0, 4, 40, 44), (0, 0, 32, 32)],  # 11 spare: 5.5 is rounded to 6; 7 spare: 3.5 to 4
        "long": [(0, -5, 41, 36), (-3, 0, 44, 47), (0, 0, 32, 32)],  # beyond the picture, Pillow crops black
    }.items():
        expected = []
        for frame, box in zip(frames(), boxes, strict=True):
            small = Image.fromarray(frame).crop(box).resize((24, 24), Image.Resampling.BICUBIC)
            pixels = (np.asarray(small) / 255 - mean) / std
            tensor = torch.from_numpy(pixels).float().permute(2, 0, 1)[None]
            expected.append(network.get_image_features(tensor).pooler_output[0].numpy())
        for batch in (1, 2, 8):
            encoder = ClipImageTextEncoder.from_pretrained(str(tmp_path), crop=crop)  # type: ignore[arg-type]
            encoder.batch = batch
            np.testing.assert_allclose(encoder.images(frames()), expected, atol=1e-5)
    assert encoder.images([]).shape == encoder.texts([]).shape == (0, 8)


def test_long_crop_is_black_around() -> None:
    """Guards against a border that is white or on one side only."""
    assert square(np.full((2, 5, 3), 9, np.uint8), "long")[:, 0, 0].tolist() == [0, 9, 9, 0, 0]
    assert square(np.full((5, 2, 3), 9, np.uint8), "long")[0, :, 0].tolist() == [0, 9, 9, 0, 0]


@torch.no_grad()
def test_texts() -> None:
    """Guards against padding that changes a text, and a long caption that loses its end token, and so its meaning."""
    network = model()
    encoder = ClipImageTextEncoder(network, tokenizer(), batch=2)
    found = encoder.texts(["a dog", "a dog on the beach on the beach", "beach"])
    for row, tokens in zip(found, ([11, 14, 15, 12], [11, 14, 15, 16, 17, 12], [11, 18, 12]), strict=True):
        expected = network.get_text_features(torch.tensor([tokens])).pooler_output[0]
        np.testing.assert_allclose(row, expected.numpy(), atol=1e-5)


def test_errors() -> None:
    """Guards against a model and a tokenizer that do not fit: all captions would mean the same, without a word."""
    with pytest.raises(ValueError, match="ends texts by token 17, the tokenizer by 12"):
        ClipImageTextEncoder(model(end=17), tokenizer())
    with pytest.raises(ValueError, match="crop is 'middle'; expected 'short' or 'long'"):
        ClipImageTextEncoder(model(), tokenizer(), crop="middle")  # type: ignore[arg-type]
