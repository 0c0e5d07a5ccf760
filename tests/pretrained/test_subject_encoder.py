"""DINO's role, played by its class with random weights, against the benchmark's preprocessing written out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

from video_alchemist.pretrained.subject_encoder import ViTSubjectEncoder


@torch.no_grad()
def test_cut_outs_as_the_benchmark_prepares_them(tmp_path: Path) -> None:
    """Guards against a stretched or off-centre cut-out, a border that is not white, patches taken for the class token,
    and answers that depend on the batch."""
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=24, patch_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
    )
    network = ViTModel(config, add_pooling_layer=False).eval()
    network.save_pretrained(tmp_path)
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, shape, np.uint8) for shape in ((30, 13, 3), (9, 40, 3), (1, 5, 3), (24, 24, 3))]
    expected = []
    for picture, corner in zip(pictures, ((8, 0), (0, 15), (0, 2), (0, 0)), strict=True):
        side = max(picture.shape)
        padded = Image.new("RGB", (side, side), (255, 255, 255))
        padded.paste(Image.fromarray(picture), corner)
        small = np.asarray(padded.resize((24, 24), Image.Resampling.BICUBIC))
        pixels = (small / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        tokens = network(torch.from_numpy(pixels).float().permute(2, 0, 1)[None]).last_hidden_state
        expected.append(tokens[0, 0].numpy())
    for batch in (1, 3, 8):
        encoder = ViTSubjectEncoder.from_pretrained(str(tmp_path))
        encoder.batch = batch
        np.testing.assert_allclose(encoder(pictures), expected, atol=1e-5)
    assert encoder([]).shape == (0, 16)


def test_another_kind_of_network_is_refused(tmp_path: Path) -> None:
    """Guards against random numbers where a folder is another network's: `--set subject_encoder=facebook/dinov2-base`
    is soon written."""
    narrow = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_ratio": 1}
    Dinov2Model(Dinov2Config(image_size=28, patch_size=14, **narrow)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds no ViTModel: it lacks .* of its weights"):
        ViTSubjectEncoder.from_pretrained(str(tmp_path))
