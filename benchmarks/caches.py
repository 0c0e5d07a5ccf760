"""diffusers' caches on the shipped model: how much faster a video is, and how far from the exact one.

    python benchmarks/caches.py [--num-steps 32] [--rounds 3] [--prompts 2]

All of them are lossy and off by default. They keep what a branch of guidance did in its last steps, so branches run
one after another. Speed is the median over rounds of the ratio of CPU times to the exact run of the same round, error
the root mean square of the difference of the final latents (of unit variance).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from diffusers.hooks import FirstBlockCacheConfig, MagCacheConfig, TaylorSeerCacheConfig

from video_alchemist import AlchemistPipeline, Reference

DEMO = Path(__file__).parents[1] / "docs" / "demo"
PROMPTS = ("A dog jumps beside a robot on the beach", "A dog spins on the beach while a robot waves")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-steps", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=2, choices=(1, 2))
    args = parser.parse_args()
    pipe = AlchemistPipeline.from_pretrained("emojiworld")
    pipe.set_progress_bar_config(disable=True)
    references = [Reference(word, DEMO / f"{word}.png") for word in ("dog", "robot")]
    references.append(Reference("beach", DEMO / "beach.png", kind="background"))

    def sample(config: Any, way: str = "sequential") -> tuple[float, torch.Tensor]:
        if config is not None:
            pipe.transformer.enable_cache(config)
        start = time.process_time()
        latents = [
            pipe(
                prompt, references, seed=seed, num_steps=args.num_steps, output_type="latent", branches=way
            ).frames[0]
            for seed, prompt in enumerate(PROMPTS[: args.prompts])
        ]
        seconds = time.process_time() - start
        if config is not None:
            pipe.transformer.disable_cache()
        return seconds, torch.stack(latents)

    ratios = calibrate(sample, args.num_steps)
    variants = {
        "exact, batched": None,
        **{f"First Block, threshold {x}": FirstBlockCacheConfig(threshold=x) for x in (0.05, 0.1, 0.2)},
        **{
            f"TaylorSeer, every {k}th step": TaylorSeerCacheConfig(
                cache_interval=k, disable_cache_before_step=4, taylor_factors_dtype=torch.float32
            )
            for k in (2, 4)
        },
        **{
            f"MagCache, threshold {x}": MagCacheConfig(
                threshold=x, num_inference_steps=args.num_steps, mag_ratios=ratios
            )
            for x in (0.06, 0.24)
        },
    }
    speed: dict[str, list[float]] = {name: [] for name in variants}
    error: dict[str, float] = {}
    sample(None)
    for _ in range(args.rounds):
        seconds, exact = sample(None)
        for name, config in variants.items():
            own, latents = sample(config, "batched" if config is None else "sequential")
            speed[name].append(seconds / own)
            error[name] = float((latents - exact).square().mean().sqrt())
    print(f"{args.num_steps} steps, three branches one after another = 1{'speed':>20}{'error':>10}")
    for name in variants:
        print(f"{name:<52}{statistics.median(speed[name]):>13.2f}x{error[name]:>10.4f}")


def calibrate(sample: Any, num_steps: int) -> list[float]:
    """The ratios of residuals that MagCache wants of a model, which diffusers prints once a branch; the first's."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        sample(MagCacheConfig(calibrate=True, num_inference_steps=num_steps))
    return json.loads(next(line for line in printed.getvalue().splitlines() if re.match(r"\[\d", line)))


if __name__ == "__main__":
    main()
