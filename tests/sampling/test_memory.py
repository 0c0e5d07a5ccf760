"""Memory predicted without data against what the same work takes on real ones."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from video_alchemist.model.memory import MemoryMeter, dry, make, weight_bytes
from video_alchemist.model.transformer import AlchemistTransformer
from video_alchemist.pretrained.outline import build
from video_alchemist.pretrained.roles import autoencoder_role
from video_alchemist.sampling.memory import SETTINGS, Networks, PartMemory, peak, predict
from video_alchemist.sampling.pipeline import AlchemistPipeline

WAN = {
    "modulation": "shared_table", "qk_norm": "across_heads", "text_projection": True, "text_norm": True,
    "text_bias": True, "ffn_size": 96,
}  # fmt: skip
COGVIDEOX = {
    "_class_name": "AutoencoderKLCogVideoX", "block_out_channels": (4, 4, 8, 8), "layers_per_block": 1,
    "norm_num_groups": 2, "latent_channels": 4, "sample_height": 64, "sample_width": 64,
}  # fmt: skip
SMALL_WAN = {
    "_class_name": "AutoencoderKLWan", "base_dim": 4, "z_dim": 4, "num_res_blocks": 1, "latents_mean": [0.0] * 4,
    "latents_std": [1.0] * 4,
}  # fmt: skip


def outlined(autoencoder: dict[str, Any], **transformer: Any) -> Networks:
    sizes = {"in_channels": 4, "hidden_size": 48, "depth": 4, "num_heads": 4, "text_dim": 16, "image_dim": 24}
    text = {"model_type": "t5", "vocab_size": 32, "d_model": 16, "d_kv": 8, "num_heads": 2, "num_layers": 1, "d_ff": 16}
    images = {
        "model_type": "dinov2", "image_size": 16, "patch_size": 8, "hidden_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }  # fmt: skip
    parts = (partial(build, config) for config in (autoencoder, text, images))
    return Networks({**sizes, **transformer}, *parts, (96, 64), 5, reference_size=16, text_tokens=12)


def test_meter_counts_what_lives() -> None:
    """Guards against storages counted twice (views), never given back, or counted though they stood there before."""
    weight = torch.zeros(10)
    with MemoryMeter(weight) as meter:
        a = torch.zeros(256)
        b = a.view(16, 16).t()
        c = weight[:5] + 1
        assert meter.live == 4 * (256 + 5)
        del a, b
        assert (meter.live, meter.peak) == (4 * 5, 4 * (256 + 5))
        d = c.sum()
    assert meter.live == 4 * 6 and d.item() == 5


def test_dry_networks_take_no_memory() -> None:
    """Guards against a prediction that loads what it predicts: 25 GB of paper's weights."""
    config = {"hidden_size": 4096, "depth": 32, "num_heads": 32, "text_dim": 1024, "image_dim": 1024}
    with dry():
        network = make(partial(AlchemistTransformer, **config), torch.bfloat16)
    assert weight_bytes(network) > 20e9
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize(("autoencoder", "transformer"), [(COGVIDEOX, {}), (SMALL_WAN, WAN)])
def test_prediction_is_what_real_tensors_take(autoencoder: dict[str, Any], transformer: dict[str, Any]) -> None:
    """Guards against a doctor that is wrong by more than 15 %: what has no data must go the way of what has."""
    networks = outlined(autoencoder, **transformer)
    predicted = {part.name: part for part in predict(networks, dtype=torch.float32)}

    net = networks.autoencoder().eval()
    z = torch.randn(1, 4, 2, 8, 12)
    with MemoryMeter(net) as meter, torch.no_grad():
        video = autoencoder_role(net).decode(z)[0].float() / 2 + 0.5
        (video * 255).round().to(torch.uint8)
    assert meter.peak == pytest.approx(predicted["autoencoder"].work, rel=0.15)
    assert predicted["autoencoder"].weights == weight_bytes(net)


def test_pipeline_takes_what_is_predicted(pipeline: AlchemistPipeline) -> None:
    """Guards against a prediction of other work than the pipeline's: here it denoises for real."""
    config = pipeline.config
    networks = Networks(
        pipeline.transformer.config,
        partial(build, {**pipeline.autoencoder.config, "_class_name": "AutoencoderKLCogVideoX"}),
        partial(build, pipeline.text_encoder.config.to_dict()),
        partial(build, pipeline.image_encoder.config.to_dict()),
        (128, 64),
        5,
        config["reference_size"],
        text_tokens=config["max_text_length"],
    )
    parts = {part.name: part for part in predict(networks, images=0, dtype=torch.float32)}
    every = [pipeline.transformer, pipeline.text_encoder, pipeline.image_encoder, pipeline.autoencoder]
    with MemoryMeter(*every) as meter:
        pipeline("A dog", size=(128, 64), num_frames=5, num_steps=1, output_type="latent")
    assert meter.peak == pytest.approx(parts["transformer"].work, rel=0.15)


def test_settings_are_sums_over_parts() -> None:
    """Guards against a recommendation that forgets what stays on the GPU."""
    parts = [
        PartMemory("text encoder", weights=100, layer=10, work=1, least=1),
        PartMemory("transformer", weights=60, layer=4, work=30, least=10),
        PartMemory("autoencoder", weights=5, layer=1, work=40, least=8),
    ]
    peaks = {setting.name: peak(parts, setting) for setting in SETTINGS}
    assert peaks == {
        "everything on the GPU": 165 + 40,
        "tiled decoding": 165 + 30,
        "model offload": 101,
        "model offload, tiled": 101,
        "branches in turn": 101,
        "fp8 storage, lossy": 101,
        "4 bits, lossy": 101,
        "group offload": 21,
    }
    without_text = {setting.name: peak(parts[1:], setting) for setting in SETTINGS}
    assert without_text["model offload"] == 90
    assert without_text["branches in turn"] == 70
    assert without_text["fp8 storage, lossy"] == 30 + 10 + 4
