"""What reusing keys and values saves in sampling: the shipped model with and without, side by side in one run.

    python benchmarks/sampling.py [--num-steps 8] [--repeats 5]

Prints seconds a video of both ways (minimum, median) and their ratio; only the ratio counts on a shared machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from video_alchemist import AlchemistPipeline, Reference

DEMO = Path(__file__).parents[1] / "docs" / "demo"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    pipe = AlchemistPipeline.from_pretrained("emojiworld")
    pipe.set_progress_bar_config(disable=True)
    references = [Reference(word, DEMO / f"{word}.png") for word in ("dog", "robot")]
    references.append(Reference("beach", DEMO / "beach.png", kind="background"))

    def seconds(use_cache: bool) -> float:
        start = time.perf_counter()
        pipe(
            "A dog jumps beside a robot on the beach",
            references,
            num_steps=args.num_steps,
            use_cache=use_cache,
            output_type="latent",
        )
        return time.perf_counter() - start

    seconds(True)
    pairs = [(seconds(True), seconds(False)) for _ in range(args.repeats)]
    for name, times in zip(("reused", "recomputed"), zip(*pairs, strict=True), strict=True):
        print(f"{name:<12}{min(times):.3f} s min, {statistics.median(times):.3f} s median")
    print(f"recomputed / reused: {statistics.median(slow / fast for fast, slow in pairs):.3f}")


if __name__ == "__main__":
    main()
