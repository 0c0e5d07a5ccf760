"""What decoding a few clips at a time is worth on a CPU (pretrained/autoencoder.py: CPU_BATCH).

    python benchmarks/decoding.py [--clips 16] [--rounds 3]

The shipped autoencoder, 17 frames of 64x64. The ways take turns; the table gives the processor's time of this process,
in medians over the rounds, and its ratio to decoding all clips at once.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo

from video_alchemist.pretrained import autoencoder
from video_alchemist.sampling.pipeline import SHIPPED


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    model = AutoencoderKLLTXVideo.from_pretrained(SHIPPED["emojiworld"] / "autoencoder", torch_dtype=torch.float32)
    coder = autoencoder.LTXAutoencoder(model)
    z = torch.randn(args.clips, model.config.latent_channels, 5, 8, 8)
    sizes = [args.clips, *(size for size in (8, 4, 2) if size < args.clips)]
    taken: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(args.rounds):
        for size in sizes:
            autoencoder.CPU_BATCH = size
            start = time.process_time()
            coder.decode(z)
            taken[size].append(time.process_time() - start)
    print(f"{args.clips} clips, {torch.get_num_threads()} threads\n")
    print("| at a time | seconds | ratio |\n| --- | --- | --- |")
    for size, times in taken.items():
        ratio = statistics.median(time / whole for time, whole in zip(times, taken[args.clips], strict=True))
        print(f"| {size} | {statistics.median(times):.2f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
