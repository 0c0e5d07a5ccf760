"""Training speed: our blocks against diffusers' WanTransformer3DModel of the same sizes, side by side in one run.

    python benchmarks/train_step.py [--width 512 --depth 4 --latent 5x18x32 --rounds 7]     on a CPU, float32
    python benchmarks/train_step.py --device cuda --width 1536 --depth 30 --latent 13x36x64 --batch 4

Forward and backward of the same function at the same dtype, one after the other in every round; medians of the rounds'
ratios. On a CPU seconds are those the process was given, since machines are shared. MFU: 3 forwards' FLOPs
(model/flops.py) in the time that the machine's own matrix products take for as many, measured in the same rounds; on a
known card also against its dense peak. On CUDA: bfloat16, compiled block by block, and the paper's block at its full
width (--paper), as many as fit.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from video_alchemist.model.flops import forward_flops
from video_alchemist.model.hardware import GIB, GPUS
from video_alchemist.model.memory import MemoryMeter
from video_alchemist.model.transformer import AlchemistTransformer
from video_alchemist.model.wan import WAN_OPTIONS
from video_alchemist.presets import paper

MIB = 2**20
DIFFUSERS, OURS, PAPER = "diffusers' Wan", "ours, as Wan", "ours, the paper's modulation"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--latent", default="5x18x32", help="frames x height x width; 5x18x32 is 256x144, 17 frames")
    parser.add_argument("--text", type=int, default=128, help="tokens")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="blocks, too; default: on CUDA")
    parser.add_argument("--paper", action="store_true", help="the paper's block at full width instead (Table 5)")
    args = parser.parse_args()
    device = torch.device(args.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    latent = tuple(map(int, args.latent.split("x")))
    compiled = device.type == "cuda" if args.compile is None else args.compile
    print(f"{device} {torch.get_num_threads()} threads, {dtype}, {tokens_of(latent):,} tokens x {args.batch}")
    if args.paper:
        paper_blocks(latent, args.batch, args.rounds, device, dtype, compiled)
        return
    against_diffusers(args, latent, device, dtype, compiled)
    checkpointing(args, latent, device, dtype)


def tokens_of(latent: tuple[int, ...]) -> int:
    return latent[0] * latent[1] * latent[2] // 4


def ours(args: argparse.Namespace, **options: Any) -> dict[str, Any]:
    """Options of AlchemistTransformer of the benchmark's sizes."""
    sizes = {"hidden_size": args.width, "depth": args.depth, "num_heads": args.width // 64, "ffn_size": 4 * args.width}
    return {**sizes, "in_channels": 16, "text_dim": 1024, "image_dim": 1024, "personalization": False, **options}


def against_diffusers(
    args: argparse.Namespace, latent: tuple[int, ...], device: torch.device, dtype: torch.dtype, compiled: bool
) -> None:
    wan_sizes = {
        "num_attention_heads": args.width // 64, "attention_head_dim": 64, "num_layers": args.depth,
        "ffn_dim": 4 * args.width, "text_dim": 1024,
    }  # fmt: skip
    as_wan = ours(args, **WAN_OPTIONS)
    flops = {
        name: 3 * args.batch * forward_flops(config, tokens_of(latent), args.text, 0)
        for name, config in zip((DIFFUSERS, OURS, PAPER), (as_wan, as_wan, ours(args)), strict=True)
    }
    makers = {
        DIFFUSERS: lambda: WanTransformer3DModel(**wan_sizes),
        OURS: lambda: AlchemistTransformer(**as_wan),
        PAPER: lambda: AlchemistTransformer(**ours(args)),
    }
    z = torch.randn(args.batch, 16, *latent, device=device, dtype=dtype)
    text = torch.randn(args.batch, args.text, 1024, device=device, dtype=dtype)
    steps: dict[tuple[str, bool], Callable[[], None]] = {}
    for is_compiled in (False, True) if compiled else (False,):
        for name, make in makers.items():
            network = prepared(make(), device, dtype, is_compiled)
            steps[name, is_compiled] = partial(step, partial(forward, network, z, text), network)
    product, flops_of_product = matrix_product(device, dtype)
    rounds: list[tuple[dict[tuple[str, bool], float], float]] = []
    for number in range(args.rounds + 2):
        taken = {key: seconds(run, device) for key, run in steps.items()}, seconds(product, device)
        if number >= 2:  # the first ones warm up
            rounds.append(taken)
    print("| network | ms | times as fast as diffusers | TFLOP a step | MFU of this machine's matrix products |")
    print("| --- | --- | --- | --- | --- |")
    for name, is_compiled in steps:
        key = name, is_compiled
        ms = 1000 * statistics.median(times[key] for times, _ in rounds)
        ratio = statistics.median(times[DIFFUSERS, is_compiled] / times[key] for times, _ in rounds)
        mfu = statistics.median(flops[name] / times[key] / (flops_of_product / took) for times, took in rounds)
        label = name + ", compiled" * is_compiled
        print(f"| {label} | {ms:.0f} | {ratio:.2f} | {flops[name] / 1e12:.3f} | {mfu:.2f} |")
        if device.type == "cuda":
            rate = flops[name] / ms * 1000
            print(f"{label}: {rate / 1e12:.0f} TFLOP/s{of_peak(rate, device)}")


def checkpointing(
    args: argparse.Namespace, latent: tuple[int, ...], device: torch.device, dtype: torch.dtype
) -> None:
    """Peak memory of a step beside its weights and their gradients, and what it costs."""
    z = torch.randn(args.batch, 16, *latent, device=device, dtype=dtype)
    text = torch.randn(args.batch, args.text, 1024, device=device, dtype=dtype)
    rows = []
    for kept in (True, False):
        network = prepared(AlchemistTransformer(**ours(args)), device, dtype, compiled=False)
        if not kept:
            network.enable_gradient_checkpointing()
        run = partial(step, partial(forward, network, z, text), network)
        run()
        times = [seconds(run, device) for _ in range(3)]
        for parameter in network.parameters():
            parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
        with MemoryMeter(network, z, text) as meter:
            run()
        rows.append((meter.peak, statistics.median(times)))
    print("| activation checkpointing | peak MiB of a step | ms |")
    print("| --- | --- | --- |")
    for name, (peak, time_) in zip(("no", "yes"), rows, strict=True):
        print(f"| {name} | {peak / MIB:.0f} | {1000 * time_:.0f} |")
    print(f"memory {rows[0][0] / rows[1][0]:.2f} times less, {rows[1][1] / rows[0][1]:.2f} times the time")


def paper_blocks(
    latent: tuple[int, ...], batch: int, rounds: int, device: torch.device, dtype: torch.dtype, compiled: bool
) -> None:
    """Table 5's block with stage II's layers, six references, dropout; as many blocks as fit."""
    depth = 1
    while True:
        config = {**paper().transformer, "depth": depth, "self_conditioning": False}
        try:
            measure_paper(config, latent, batch, rounds, device, dtype, compiled)
        except torch.OutOfMemoryError:
            print(f"{depth} blocks do not fit")
            return
        if device.type == "cpu" or depth == 32:
            return
        depth = min(32, 2 * depth)
        gc.collect()
        torch.cuda.empty_cache()


def measure_paper(
    config: dict[str, Any], latent: tuple[int, ...], batch: int, rounds: int, device: torch.device, dtype: torch.dtype,
    compiled: bool,
) -> None:  # fmt: skip
    network = prepared(AlchemistTransformer(**config), device, dtype, compiled)
    z = torch.randn(batch, 16, *latent, device=device, dtype=dtype)
    text, references = (torch.randn(batch, length, 1024, device=device, dtype=dtype) for length in (128, 6 * 256))

    def velocity() -> Tensor:
        return network(z, torch.rand(batch, device=device), text, None, references)

    run = partial(step, velocity, network)
    run()
    run()
    took = statistics.median(seconds(run, device) for _ in range(rounds))
    flops = 3 * batch * forward_flops({**config, "word_binding": False}, tokens_of(latent), 128, 6 * 256)
    memory = f", {torch.cuda.max_memory_allocated() / GIB:.1f} GiB" if device.type == "cuda" else ""
    print(f"paper's block x {config['depth']}: {1000 * took:.0f} ms, {flops / took / 1e12:.2f} TFLOP/s", end="")
    print(of_peak(flops / took, device) + memory, flush=True)


# ------------------------------------------------------------------------------------------------------------------
# Steps and clocks


def prepared(network: nn.Module, device: torch.device, dtype: torch.dtype, compiled: bool) -> Any:
    """Nothing left at zero, so that every gradient flows."""
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.02)
    network = network.to(device, dtype).train()
    if compiled:
        network.compile_repeated_blocks()
    return network


