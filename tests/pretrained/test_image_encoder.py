"""The image encoder's role, played by DINOv2's and CLIP's classes with random weights."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, Dinov2Config, Dinov2Model

from video_alchemist.pretrained.image_encoder import ViTImageEncoder

SIZES = {"image_size": 16, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)


@torch.no_grad()
def test_dinov2_last_block() -> None:
    """Guards against the class token among the patches, a forgotten norm, and colours on another scale."""
    model = Dinov2Model(Dinov2Config(**SIZES)).eval()
    images = torch.rand(2, 3, 16, 16)
    pixels = (images - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    expected = model(pixels).last_hidden_state[:, 1:]
    for block in (None, 3):
        tokens = ViTImageEncoder(model, 16, MEAN, STD, block)(images)
        assert tokens.shape == (2, 16, 16)
        torch.testing.assert_close(tokens, expected)


@torch.no_grad()
def test_clip_selective_block() -> None:
    """Guards against an index off by one ("Selective block 23" of 24): later blocks must not matter."""
    model = CLIPVisionModel(CLIPVisionConfig(**SIZES, intermediate_size=32)).eval()
    images = torch.rand(1, 3, 16, 16)
    encoder = ViTImageEncoder(model, 16, MEAN, STD, block=2)
    before = encoder(images)
    layers = next(module for module in model.modules() if isinstance(module, torch.nn.ModuleList))
    for parameter in layers[2].parameters():
        parameter.add_(1.0)
    torch.testing.assert_close(encoder(images), before)
    for parameter in layers[1].parameters():
        parameter.add_(1.0)
    assert not torch.allclose(encoder(images), before)
    assert before.shape == (1, 16, 16)


def test_errors_name_the_nearest() -> None:
    model = Dinov2Model(Dinov2Config(**SIZES))
    with pytest.raises(ValueError, match="image encoder block 4; expected 1 to 3, nearest: 3"):
        ViTImageEncoder(model, 16, MEAN, STD, block=4)
    with pytest.raises(ValueError, match="reference size 18 is not a multiple of the patch's 4; nearest: 16"):
        ViTImageEncoder(model, 18, MEAN, STD)
