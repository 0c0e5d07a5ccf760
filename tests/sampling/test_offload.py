"""What diffusers has for little memory, on our pipeline: the same video, or one within a stated distance.

Moving networks to a GPU cannot be seen here. What can: with these settings weights are elsewhere (on the meta device,
on disk) until a network's own forward is called, and code that reaches around it gets nothing, or noise.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload
from diffusers import AutoencoderKLLTXVideo, PipelineQuantizationConfig, TorchAoConfig

from video_alchemist.dataset.picture import compose, read_picture
from video_alchemist.pretrained.roles import autoencoder_role
from video_alchemist.records import Reference
from video_alchemist.sampling.pipeline import SHIPPED, AlchemistPipeline

Frames = Callable[[AlchemistPipeline], torch.Tensor]
CPU = torch.device("cpu")


@pytest.fixture
def fresh(pipeline_folder: Path) -> AlchemistPipeline:
    """A pipeline that a test may change."""
    return loaded(pipeline_folder)


def loaded(folder: Path) -> AlchemistPipeline:
    pipeline = AlchemistPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def frames(pictures: dict[str, Path]) -> Frames:
    """Frames (F, 3, H, W) in [0, 1] of a video with two references."""
    references = [Reference("dog", pictures["dog"]), Reference("robot", pictures["robot"])]
    return lambda pipeline: pipeline("A dog and a robot", references, output_type="pt").frames[0]


def test_model_offload(pipeline: AlchemistPipeline, fresh: AlchemistPipeline, frames: Frames) -> None:
    """Guards against a network that the offloading does not know, and one that is not moved back in for a second
    video."""
    fresh.enable_model_cpu_offload(device="cpu")
    assert fresh.model_cpu_offload_seq is not None
    networks = {name for name, network in fresh.components.items() if isinstance(network, torch.nn.Module)}
    assert set(fresh.model_cpu_offload_seq.split("->")) == networks
    for _ in range(2):
        torch.testing.assert_close(frames(fresh), frames(pipeline), atol=1e-5, rtol=1e-4)


def test_sequential_offload(pipeline: AlchemistPipeline, fresh: AlchemistPipeline, frames: Frames) -> None:
    """Guards against weights read outside of their layer's forward: they are on the meta device there."""
    # What enable_sequential_cpu_offload does, which itself asks for "cpu:0", and accelerate stumbles over the number.
    for network in fresh.components.values():
        if isinstance(network, torch.nn.Module):
            cpu_offload(network, CPU, offload_buffers=len(network._parameters) > 0)
    assert fresh.transformer.patch_embedding.weight.is_meta
    for _ in range(2):
        torch.testing.assert_close(frames(fresh), frames(pipeline), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("level", ["block_level", "leaf_level"])
def test_group_offload(
    level: str, pipeline: AlchemistPipeline, fresh: AlchemistPipeline, frames: Frames, tmp_path: Path
) -> None:
    """Guards against weights read while their group is away: offloaded to disk, what is left of them is noise."""
    # Layer by layer on disk T5's tied embedding is lost (saved twice, the second time as noise); in memory it is not.
    kept = ["text_encoder"] if level == "leaf_level" else None
    fresh.enable_group_offload(
        CPU,
        offload_type=level,
        num_blocks_per_group=1,
        offload_to_disk_path=str(tmp_path / level),
        exclude_modules=kept,
    )
    for _ in range(2):
        torch.testing.assert_close(frames(fresh), frames(pipeline), atol=1e-5, rtol=1e-4)


def test_layerwise_casting(pipeline: AlchemistPipeline, fresh: AlchemistPipeline, frames: Frames) -> None:
    """fp8 storage is exactly a model whose weights were rounded to fp8: embeddings, norms and the last layer stay."""
    before = {name: one.detach().clone() for name, one in fresh.transformer.named_parameters()}
    fresh.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    stored = {name for name, one in fresh.transformer.named_parameters() if one.dtype == torch.float8_e4m3fn}
    assert {name.split(".")[0] for name in stored} == {"blocks", "binding"}
    size = sum(one.nbytes for one in fresh.transformer.parameters())
    assert size < 0.5 * sum(one.nbytes for one in before.values())
    found = frames(fresh)
    rounded = pipeline.transformer.state_dict() | {n: before[n].to(torch.float8_e4m3fn).float() for n in stored}
    kept = {name: value.clone() for name, value in pipeline.transformer.state_dict().items()}
    pipeline.transformer.load_state_dict(rounded)
    try:
        torch.testing.assert_close(found, frames(pipeline), atol=1e-4, rtol=1e-3)
    finally:
        pipeline.transformer.load_state_dict(kept)


def test_quantisation(pipeline: AlchemistPipeline, pipeline_folder: Path, frames: Frames) -> None:
    """int8 weights by torchao through diffusers' configuration: a grey level in 255 of difference on average."""
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    config = PipelineQuantizationConfig(
        quant_mapping={"transformer": TorchAoConfig(quantization.Int8WeightOnlyConfig())}
    )
    quantised = AlchemistPipeline.from_pretrained(pipeline_folder, quantization_config=config)
    quantised.set_progress_bar_config(disable=True)
    weight = quantised.transformer.blocks[0].self_attn.qkv.weight
    assert "Int8" in type(weight).__name__
    assert float((frames(quantised) - frames(pipeline)).abs().mean()) < 1 / 255


@torch.no_grad()
def test_slicing_and_tiling() -> None:
    """On the shipped autoencoder and a picture: slices of a batch are exact, four tiles are within 30 dB of one."""
    network = AutoencoderKLLTXVideo.from_pretrained(SHIPPED["emojiworld"] / "autoencoder", torch_dtype=torch.float32)
    autoencoder = autoencoder_role(network.eval())
    beach = read_picture(Reference("beach", Path(__file__).parents[2] / "docs" / "demo" / "beach.png"))
    video = compose(beach, 64)[None, :, None] * 2 - 1  # (1, 3, 1, 64, 64)
    z = autoencoder.encode(torch.cat([video, video.flip(4)]))
    expected = autoencoder.decode(z)
    network.enable_slicing()
    torch.testing.assert_close(autoencoder.decode(z), expected, atol=1e-5, rtol=1e-5)
    network.enable_tiling(48, 48, tile_sample_stride_height=32, tile_sample_stride_width=32)
    tiled = autoencoder.decode(z)
    error = float((tiled - expected).square().mean())
    assert tiled.shape == expected.shape and 0 < error < 4 / 1000  # colours are in [-1, 1]
