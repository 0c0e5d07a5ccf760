"""The branches of guidance as one batch and one after another: time and memory of a step, side by side in one run.

    python benchmarks/guidance.py [--width 512] [--depth 8] [--rounds 7]

720 video tokens, 6 references of 256 tokens, both scales on: three branches. Time is CPU time, in single forwards of
the same round (the full branch, with its cache), medians over rounds. Memory: what a step allocates at its worst,
beside the weights and the conditions' keys and values. Three ranks take a branch each: a single forward's time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from video_alchemist.model.condition import EncodedCondition
from video_alchemist.model.memory import MemoryMeter
from video_alchemist.model.transformer import AlchemistTransformer
from video_alchemist.sampling.guidance import DualGuidance, Execution, GuidedVelocity

WAYS: tuple[Execution, ...] = ("batched", "sequential")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.manual_seed(0)
    transformer = AlchemistTransformer(
        hidden_size=args.width, depth=args.depth, num_heads=args.width // 64, text_dim=512, image_dim=512
    ).eval()
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    condition = EncodedCondition(
        text_tokens=torch.randn(1, 128, 512),
        text_mask=torch.ones(1, 128, dtype=torch.bool),
        image_tokens=torch.randn(1, 6, 256, 512),
        word_index=torch.arange(24).view(1, 6, 4),
        image_mask=torch.ones(1, 6, dtype=torch.bool),
    )
    z, t = torch.randn(1, 16, 5, 18, 32), torch.tensor([0.5])

    def step(guider: DualGuidance, way: Execution) -> Callable[[], torch.Tensor]:
        guided = GuidedVelocity(transformer, condition, guider, num_steps=1000, execution=way)
        return lambda: guided(z, t)

    with torch.no_grad():
        steps = {"one forward": step(DualGuidance(0.0, 0.0), "batched")}
        steps |= {way: step(DualGuidance(), way) for way in WAYS}
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for round_ in range(args.rounds + 1):
            for name, run in steps.items():
                start = time.process_time()
                run()
                if round_:  # the first warms up
                    seconds[name].append(time.process_time() - start)
        difference = (steps["batched"]() - steps["sequential"]()).abs().max()
        print(f"width {args.width}, depth {args.depth}: {'':<14}single forwards{'MB':>8}")
        for name, run in steps.items():
            with MemoryMeter(transformer) as meter:
                run()
            pairs = zip(seconds[name], seconds["one forward"], strict=True)
            print(f"{name:<32}{statistics.median(a / b for a, b in pairs):>21.2f}{meter.peak / 1e6:>8.0f}")
    print(f"largest difference between the two: {difference:.1e}")


if __name__ == "__main__":
    main()
