"""What the exact savings of guidance are worth: a step of three branches (App. B.3, Eq. 2), one saving after another.

    python benchmarks/exact_savings.py [--hidden-size 512] [--depth 8] [--condition-dim 1024] [--rounds 5]

One video of 256x144 and 17 frames (720 tokens) with 6 references of 256 tokens and 128 tokens of text. The ways take
turns; the table gives medians of the ratios of one round, to a single plain forward and to three of them. On a CPU it
counts the processor's time of this process, which neighbours on a shared machine do not lengthen.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from video_alchemist.model.transformer import AlchemistTransformer

GRID, TEXT_TOKENS, REFERENCE_TOKENS = (5, 18, 32), 128, 6 * 256
IMAGE_ONLY, FULL, TEXT_ONLY = BRANCHES = [(False, True), (True, True), (True, False)]  # (text, references)


def ways(transformer: AlchemistTransformer, condition_dim: int) -> dict[str, Callable[[], Tensor]]:
    """Each gives the velocities of the three branches, (3, C, f, h, w)."""
    options = {"device": transformer.device, "dtype": transformer.dtype}
    z, t = torch.randn(1, 16, *GRID, **options), torch.full((1,), 0.5, device=transformer.device)
    text, references = (torch.randn(1, n, condition_dim, **options) for n in (TEXT_TOKENS, REFERENCE_TOKENS))
    nothing = torch.zeros_like(text), torch.zeros_like(references)

    def shown(branch: tuple[bool, bool]) -> tuple[Tensor, None, Tensor]:
        return (text if branch[0] else nothing[0]), None, (references if branch[1] else nothing[1])

    cache = transformer.cache(text, references=references)
    zeros = {branch: transformer.cache(*shown(branch)) for branch in BRANCHES}
    table = transformer.modulations(t)
    return {
        "one plain forward": lambda: transformer(z, t, *shown(FULL)),
        "three plain forwards": lambda: torch.cat([transformer(z, t, *shown(branch)) for branch in BRANCHES]),
        "+ cached keys and values": lambda: torch.cat([transformer(z, t, cache=zeros[branch]) for branch in BRANCHES]),
        "+ null conditions skipped": lambda: torch.cat(
            [transformer(z, t, cache=cache.show([branch])) for branch in BRANCHES]
        ),
        "+ common prefix once, in one pass": lambda: transformer(z, t, cache=cache.show(BRANCHES)),
        "+ modulation tabulated": lambda: transformer(z, t, cache=cache.show(BRANCHES), modulation=table[0]),
    }


def seconds(way: Callable[[], Tensor], device: torch.device) -> float:
    if device.type == "cpu":
        start = time.process_time()
        way()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    way()
    torch.cuda.synchronize()
    return time.perf_counter() - start


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden-size", type=int, default=512)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--condition-dim", type=int, default=1024, help="Table 5: 1024, beside a width of 4096")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    args = parser.parse_args()
    torch.manual_seed(0)
    transformer = AlchemistTransformer(
        hidden_size=args.hidden_size,
        depth=args.depth,
        num_heads=max(1, args.hidden_size // 128),
        text_dim=args.condition_dim,
        image_dim=args.condition_dim,
    ).eval()
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    if args.device.type != "cpu":
        transformer = transformer.to(args.device, torch.bfloat16)
    compared = ways(transformer, args.condition_dim)
    results = {name: way().float() for name, way in compared.items()}
    expected, rounds = results["three plain forwards"], []
    for _ in range(args.rounds):
        order = random.sample(list(compared), len(compared))  # none is always measured after the same other one
        rounds.append({name: seconds(compared[name], args.device) for name in order})
    print(f"{'':<36}{'of one forward':>15}{'times faster than three':>25}{'largest difference':>20}")
    for name, result in results.items():
        cost = statistics.median(taken[name] / taken["one plain forward"] for taken in rounds)
        gain = statistics.median(taken["three plain forwards"] / taken[name] for taken in rounds)
        difference = "" if len(result) == 1 else f"{(result - expected).abs().max() / expected.std():.1e}"
        print(f"{name:<36}{cost:>15.2f}{gain:>25.2f}{difference:>20}")
    print(f"one plain forward: {statistics.median(taken['one plain forward'] for taken in rounds):.3f} s")


if __name__ == "__main__":
    main()
