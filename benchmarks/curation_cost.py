"""GPU hours of curating as many clips as the paper did (§3.1: 86.8 M): `python benchmarks/curation_cost.py`.

Operations are counted by running the paper's networks, without weights, on one clip; hours follow from a GPU's peak
and the share of it that is reached. CPU costs are measured here, on a video of the same size.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    MistralConfig,
    MistralForCausalLM,
    SamConfig,
    SamModel,
    SwinConfig,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
)

from video_alchemist.curation.clip import Clip, Source
from video_alchemist.curation.decode import decode_clip
from video_alchemist.curation.encode import encode_clip
from video_alchemist.curation.probe import probe_clip
from video_alchemist.curation.profile import paper
from video_alchemist.pretrained.shot_detector import TransNetV2
from video_alchemist.video import write_video

CLIPS, KEPT = 86.8e6, 37.8e6  # §3.1
SECONDS, FPS, SIZE = 8.5, 25, (720, 1280)  # of a clip: Panda-70M's mean length and size
PROMPT_TOKENS, ANSWER_TOKENS = 700, 60  # Fig. 7's prompt and answer
DENOISING_STEPS = 50  # diffusers' default


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peak", type=float, default=312, help="TFLOP/s of the GPU; A100 in bfloat16: 312")
    parser.add_argument("--reached", type=float, default=0.3, help="share of the peak")
    parser.add_argument("--reached-writing", type=float, default=0.1, help="the same, of a language model's answers")
    parser.add_argument("--pass-filter", type=float, default=0.7, help="share of clips that shots and A.1 leave")
    parser.add_argument("--pass-words", type=float, default=0.55, help="share that A.2's rules leave of all")
    args = parser.parse_args()
    rows = [
        ("shots", "TransNetV2", CLIPS, shots(), args.reached),
        ("undesirable", "VideoMAE-B, 16 frames of 224", CLIPS, undesirable(), args.reached),
        ("entities", "Mistral-7B, reading", CLIPS * args.pass_filter, language(PROMPT_TOKENS), args.reached),
        ("entities", "Mistral-7B, writing", CLIPS * args.pass_filter, language(ANSWER_TOKENS), args.reached_writing),
        ("ground", "Grounding DINO-T, 3 frames of 800", CLIPS * args.pass_words, 3 * detection(), args.reached),
        ("ground", "SAM ViT-B, 3 frames of 1024", CLIPS * args.pass_words, 3 * segmentation(), args.reached),
        ("background", f"SD 2 inpainting, {DENOISING_STEPS} steps of 512", KEPT, inpainting(), args.reached),
        ("background", "Grounding DINO-T, 1 frame", KEPT, detection(), args.reached),
    ]
    print("| stage | network | clips, M | TFLOP a clip | GPU hours |\n| --- | --- | --- | --- | --- |")
    total = 0.0
    for stage, network, clips, operations, reached in rows:
        hours = clips * operations / (args.peak * 1e12 * reached) / 3600
        total += hours
        print(f"| {stage} | {network} | {clips / 1e6:.1f} | {operations / 1e12:.2f} | {hours:,.0f} |")
    print(f"| all | | | | {total:,.0f} |\n")
    print("| stage | on the CPU | clips, M | core seconds a clip | core hours |\n| --- | --- | --- | --- | --- |")
    decoding, encoding = on_the_cpu()
    for stage, clips, seconds in (("decode", CLIPS, decoding), ("encode", KEPT, encoding)):
        print(f"| {stage} | PyAV | {clips / 1e6:.1f} | {seconds:.2f} | {clips * seconds / 3600:,.0f} |")


def counted(run: Callable[[], Any]) -> float:
    """Floating-point operations; a multiplication and an addition are two."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def shots() -> float:
    """TransNetV2 sees windows of 100 frames, and uses the middle 50."""
    with torch.device("meta"):
        model, window = TransNetV2().eval(), torch.zeros(1, 100, 27, 48, 3, dtype=torch.uint8)
    return counted(lambda: model(window)) * SECONDS * FPS / 50


def undesirable() -> float:
    with torch.device("meta"):
        model = VideoMAEForVideoClassification(VideoMAEConfig(attn_implementation="eager")).eval()
        return counted(lambda: model(torch.zeros(1, 16, 3, 224, 224)))


def language(tokens: int) -> float:
    """Two operations a parameter and token; what attention adds is little at this length."""
    with torch.device("meta"):
        model = MistralForCausalLM(MistralConfig(num_key_value_heads=8))
    return 2.0 * sum(one.numel() for one in model.parameters()) * tokens


def detection() -> float:
    """Its masks depend on the words, so that it runs for real; the numbers do not matter."""
    swin = SwinConfig(
        embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], window_size=7, out_indices=[2, 3, 4],
        image_size=224,
    )  # fmt: skip
    model = GroundingDinoForObjectDetection(GroundingDinoConfig(backbone_config=swin)).eval()
    words = torch.tensor([[101, 2158, 1012, 3899, 1012, 102]])
    return counted(lambda: model(torch.zeros(1, 3, 800, 1333), words))


def segmentation() -> float:
    with torch.device("meta"):
        model = SamModel(SamConfig(attn_implementation="eager")).eval()
        return counted(lambda: model.get_image_embeddings(torch.zeros(1, 3, 1024, 1024)))


def inpainting() -> float:
    """Stable Diffusion 2's network, twice a step for guidance."""
    with torch.device("meta"):
        model = UNet2DConditionModel(
            sample_size=64, in_channels=9, cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20),
            use_linear_projection=True,
        ).eval()  # fmt: skip
        inputs = torch.zeros(2, 9, 64, 64), torch.zeros(2), torch.zeros(2, 77, 1024)
        return counted(lambda: model(*inputs)) * DENOISING_STEPS


def on_the_cpu() -> tuple[float, float]:
    """Core seconds to decode a clip and to encode what a shard keeps of it."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (SIZE[0] // 8, SIZE[1] // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    frames = np.stack([np.roll(noise, 3 * i, axis=1) for i in range(round(SECONDS * FPS))])
    limits = paper().limits
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "clip.mp4")
        write_video(path, frames, FPS, crf=23)
        start = time.process_time()
        probed = probe_clip(Clip("clip", Source("clip", str(path))), limits)
        assert isinstance(probed, Clip)
        clip = decode_clip(probed, limits, 224)
        decoding = time.process_time() - start
        assert isinstance(clip, Clip)
        encode_clip(clip)
        return decoding, time.process_time() - start - decoding


if __name__ == "__main__":
    main()
