"""diffusers' own Wan pipeline with tiny random weights, made once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

from video_alchemist.presets import ImageEncoderPreset, Preset, wan_1_3b
from video_alchemist.sampling.pipeline import AlchemistPipeline


@pytest.fixture(scope="session")
def wan(pipeline: AlchemistPipeline) -> WanPipeline:
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        text_dim=16,
        freq_dim=32,
        ffn_dim=48,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )
    for parameter in transformer.parameters():  # nothing is left at zero or one, or mistakes would not matter
        torch.nn.init.normal_(parameter, std=0.2)
    sizes = {"vocab_size": 32, "d_model": 16, "d_kv": 8, "num_heads": 2, "num_layers": 1, "d_ff": 16}
    wan = WanPipeline(
        tokenizer=pipeline.tokenizer,
        text_encoder=UMT5EncoderModel(UMT5Config(**sizes)).eval(),
        vae=AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        transformer=transformer.eval(),
    )
    wan.set_progress_bar_config(disable=True)
    return wan


@pytest.fixture(scope="session")
def wan_folder(wan: WanPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wan") / "tiny"
    wan.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def wan_preset(pipeline: AlchemistPipeline, wan_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Preset:
    """The preset of the 1.3B with the tiny folder in place of the hub's, and tiny settings."""
    folder = tmp_path_factory.mktemp("dino")
    pipeline.image_encoder.save_pretrained(folder)
    preset = wan_1_3b(ImageEncoderPreset(str(folder), block=2, tokens=4, channels=24, size=16))
    return replace(preset, initial=str(wan_folder), size=(32, 32), num_frames=5, num_steps={(32, 32): 3})
