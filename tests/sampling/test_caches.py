"""diffusers' lossy caches on our pipeline; what they gain and cost is measured by benchmarks/caches.py."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.hooks import FirstBlockCacheConfig, MagCacheConfig, TaylorSeerCacheConfig

from video_alchemist.records import Reference
from video_alchemist.sampling.pipeline import AlchemistPipeline

STEPS = 6
CACHES = {
    "first block": (FirstBlockCacheConfig(threshold=0.0), FirstBlockCacheConfig(threshold=10.0)),
    "taylorseer": (
        TaylorSeerCacheConfig(cache_interval=1, disable_cache_before_step=0),
        TaylorSeerCacheConfig(cache_interval=3, disable_cache_before_step=2, taylor_factors_dtype=torch.float32),
    ),
    "mag": (
        MagCacheConfig(threshold=-1.0, num_inference_steps=STEPS, mag_ratios=[1.0] * STEPS),
        MagCacheConfig(threshold=10.0, num_inference_steps=STEPS, mag_ratios=[1.0] * STEPS, retention_ratio=0.2),
    ),
}


@pytest.fixture(scope="module")
def deep(pipeline_folder: Path) -> AlchemistPipeline:
    pipeline = AlchemistPipeline.from_pretrained(pipeline_folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def latents(pipeline: AlchemistPipeline, pictures: dict[str, Path], config: Any = None) -> torch.Tensor:
    """Two videos, the second with a reference less than the first. (2, C, f, h, w)"""
    given = [Reference(name, pictures[name]) for name in ("dog", "robot")]
    if config is not None:
        pipeline.transformer.enable_cache(config)
    try:
        prompts, references = ["A dog and a robot", "A dog"], [given, given[:1]]
        return torch.stack(pipeline(prompts, references, num_steps=STEPS, output_type="latent").frames)
    finally:
        if config is not None:
            pipeline.transformer.disable_cache()


@pytest.mark.parametrize("name", CACHES)
def test_caches(deep: AlchemistPipeline, pictures: dict[str, Path], name: str) -> None:
    """Guards against a block that diffusers does not know, branches that share what is cached, and what is left over
    from the last video. A cache that never skips changes nothing; one that skips does."""
    exact = latents(deep, pictures)
    never, often = CACHES[name]
    torch.testing.assert_close(latents(deep, pictures, never), exact, atol=1e-4, rtol=1e-4)
    cached = latents(deep, pictures, often)
    assert not torch.allclose(cached, exact, atol=1e-3) and cached.isfinite().all()
    torch.testing.assert_close(latents(deep, pictures, often), cached, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(latents(deep, pictures), exact, atol=0, rtol=0)


def test_mag_calibration(deep: AlchemistPipeline, pictures: dict[str, Path]) -> None:
    """Guards against contexts that MagCache cannot tell apart: it calibrates once a branch, three in all."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        latents(deep, pictures, MagCacheConfig(calibrate=True, num_inference_steps=STEPS))
    assert printed.getvalue().count("Calibration Complete") == 3
