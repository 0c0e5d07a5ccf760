"""What every reference costs: ours, as cached keys and values, against references as extra video tokens.

    python benchmarks/cost_per_reference.py [--width 1536] [--depth 2] [--rounds 5] [--plot PNG]

Both are Wan 2.1 blocks of the same width, heads and depth, with random weights, on the 720 video tokens of a
256x144x17f clip, 512 text tokens and 0 to 6 references of 256 tokens. Token concatenation (Phantom, VACE and others:
references stand in the video's own sequence) is diffusers' WanTransformer3DModel on 720 + 256 n tokens. Rounds go
through all variants in turn; the fastest of each counts (on a CPU, of CPU times), against that without references.
FLOPs are counted by torch, attention included.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from video_alchemist.model.transformer import AlchemistTransformer
from video_alchemist.presets import wan_1_3b

FRAMES, SIDE = 45, 8  # latent: 45 x 8 x 8 in patches of 1 x 2 x 2 = 720 tokens; 16 frames more a reference = 256
REFERENCE_TOKENS, TEXT_TOKENS, NUMBERS = 256, 512, range(7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1536, help="a multiple of 128, the width of a head")
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    with torch.device(args.device), torch.no_grad():
        torch.manual_seed(0)
        steps = {"cached": ours(args.width, args.depth), "concatenated": concatenated(args.width, args.depth)}
        seconds: dict[tuple[str, int], list[float]] = {(name, n): [] for name in steps for n in NUMBERS}
        for round_ in range(args.rounds + 1):
            for (name, n), measured in seconds.items():
                one = timed(lambda name=name, n=n: steps[name](n), args.device)
                if round_:  # the first warms up
                    measured.append(one)
    costs = {name: [min(seconds[name, n]) / min(seconds[name, 0]) for n in NUMBERS] for name in steps}
    counts = {name: [counted(lambda name=name, n=n: steps[name](n)) for n in NUMBERS] for name in steps}
    flops = {name: [count / counts[name][0] for count in counts[name]] for name in steps}
    print(f"width {args.width}, depth {args.depth}, {args.device}; a forward without references = 1")
    print(f"{'references':>12}{''.join(f'{name + suffix:>20}' for name in steps for suffix in (', time', ', FLOPs'))}")
    for n in NUMBERS:
        cells = [cell for name in steps for cell in (costs[name][n], flops[name][n])]
        print(f"{n:>12}" + "".join(f"{cell:>20.3f}" for cell in cells))
    for name in steps:
        time_, work = ((values[6] - values[1]) / 5 / values[5] for values in (costs[name], flops[name]))
        print(f"{name}: the sixth reference costs {time_:.1%} of a step (mean of 2 to 6), {work:.1%} of FLOPs")
    if args.plot is not None:
        plot(costs, flops, args)


def ours(width: int, depth: int) -> Callable[[int], torch.Tensor]:
    """A forward with n references whose keys and values are there already, as in every step of sampling."""
    config = wan_1_3b().transformer | {"hidden_size": width, "depth": depth, "num_heads": width // 128}
    transformer = AlchemistTransformer(**config | {"ffn_size": width * 35 // 6}).eval()
    for parameter in transformer.parameters():  # nothing that starts at zero is skipped
        torch.nn.init.normal_(parameter, std=0.02)
    z, t = torch.randn(1, 16, FRAMES, SIDE, SIDE), torch.tensor([0.5])
    text = torch.randn(1, TEXT_TOKENS, config["text_dim"])
    caches = []
    for n in NUMBERS:
        references = torch.randn(1, n * REFERENCE_TOKENS, config["image_dim"]) if n else None
        caches.append(transformer.cache(text, None, references))
    return lambda n: transformer(z, t, cache=caches[n])


def concatenated(width: int, depth: int) -> Callable[[int], torch.Tensor]:
    """A forward of diffusers' model with n references as 16 more latent frames each."""
    transformer = WanTransformer3DModel(
        num_attention_heads=width // 128,
        attention_head_dim=128,
        ffn_dim=width * 35 // 6,
        num_layers=depth,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
    ).eval()
    text, t = torch.randn(1, TEXT_TOKENS, 4096), torch.tensor([500.0])
    zs = [torch.randn(1, 16, FRAMES + 16 * n, SIDE, SIDE) for n in NUMBERS]
    return lambda n: transformer(zs[n], t, text, return_dict=False)[0]


def timed(step: Callable[[], torch.Tensor], device: str) -> float:
    if device == "cpu":  # CPU time: what else the machine does matters less
        start = time.process_time()
        step()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return time.perf_counter() - start


@torch.no_grad()
def counted(step: Callable[[], torch.Tensor]) -> int:
    # The counter does not know the fused attention of CPUs.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def plot(costs: dict[str, list[float]], flops: dict[str, list[float]], args: argparse.Namespace) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6))
    labels = {"cached": "cross-attention, keys and values cached (ours)", "concatenated": "extra video tokens"}
    for (name, values), marker, color in zip(costs.items(), "os", ("tab:blue", "tab:orange"), strict=True):
        axes.plot(NUMBERS, values, marker=marker, color=color, label=labels[name])
        axes.plot(NUMBERS, flops[name], linestyle=":", color=color)
        axes.annotate(f"{values[-1]:.2f}x", (6, values[-1]), textcoords="offset points", xytext=(-8, 8), ha="right")
    axes.set_xlabel("reference pictures of 256 tokens")
    axes.set_ylabel("a forward, without references = 1")
    axes.set_title(f"720 video tokens, width {args.width}: time, and FLOPs dotted", fontsize=10)
    axes.set_ylim(0, 1.15 * max(map(max, costs.values())))
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", frameon=False)
    figure.tight_layout()
    figure.savefig(args.plot, dpi=150)
    print(args.plot)


if __name__ == "__main__":
    main()
