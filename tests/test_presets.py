"""The paper preset says what the paper's tables say."""

from pathlib import Path

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from video_alchemist.dataset.buckets import bucket_tokens
from video_alchemist.model.flops import parameter_counts
from video_alchemist.model.transformer import AlchemistTransformer
from video_alchemist.presets import CLIP, DINOV2, PRESETS, Preset, _image_encoder, paper, wan_1_3b, wan_14b


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
    """Per 16 GPUs in the table, per GPU here."""
    buckets = {bucket.name: bucket for bucket in paper().buckets}
    assert len(buckets) == 18
    assert sum(bucket.weight for bucket in buckets.values()) == pytest.approx(100)
    assert buckets["256x144x17"].batch_size * 16 == 1216 and buckets["512x288x121"].batch_size * 16 == 48


def test_inference_settings():
    """App. B.3."""
    assert (paper().text_scale, paper().image_scale) == (8.0, 3.0)
    assert paper().num_steps == {(256, 144): 256, (512, 288): 128, (1024, 576): 64}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_whole(name: str):
    """Guards against presets that name themselves otherwise, or whose transformer does not build."""
    preset = PRESETS[name]()
    assert preset.name == name.removesuffix("-base") and preset.buckets and preset.num_steps
    with torch.device("meta"):
        transformer = AlchemistTransformer(**preset.transformer)
    assert transformer.config["image_dim"] == preset.image_encoder.channels


@pytest.mark.parametrize(("preset", "parameters"), [(wan_1_3b(), 1_418_996_800), (wan_14b(), 14_288_491_584)])
def test_wan_sizes(preset: Preset, parameters: int):
    """Guards against presets of other sizes than the open weights; the numbers are those of diffusers' classes."""
    with torch.device("meta"):
        transformer = AlchemistTransformer(**preset.transformer, personalization=False)
    assert sum(parameter.numel() for parameter in transformer.parameters()) == parameters


def test_wan_trains_at_its_own_rate():
    """16 frames a second; one clip of 81 frames at 832x480, 32,760 tokens, is the largest micro-batch."""
    for preset in (wan_1_3b(), wan_14b()):
        assert preset.fps == 16.0 and preset.initial is not None
        assert [stage.name for stage in preset.training.stages] == ["II-new", "II-all"]
        assert max(bucket.batch_size * bucket_tokens(bucket) for bucket in preset.buckets) == 32_760


def test_an_image_encoder_that_is_cut_off(tmp_path: Path) -> None:
    """Guards against safetensors' own error, which names no file, for a download that broke off."""
    Dinov2Model(Dinov2Config(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)).save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"model.safetensors' \(.* bytes\) is cut off"):
        _image_encoder(str(tmp_path), torch.float32)
