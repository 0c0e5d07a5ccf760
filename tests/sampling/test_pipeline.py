"""From prompt and references to frames and files, with the real classes, tiny."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import video_alchemist
from video_alchemist.records import Reference
from video_alchemist.sampling.pipeline import AlchemistPipeline
from video_alchemist.sampling.request import Request
from video_alchemist.video import read_video


def references(pictures: dict[str, Path], *names: str) -> tuple[Reference, ...]:
    return tuple(Reference(name, pictures[name]) for name in names)


def latents(pipeline: AlchemistPipeline, prompt: Any, pictures: Any = (), **settings: Any) -> list[torch.Tensor]:
    return pipeline(prompt, pictures, output_type="latent", **settings).frames


def test_output_types(pipeline: AlchemistPipeline, pictures: dict[str, Path]) -> None:
    """Guards against swapped axes and ranges: all output types show the same video."""
    dog = references(pictures, "dog")
    frames, pt, pil = (pipeline("A dog", dog, output_type=kind).frames[0] for kind in ("np", "pt", "pil"))
    assert frames.shape == (5, 16, 32, 3) and frames.dtype == np.uint8
    assert pt.shape == (5, 3, 16, 32)
    np.testing.assert_array_equal((pt.permute(0, 2, 3, 1) * 255).round().byte().numpy(), frames)
    np.testing.assert_array_equal(np.stack([np.asarray(picture) for picture in pil]), frames)
    with pytest.raises(ValueError, match="output_type 'gif'; expected one of np, pt, pil, latent"):
        pipeline("A dog", output_type="gif")


def test_samples_do_not_depend_on_their_batch(pipeline: AlchemistPipeline, pictures: dict[str, Path]) -> None:
    """Guards against noise drawn for the whole batch, and padding of texts and pictures that is attended to."""
    prompts = ["A dog", "A dog jumps beside a robot on the beach", "A cat"]
    given = [references(pictures, "dog"), references(pictures, "dog", "robot", "beach"), ()]
    together = latents(pipeline, prompts, given, seed=[3, 4, 5])
    for i in range(3):
        alone = latents(pipeline, prompts[i], given[i], seed=3 + i)[0]
        torch.testing.assert_close(together[i], alone, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(latents(pipeline, "A cat", seed=5)[0], latents(pipeline, "A cat", seed=6)[0], atol=0.1)


def test_order_of_references_does_not_matter(pipeline: AlchemistPipeline, pictures: dict[str, Path]) -> None:
    """Guards against an image index that says which subject the user named first."""
    prompt, one, other = "A dog and a robot", references(pictures, "dog", "robot"), references(pictures, "robot", "dog")
    torch.testing.assert_close(latents(pipeline, prompt, one)[0], latents(pipeline, prompt, other)[0], atol=0, rtol=0)
    exchanged = (replace(one[0], image=pictures["robot"]), replace(one[1], image=pictures["dog"]))
    assert not torch.allclose(latents(pipeline, prompt, one)[0], latents(pipeline, prompt, exchanged)[0], atol=1e-3)


@pytest.mark.parametrize("equation", [1, 2])
def test_cache_changes_nothing(pipeline: AlchemistPipeline, pictures: dict[str, Path], equation: int) -> None:
    """Guards against cached keys and values of other branches."""
    given = references(pictures, "dog", "robot")
    cached, computed = (
        latents(pipeline, "A dog and a robot", given, equation=equation, use_cache=use)[0] for use in (True, False)
    )
    torch.testing.assert_close(cached, computed, atol=1e-5, rtol=1e-5)


def test_settings_reach_the_sampler(pipeline: AlchemistPipeline, pictures: dict[str, Path]) -> None:
    """Guards against a setting that is accepted but not used."""
    dog = references(pictures, "dog")
    usual = latents(pipeline, "A dog", dog)[0]
    assert usual.shape == (4, 2, 2, 4)
    assert latents(pipeline, "A dog", dog, size=(16, 32), num_frames=9)[0].shape == (4, 3, 4, 2)
    for setting in ({"num_steps": 3}, {"text_scale": 9.0}, {"image_scale": 0.0}, {"equation": 1}, {"seed": 1}):
        assert not torch.allclose(latents(pipeline, "A dog", dog, **setting)[0], usual, atol=1e-4), setting


def test_intervals_are_the_models_unless_asked_for(pipeline_folder: Path, pictures: dict[str, Path]) -> None:
    """Guards against guidance to the last step by a model whose own configuration ends it before."""
    loaded = AlchemistPipeline.from_pretrained(pipeline_folder, image_interval=(0.0, 0.5))
    loaded.set_progress_bar_config(disable=True)
    assert loaded.settings(Request("A dog")).image_interval == (0.0, 0.5)
    assert loaded.settings(Request("A dog", image_interval=(0.0, 1.0))).image_interval == (0.0, 1.0)
    dog = references(pictures, "dog")
    usual, same, whole = (
        latents(loaded, "A dog", dog, **given)[0]
        for given in ({}, {"image_interval": (0.0, 0.5)}, {"image_interval": (0.0, 1.0)})
    )
    torch.testing.assert_close(usual, same, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(usual, whole, atol=1e-4)


@pytest.mark.parametrize("interval", [[0.9], [0.9, 0.0], 0.9])
def test_a_models_own_intervals_are_checked(pipeline_folder: Path, interval: Any) -> None:
    """Guards against an edited model_index.json that ends in "not enough values to unpack"."""
    loaded = AlchemistPipeline.from_pretrained(pipeline_folder, image_interval=interval)
    with pytest.raises(ValueError, match=re.escape(f"image_interval is {interval}; expected two shares of the steps")):
        loaded.settings(Request("A dog"))


def test_steps_and_shift_follow_the_size(pipeline: AlchemistPipeline) -> None:
    """App. B.3: fewer steps for larger videos, by a table; four times the pixels shift twice as far."""
    settings = pipeline.settings(Request("A dog"))
    assert (settings.num_steps, settings.time_shift) == (2, 1.0)
    larger = pipeline.settings(Request("A dog", size=(64, 32)))
    assert (larger.num_steps, larger.time_shift) == (2, 2.0)
    assert pipeline.settings(Request("A dog", size=(128, 48))).num_steps == 5


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request("A dog", size=(70, 50)), "size 70x50; expected multiples of 16x16, nearest: 64x48"),
        (Request("A dog", size=(0, 16)), "size 0x16; expected multiples of 16x16, nearest: 16x16"),
        (Request("A dog", num_frames=6), r"num_frames is 6; expected 4 \* k \+ 1, nearest: 5"),
        (Request("A dog", num_frames=0), r"num_frames is 0; expected 4 \* k \+ 1, nearest: 1"),
        (Request("A dog", num_steps=0), "num_steps is 0"),
        (Request("A dog", text_scale=float("inf")), "text_scale is inf"),
        (Request("A dog", image_scale=-1.0), "image_scale is -1.0"),
        (Request("A dog", equation=3), "equation is 3"),
        (Request("  "), "the prompt is '  '"),
        (Request("A dog", (Reference("cat", "cat.png"),)), "'cat' is not in the prompt 'A dog'"),
        (Request("A dog", (Reference("dog", "none.png"),)), "no such picture: 'none.png'"),
    ],
)
def test_errors_come_before_work(pipeline: AlchemistPipeline, request_: Request, message: str) -> None:
    """Guards against minutes of sampling before a typo in the last request is found."""
    with pytest.raises(ValueError, match=message):
        next(pipeline.generate_each([Request("A dog"), request_]))


def test_round_trip(pipeline: AlchemistPipeline, pipeline_folder: Path, pictures: dict[str, Path]) -> None:
    """Guards against settings or weights lost between save_pretrained and from_pretrained."""
    loaded = AlchemistPipeline.from_pretrained(pipeline_folder)
    loaded.set_progress_bar_config(disable=True)
    dog = references(pictures, "dog")
    for name in ("transformer", "autoencoder", "text_encoder", "image_encoder"):
        ours, theirs = getattr(pipeline, name).state_dict(), getattr(loaded, name).state_dict()
        torch.testing.assert_close(theirs, ours, atol=0, rtol=0)
    # Matrix products round by where in memory their factors lie, so the results of equal weights may differ a little.
    found, expected = (latents(one, "A dog", dog)[0] for one in (loaded, pipeline))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    np.testing.assert_array_equal(loaded("A dog", dog).frames[0], pipeline("A dog", dog).frames[0])
    for name in ("size", "num_frames", "fps", "num_steps", "text_scale", "base_size", "reference_size", "image_mean"):
        assert loaded.config[name] == pipeline.config[name], name
    assert {parameter.dtype for parameter in loaded.text_encoder.parameters()} == {torch.float32}


def test_half_precision(pipeline_folder: Path, pictures: dict[str, Path]) -> None:
    """Guards against networks of different types that meet in one operation."""
    loaded = AlchemistPipeline.from_pretrained(pipeline_folder, dtype=torch.bfloat16)
    loaded.set_progress_bar_config(disable=True)
    assert loaded("A dog", references(pictures, "dog")).frames[0].shape == (5, 16, 32, 3)


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="model 'emojiwrld'; expected 'emojiworld', a folder, or a hub id"):
        AlchemistPipeline.from_pretrained("emojiwrld")
    with pytest.raises(ValueError, match="holds no pipeline; expected a model_index.json"):
        AlchemistPipeline.from_pretrained(tmp_path)


def test_files(pipeline_folder: Path, pictures: dict[str, Path], tmp_path: Path) -> None:
    """Guards against a sidecar that does not say enough to make the same video again."""
    loaded = AlchemistPipeline.from_pretrained(pipeline_folder)
    loaded.set_progress_bar_config(disable=True)
    dog = Reference("dog", str(pictures["dog"]))
    request = Request("A dog", (dog,), seed=5, num_steps=1, output=tmp_path / "out" / "a.mp4")
    frames = loaded.generate(request)
    decoded, fps = read_video(tmp_path / "out" / "a.mp4")
    assert (decoded.shape, fps) == (frames.shape, 12)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.json", "a.mp4"]
    sidecar = json.loads((tmp_path / "out" / "a.json").read_text())
    digest = hashlib.sha256(pictures["dog"].read_bytes()).hexdigest()
    assert sidecar["references"] == [
        {
            "word": "dog",
            "kind": "subject",
            "view": "whole",
            "occurrence": 0,
            "image": str(pictures["dog"]),
            "image_sha256": digest,
        }
    ]
    expected = {
        "prompt": "A dog", "seed": 5, "size": [32, 16], "num_frames": 5, "fps": 12.0, "num_steps": 1,
        "text_scale": 2.0, "image_scale": 1.0, "equation": 2, "time_shift": 1.0, "dtype": "torch.float32",
        "text_interval": [0.0, 1.0], "image_interval": [0.0, 1.0],
    }  # fmt: skip
    assert {key: sidecar[key] for key in expected} == expected
    assert sidecar["model"]["name"] == str(pipeline_folder)
    assert sidecar["model"]["revision"].startswith("sha256:")
    assert "version" in sidecar


def test_generate_batches_neighbours(pipeline: AlchemistPipeline) -> None:
    """Guards against requests of different settings in one batch, and results out of order."""
    requests = [Request("A dog", seed=i, num_frames=frames) for i, frames in enumerate((1, 1, 1, 5, 1))]
    together, alone = pipeline.generate(requests, batch_size=2), [pipeline.generate(one) for one in requests]
    assert [len(video) for video in together] == [1, 1, 1, 5, 1]
    for one, other in zip(together, alone, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1


def test_public_names() -> None:
    """Guards against the example of the README failing at its first line."""
    for name in video_alchemist.__all__:
        assert getattr(video_alchemist, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Pipeline'"):
        _ = video_alchemist.Pipeline
