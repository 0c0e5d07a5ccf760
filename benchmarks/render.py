"""Clips a second that EmojiWorld renders: `python benchmarks/render.py [--device cuda] [--threads 2]`."""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from video_alchemist.emojiworld.assets import load_assets
from video_alchemist.emojiworld.render import render
from video_alchemist.emojiworld.scenes import sample_scene


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--num-clips", type=int, default=192)
    parser.add_argument("--num-frames", type=int, default=17)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--truth", action="store_true", help="also masks, boxes, faces and flow")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    assets = load_assets()
    times = torch.linspace(0, 1, args.num_frames)
    scenes = [sample_scene(np.random.default_rng((0, i)), assets) for i in range(args.num_clips)]

    def rendered(count: int) -> float:
        start = time.perf_counter()
        video = render(scenes[:count], assets, times, (args.size, args.size), args.device, args.truth).video
        int(video.sum())  # waits for the device
        return time.perf_counter() - start

    rendered(min(32, args.num_clips))
    speed = args.num_clips / rendered(args.num_clips)
    print(f"{speed:.0f} clips/s of {args.num_frames} frames {args.size}x{args.size} on {args.device}")


if __name__ == "__main__":
    main()
