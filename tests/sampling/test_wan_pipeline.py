"""Wan 2.1 in our pipeline against diffusers' own: the same weights, the same video."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanPipeline

from video_alchemist.model.transformer import add_personalization
from video_alchemist.presets import Preset, build_pipeline, wan_1_3b
from video_alchemist.records import Reference
from video_alchemist.sampling.pipeline import AlchemistPipeline
from video_alchemist.sampling.request import Request


def request(**settings: Any) -> Request:
    return Request("A dog", **settings)


@pytest.fixture(scope="module")
def ours(wan_preset: Preset) -> AlchemistPipeline:
    pipeline = build_pipeline(wan_preset)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_latents_equal_diffusers(wan: WanPipeline, ours: AlchemistPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against another schedule, guidance, padding of texts, or rounding than Wan's, over 20 steps.

    Sigmas are given: left alone, the scheduler shifts twice. Its scale 5 counts from the null branch, ours, 4, from
    the full one."""
    settings = ours.settings(request(num_steps=20))
    noise = ours._noise(3, settings)
    sigmas = np.linspace(1, 0, 21)[:-1]
    monkeypatch.setattr(wan.scheduler, "set_timesteps", partial(wan.scheduler.set_timesteps, sigmas=sigmas))
    theirs = wan(
        "A dog jumps on the beach",
        "A cat",
        height=32,
        width=32,
        num_frames=5,
        num_inference_steps=20,
        guidance_scale=5.0,
        latents=noise[None],
        output_type="latent",
    ).frames
    assert settings.time_shift == 3.0
    found = ours(
        "A dog jumps on the beach",
        negative_prompt="A cat",
        num_steps=20,
        text_scale=4.0,
        seed=3,
        output_type="latent",
    ).frames
    torch.testing.assert_close(found[0], theirs[0], atol=1e-4, rtol=1e-4)
    plain = ours("A dog jumps on the beach", num_steps=20, text_scale=4.0, seed=3, output_type="latent").frames
    assert not torch.allclose(plain[0], found[0], atol=1e-2)  # the negative prompt counts


def test_personalization_begins_as_wan(ours: AlchemistPipeline, pictures: dict[str, Path]) -> None:
    """Guards against new layers that change what the open weights do before they have learned anything."""
    dog = [Reference("dog", pictures["dog"])]
    with pytest.raises(ValueError, match="references are given to a model of stage I"):
        ours("A dog", dog)
    without = ours("A dog", output_type="latent").frames[0]
    personal = AlchemistPipeline(
        **{**ours.components, "transformer": add_personalization(ours.transformer)},
        **{name: value for name, value in ours.config.items() if name not in ours.components and name[0] != "_"},
    )
    personal.set_progress_bar_config(disable=True)
    torch.testing.assert_close(personal("A dog", dog, output_type="latent").frames[0], without, atol=1e-5, rtol=1e-5)
    assert personal("A dog", dog).frames[0].shape == (5, 32, 32, 3)


def test_round_trip(ours: AlchemistPipeline, tmp_path: Path) -> None:
    """Guards against Wan's settings or classes lost in a folder of ours; its presets continue from such a folder."""
    ours.save_pretrained(tmp_path / "model")
    loaded = AlchemistPipeline.from_pretrained(tmp_path / "model")
    loaded.set_progress_bar_config(disable=True)
    assert (loaded.config["pad_text"], loaded.config["negative_prompt"]) == (True, "")
    assert loaded.config["time_shift"] == {"832x480": 3.0, "1280x720": 5.0}
    found, expected = (one("A dog", output_type="latent").frames[0] for one in (loaded, ours))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)
    assert isinstance(build_pipeline(wan_1_3b(), str(tmp_path / "model")), AlchemistPipeline)


@pytest.mark.parametrize("own", [False, True])
def test_encoders_may_be_half(own: bool, ours: AlchemistPipeline, wan_preset: Preset, tmp_path: Path) -> None:
    """Guards against ranks that read the text encoder in float32 to halve it later: 21 GiB each of Wan's."""
    if own:
        ours.save_pretrained(tmp_path)
    pipeline = build_pipeline(wan_preset, str(tmp_path) if own else None, encoder_dtype=torch.bfloat16)
    assert {pipeline.text_encoder.dtype, pipeline.image_encoder.dtype} == {torch.bfloat16}
    assert {pipeline.transformer.dtype, pipeline.autoencoder.dtype} == {torch.float32}


def test_settings(ours: AlchemistPipeline) -> None:
    """480p and 720p shift by 3 and 5; frames are 4k + 1."""
    assert ours.settings(request(size=(1280, 720))).time_shift == 5.0
    with pytest.raises(ValueError, match=r"num_frames is 80; expected 4 \* k \+ 1, nearest: 81"):
        ours.settings(request(num_frames=80))


def test_half_precision(wan_preset: Preset, pictures: dict[str, Path]) -> None:
    """Guards against the parts that Wan keeps in float32 meeting bfloat16 in one operation."""
    pipeline = build_pipeline(wan_preset, dtype=torch.bfloat16)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.register_modules(transformer=add_personalization(pipeline.transformer))
    types = {one.dtype for one in pipeline.transformer.parameters()}
    assert types == {torch.float32, torch.bfloat16} and pipeline.transformer.dtype == torch.bfloat16
    assert pipeline("A dog", [Reference("dog", pictures["dog"])]).frames[0].shape == (5, 32, 32, 3)


def test_wrong_folders(wan_preset: Preset, wan_folder: Path, tmp_path: Path) -> None:
    """Guards against tracebacks of three libraries where one line would do."""
    shutil.copytree(wan_folder, tmp_path / "i2v")
    config = tmp_path / "i2v" / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"in_channels": 36, "image_dim": 1280}))
    with pytest.raises(ValueError, match="36"):
        build_pipeline(wan_preset, str(tmp_path / "i2v"))
    vae = tmp_path / "i2v" / "vae" / "diffusion_pytorch_model.safetensors"
    vae.write_bytes(vae.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"vae/diffusion_pytorch_model.safetensors' \(1,000 bytes\) is cut off"):
        build_pipeline(wan_preset, str(tmp_path / "i2v"))
    with pytest.raises(ValueError, match="nowhere cannot be loaded; expected a folder, or a hub id"):
        build_pipeline(wan_preset, str(tmp_path / "nowhere"))
    encoder = replace(wan_preset.image_encoder, model=str(tmp_path / "no-encoder"))
    with pytest.raises(ValueError, match="no-encoder cannot be loaded"):
        build_pipeline(replace(wan_preset, image_encoder=encoder))
