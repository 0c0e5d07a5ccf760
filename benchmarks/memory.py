"""How well `alchemist doctor` predicts memory: measured peaks of this process against predictions, on the CPU.

    python benchmarks/memory.py

Two pipelines (the shipped one; one of Wan 2.1's classes with random weights, its transformer small, its autoencoder
of full size), denoising and decoding apart. A fresh process each: its peak of resident memory (VmHWM) above what it
holds once the networks are loaded and have run at a small size. float32.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

MIB = 2**20
CASES = (
    ("emojiworld", "256x256", 17, "denoising"), ("emojiworld", "512x288", 17, "denoising"),
    ("emojiworld", "256x256", 17, "decoding"), ("emojiworld", "512x288", 17, "decoding"),
    ("emojiworld", "256x144", 49, "decoding"), ("small wan", "256x144", 49, "denoising"),
    ("small wan", "512x288", 49, "denoising"), ("small wan", "256x144", 9, "decoding"),
    ("small wan", "320x192", 17, "decoding"),
)  # fmt: skip
NUM_IMAGES = 3


def small_wan():
    """A pipeline of Wan 2.1's classes; the words and pictures go through the shipped encoders' sizes."""
    from diffusers import AutoencoderKLWan
    from transformers import UMT5Config, UMT5EncoderModel

    from video_alchemist import AlchemistPipeline
    from video_alchemist.model.transformer import AlchemistTransformer
    from video_alchemist.model.wan import WAN_OPTIONS

    shipped = AlchemistPipeline.from_pretrained("emojiworld")
    text = UMT5Config(vocab_size=2048, d_model=128, d_kv=32, d_ff=256, num_layers=2, num_heads=4)
    transformer = AlchemistTransformer(
        hidden_size=384, depth=6, num_heads=6, ffn_size=2048, text_dim=128, image_dim=192, **WAN_OPTIONS
    )
    return AlchemistPipeline(
        transformer=transformer.eval(),
        autoencoder=AutoencoderKLWan().eval(),
        text_encoder=UMT5EncoderModel(text).eval(),
        tokenizer=shipped.tokenizer,
        image_encoder=shipped.image_encoder,
        num_steps=1,
        reference_size=64,
        max_text_length=64,
        pad_text=True,
        negative_prompt="",
    )


def pipeline(name: str):
    from video_alchemist import AlchemistPipeline

    pipe = small_wan() if name == "small wan" else AlchemistPipeline.from_pretrained(name)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def networks(pipe):
    """The pipeline in outline, as doctor makes it from configurations."""
    from video_alchemist.pretrained.outline import build
    from video_alchemist.sampling.memory import Networks

    config = pipe.config
    return Networks(
        pipe.transformer.config,
        partial(build, dict(pipe.autoencoder.config) | {"_class_name": type(pipe.autoencoder).__name__}),
        partial(build, pipe.text_encoder.config.to_dict()),
        partial(build, pipe.image_encoder.config.to_dict()),
        (64, 64),
        17,
        config["reference_size"],
        text_tokens=config["max_text_length"],
        negative_prompt=config["negative_prompt"] is not None,
    )


def measure(name: str, size: tuple[int, int], num_frames: int, phase: str) -> int:
    """Bytes, in this process."""
    import torch

    from video_alchemist import Reference
    from video_alchemist.pretrained.roles import autoencoder_role

    pipe = pipeline(name)
    demo = Path(__file__).parents[1] / "docs" / "demo"
    references = [Reference("dog", demo / "dog.png"), Reference("robot", demo / "robot.png")]
    references.append(Reference("beach", demo / "beach.png", kind="background"))

    def run(size: tuple[int, int], num_frames: int) -> None:
        if phase == "denoising":
            prompt = "A dog jumps beside a robot on the beach"
            pipe(prompt, references, num_steps=1, size=size, num_frames=num_frames, output_type="latent")
            return
        role = autoencoder_role(pipe.autoencoder)
        frames = (num_frames - 1) // role.temporal_ratio + 1
        latent = torch.randn(16, frames, size[1] // role.spatial_ratio, size[0] // role.spatial_ratio)
        with torch.no_grad():
            pipe._decode(latent, "np")

    run((64, 64), 5)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew from what is resident
    before = memory("VmRSS")
    run(size, num_frames)
    return memory("VmHWM") - before


def memory(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def predicted(name: str, size: tuple[int, int], num_frames: int, phase: str) -> int:
    import torch

    from video_alchemist.sampling.memory import predict

    made = predict(networks(pipeline(name)), size, num_frames, NUM_IMAGES, torch.float32)
    parts = {part.name: part.work for part in made}
    if phase == "decoding":
        return parts["autoencoder"]
    return max(parts["text encoder"], parts["image encoder"], parts["transformer"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs=4, metavar=("MODEL", "SIZE", "FRAMES", "PHASE"), help="one, in this process")
    parser.add_argument("--first", type=int, default=0, help="skip the cases before this one")
    args = parser.parse_args()
    if args.case:
        name, size, frames, phase = args.case
        width, height = map(int, size.split("x"))
        print(measure(name, (width, height), int(frames), phase))
        return
    print("| model | size | frames | phase | measured MiB | predicted MiB | predicted / measured |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    # Freed memory goes back to the system at once, or what one layer leaves behind hides what the next one takes.
    malloc = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1"}
    environment = os.environ | malloc
    for name, size, frames, phase in CASES[args.first :]:
        command = [sys.executable, __file__, "--case", name, size, str(frames), phase]
        found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        measured = int(found.split()[-1])
        width, height = map(int, size.split("x"))
        expected = predicted(name, (width, height), frames, phase)
        print(
            f"| {name} | {size} | {frames} | {phase} | {measured / MIB:.0f} | {expected / MIB:.0f} | "
            f"{expected / measured:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
