"""Folders, shards and LoRA files as diffusers' users know them, and one clear line where a file does not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from video_alchemist.model.transformer import AlchemistTransformer
from video_alchemist.records import Reference
from video_alchemist.sampling.pipeline import AlchemistPipeline


def loaded(folder: Path) -> AlchemistPipeline:
    pipeline = AlchemistPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def latents(pipeline: DiffusionPipeline, pictures: dict[str, Path]) -> torch.Tensor:
    return pipeline("A dog", [Reference("dog", pictures["dog"])], output_type="latent").frames[0]


@pytest.fixture(scope="module")
def sharded(pipeline: AlchemistPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded") / "model"
    pipeline.save_pretrained(folder, max_shard_size="60KB")
    return folder


def edited(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_sharded_round_trip(pipeline: AlchemistPipeline, sharded: Path, pictures: dict[str, Path]) -> None:
    """Guards against a save that is no longer safetensors in shards with an index."""
    assert len(list((sharded / "transformer").glob("*-of-*.safetensors"))) > 1
    assert not list(sharded.rglob("*.bin"))
    torch.testing.assert_close(latents(loaded(sharded), pictures), latents(pipeline, pictures), atol=1e-5, rtol=1e-4)


def test_diffusers_own_way_in(pipeline: AlchemistPipeline, pipeline_folder: Path, pictures: dict[str, Path]) -> None:
    """A folder of ours through DiffusionPipeline: it holds a pipeline.py that names our class."""
    folder = str(pipeline_folder)
    theirs = DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
    theirs.set_progress_bar_config(disable=True)
    assert isinstance(theirs, AlchemistPipeline)
    torch.testing.assert_close(latents(theirs, pictures), latents(pipeline, pictures), atol=1e-5, rtol=1e-4)


def add_lora(transformer: AlchemistTransformer) -> dict[str, torch.Tensor]:
    transformer.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["self_attn.qkv", "ffn.up"]))
    torch.manual_seed(1)
    for name, parameter in transformer.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return get_peft_model_state_dict(transformer)


def test_lora_round_trip(pipeline_folder: Path, pictures: dict[str, Path], tmp_path: Path) -> None:
    """Guards against LoRA files whose names do not lead back to the layers they were trained on."""
    trained = loaded(pipeline_folder)
    plain = latents(trained, pictures)
    layers = add_lora(trained.transformer)
    expected = latents(trained, pictures)
    assert not torch.allclose(expected, plain, atol=1e-3)
    folder = tmp_path / "lora"
    AlchemistPipeline.save_lora_weights(folder, transformer_lora_layers=layers)
    assert [path.name for path in folder.iterdir()] == ["pytorch_lora_weights.safetensors"]

    other = loaded(pipeline_folder)
    other.load_lora_weights(folder, adapter_name="dogs")
    torch.testing.assert_close(latents(other, pictures), expected, atol=1e-6, rtol=1e-5)
    other.fuse_lora()
    torch.testing.assert_close(latents(other, pictures), expected, atol=1e-4, rtol=1e-4)
    other.unfuse_lora()
    other.unload_lora_weights()
    torch.testing.assert_close(latents(other, pictures), plain, atol=1e-5, rtol=1e-5)


def test_lora_of_another_model(pipeline_folder: Path, tmp_path: Path) -> None:
    """Guards against forty lines about sizes that do not match, or layers that are passed over in silence."""
    wide = AlchemistTransformer(in_channels=4, hidden_size=48, depth=2, num_heads=2, text_dim=16, image_dim=24)
    AlchemistPipeline.save_lora_weights(tmp_path / "wide", transformer_lora_layers=add_lora(wide))
    with pytest.raises(ValueError, match="the LoRA is for a transformer of another width: .* has 48, expected 32"):
        loaded(pipeline_folder).load_lora_weights(tmp_path / "wide")
    save_file({"transformer.blocks.0.attn1.to_q.lora_A.weight": torch.ones(2, 32)}, tmp_path / "wan.safetensors")
    with pytest.raises(ValueError, match="the LoRA is for 'blocks.0.attn1.to_q', which this transformer does not have"):
        loaded(pipeline_folder).load_lora_weights(tmp_path, weight_name="wan.safetensors")


def test_missing_shard(sharded: Path, tmp_path: Path) -> None:
    """Guards against a download that broke off and still loads, with random weights in the holes."""
    shutil.copytree(sharded, tmp_path / "model")
    missing = sorted((tmp_path / "model" / "transformer").glob("*-of-*.safetensors"))[1]
    missing.unlink()
    with pytest.raises(ValueError, match=rf"transformer' lacks 1 of \d+ shards, e.g. '{missing.name}'"):
        AlchemistPipeline.from_pretrained(tmp_path / "model")


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 123\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("transformer/*.safetensors", None, "is cut off or no safetensors file: .*; download it again"),
        ("autoencoder/*.safetensors", b"", r"\(0 bytes\) is cut off or no safetensors file"),
        ("text_encoder/*.safetensors", POINTER.encode(), "is a pointer of git-lfs, not the file itself; fetch it by"),
        ("tokenizer/tokenizer.json", POINTER.encode(), "tokenizer.json' is a pointer of git-lfs"),
        ("image_encoder/config.json", b'{"a": ', "config.json' is cut off or no JSON: Expecting value"),
        ("model_index.json", b"[]", "holds list; expected a JSON object"),
    ],
)
def test_files_that_are_not_whole(
    name: str, content: bytes | None, message: str, pipeline_folder: Path, tmp_path: Path
) -> None:
    """Guards against the libraries' own errors, which name no file, for downloads that broke off."""
    shutil.copytree(pipeline_folder, tmp_path / "model")
    (path,) = (tmp_path / "model").glob(name)
    path.write_bytes(path.read_bytes()[:-1] if content is None else content)
    with pytest.raises(ValueError, match=f"{path.name}'.*{message}" if "'" not in message else message):
        AlchemistPipeline.from_pretrained(tmp_path / "model")


def test_checkpoints_of_other_versions(pipeline_folder: Path, tmp_path: Path) -> None:
    """Guards against options and weights that diffusers ignores with a warning."""
    model = tmp_path / "model"
    shutil.copytree(pipeline_folder, model)
    weights = model / "transformer" / "diffusion_pytorch_model.safetensors"
    config = model / "transformer" / "config.json"
    original = config.read_text()
    edited(config, cross_attention="both")
    with pytest.raises(ValueError, match="has 'cross_attention', which this version of video-alchemist does not know"):
        AlchemistPipeline.from_pretrained(model)
    config.write_text(original)
    tensors = load_file(weights)
    tensors["blocks.0.attn.qkv.weight"] = tensors.pop("blocks.0.self_attn.qkv.weight")
    save_file(tensors, weights)
    with pytest.raises(ValueError, match="version: 2 names or shapes differ; first 'blocks.0.attn.qkv.weight'"):
        AlchemistPipeline.from_pretrained(model)
    edited(model / "model_index.json", num_frame=3)
    with pytest.raises(ValueError, match="has 'num_frame', which this version .* nearest: 'num_frames'"):
        AlchemistPipeline.from_pretrained(model)
    edited(model / "model_index.json", _class_name="WanPipeline")
    with pytest.raises(ValueError, match="is of class WanPipeline; expected AlchemistPipeline. Stage II begins"):
        AlchemistPipeline.from_pretrained(model)