def forward(network: nn.Module, z: Tensor, text: Tensor) -> Tensor:
    t = torch.full((len(z),), 0.5, device=z.device)
    if isinstance(network, WanTransformer3DModel):
        return network(z, 1000 * t, text, return_dict=False)[0]
    return network(z, t, text)


def step(velocity: Callable[[], Tensor], network: nn.Module) -> None:
    velocity().float().square().mean().backward()
    network.zero_grad(set_to_none=True)


def matrix_product(device: torch.device, dtype: torch.dtype) -> tuple[Callable[[], Any], float]:
    """A large product and its FLOPs: what the machine gives without anything around it."""
    size, repeats = (8192, 4) if device.type == "cuda" else (1024, 4)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))

    def product() -> None:
        for _ in range(repeats):
            torch.mm(a, b)

    return product, 2.0 * repeats * size**3


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    """On a CPU of all this process's threads, whatever else the machine does meanwhile."""
    if device.type != "cuda":
        began = time.process_time()
        run()
        return time.process_time() - began
    torch.cuda.synchronize()
    began = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def of_peak(rate: float, device: torch.device) -> str:
    """Against the card's dense peak, where it is known."""
    name = torch.cuda.get_device_name(device).lower() if device.type == "cuda" else ""
    known = [gpu for key, gpu in GPUS.items() if key.split("-")[0] in name.replace(" ", "")]
    return f", {rate / known[0].flops:.2f} of the {known[0].name}'s peak" if known else ""


if __name__ == "__main__":
    main()
