"""The paper preset says what the paper's tables say."""

import pytest
import torch

from video_alchemist.model.transformer import AlchemistTransformer, parameter_counts
from video_alchemist.presets import CLIP, DINOV2, emojiworld, paper


def test_table_5_backbone():
    transformer = paper().transformer
    expected = {
        "in_channels": 16, "patch_size": (1, 2, 2), "hidden_size": 4096, "depth": 32, "num_heads": 32,
        "text_dim": 1024, "image_dim": 1024, "max_images": 6, "self_conditioning": True,
    }  # fmt: skip
    assert {name: transformer[name] for name in expected} == expected
    assert paper().training.self_conditioning_probability == 0.9


def test_table_5_image_encoders():
    assert (DINOV2.block, CLIP.block) == (24, 23)
    for encoder in (DINOV2, CLIP):
        assert (encoder.tokens, encoder.channels) == (256, 1024)
        assert (encoder.size // 14) ** 2 == encoder.tokens


def test_paper_builds_on_the_meta_device():
    """10 billion parameters without a byte: the size of the system, from the code that trains it."""
    with torch.device("meta"):
        counts = parameter_counts(AlchemistTransformer(**paper().transformer))
    assert counts["total"] == pytest.approx(12.4e9, rel=0.01)
    assert sum(count for part, count in counts.items() if part != "total") == counts["total"]


def test_table_6_optimizer_and_stages():
    training = paper().training
    assert [stage.steps for stage in training.stages] == [60_000, 10_000, 30_000]
    assert [stage.personalization for stage in training.stages] == [False, True, True]
    assert training.stages[1].warmup == 1000 and training.stages[1].trainable == "personalization"
    optimizer = training.optimizer
    assert (optimizer.learning_rate, optimizer.betas) == (1e-4, (0.9, 0.99))
    assert (optimizer.weight_decay, optimizer.gradient_clipping, training.dropout) == (0.01, 0.05, 0.1)
    assert (training.text_drop, training.image_drop) == (0.1, 0.1)


def test_table_6_buckets():
    buckets = paper().buckets
    assert len(buckets) == 18
    assert sum(weight for _, weight in buckets.values()) == pytest.approx(100)
    assert buckets[(256, 144), 17] == (1216, 10.0) and buckets[(512, 288), 121][0] == 48
    assert buckets[(1024, 576), 49][0] == 32 and buckets[(256, 144), 289][0] == 80
    assert {round(weight, 1) for _, weight in buckets.values()} == {10.0, 3.3, 5.8}


def test_inference_settings():
    """App. B.3."""
    assert (paper().text_scale, paper().image_scale) == (8.0, 3.0)
    assert paper().num_steps == {(256, 144): 256, (512, 288): 128, (1024, 576): 64}


def test_emojiworld_builds():
    AlchemistTransformer(**emojiworld().transformer)
