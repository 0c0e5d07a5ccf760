"""Training steps of the shipped transformer on a CPU: float32, mixed, and mixed with PyTorch's own attention kernel.

    python benchmarks/cpu_training.py [--rounds 5] [--batch 8]

Forward and backward of the same batch, one variant after the other in every round; medians of the rounds' ratios, in
seconds that the process was given. Also how far gradients are from float32's (cosine over all weights).
"""

from __future__ import annotations

import argparse
import statistics
import time
from unittest import mock

import torch
from torch import Tensor

from video_alchemist.dataset.batch import Batch
from video_alchemist.model.transformer import AlchemistTransformer
from video_alchemist.sampling.pipeline import SHIPPED
from video_alchemist.training import mixed
from video_alchemist.training.objective import Objective

KERNEL_ATTENTION = torch.nn.functional.scaled_dot_product_attention
FLOAT32, MIXED, KERNEL = "float32", "mixed", "mixed, PyTorch's attention kernel"
TEXT, PICTURES, TOKENS = 24, 3, 144  # tokens of a caption, pictures, tokens of a picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    args = parser.parse_args()
    transformer = AlchemistTransformer.from_pretrained(SHIPPED["emojiworld"] / "transformer").float().train()
    batch = random_batch(transformer, args.batch)
    for name in (FLOAT32, MIXED, KERNEL):  # warm
        gradient(transformer, batch, name)
    seconds: dict[str, list[float]] = {FLOAT32: [], MIXED: [], KERNEL: []}
    for _ in range(args.rounds):
        for name, times in seconds.items():
            began = time.process_time()
            gradient(transformer, batch, name)
            times.append(time.process_time() - began)
    exact = gradient(transformer, batch, FLOAT32)
    print(f"{torch.get_num_threads()} threads, batch {args.batch}, {args.rounds} rounds")
    for name, times in seconds.items():
        ratio = statistics.median(one / other for one, other in zip(times, seconds[FLOAT32], strict=True))
        cosine = torch.cosine_similarity(exact, gradient(transformer, batch, name), dim=0)
        print(f"{name:36} {ratio:.2f} of float32's time, cosine of gradients {cosine:.5f}")


def random_batch(transformer: AlchemistTransformer, size: int) -> Batch:
    config, draw = transformer.config, torch.Generator().manual_seed(0)
    return Batch(
        torch.randn(size, config["in_channels"], 5, 8, 8, generator=draw),
        torch.randn(size, TEXT, config["text_dim"], generator=draw),
        torch.ones(size, TEXT, dtype=torch.bool),
        torch.randn(size, PICTURES, TOKENS, config["image_dim"], generator=draw),
        torch.zeros(size, PICTURES, config["word_length"], dtype=torch.long),
        torch.ones(size, PICTURES, dtype=torch.bool),
    )


def gradient(transformer: AlchemistTransformer, batch: Batch, variant: str) -> Tensor:
    """Of all weights, one after the other."""
    transformer.zero_grad()
    objective = Objective(transformer, mixed=variant != FLOAT32)
    attend = KERNEL_ATTENTION if variant == KERNEL else mixed.attend
    with mock.patch.object(mixed, "attend", attend):
        objective(batch, torch.Generator().manual_seed(0)).velocity.mean().backward()
    return torch.cat([p.grad.flatten().double() for p in transformer.parameters() if p.grad is not None])


if __name__ == "__main__":
    main()
