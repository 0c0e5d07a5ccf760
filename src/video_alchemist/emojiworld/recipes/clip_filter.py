"""Curation's filter of undesirable clips (App. A.1): VideoMAE's class, one answer for each of the four kinds.

B clips · F = 16 frames · H,W pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

from video_alchemist.emojiworld.assets import load_assets
from video_alchemist.emojiworld.recipes.curation_scale import CurationScale
from video_alchemist.emojiworld.recipes.fit import fit, rng_of
from video_alchemist.emojiworld.recipes.lossy import compress, random_size
from video_alchemist.emojiworld.render import render
from video_alchemist.emojiworld.scenes import UNDESIRABLE, Scene, sample_scene

SIZE, NUM_FRAMES = 64, 16
UNDESIRABLE_SHARE = 0.6
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SEED = 20


def labels(scene: Scene) -> list[float]:
    """1 for each of UNDESIRABLE that the clip shows. An ordinary clip whose actors all wait is still, too."""
    kind = scene.undesirable
    if kind is None and all(actor.action == "waits" for actor in scene.actors):
        kind = "still_foreground" if any(scene.camera) else "slight_motion"
    return [float(kind == name) for name in UNDESIRABLE]


def clip_scene(seed: int, number: int) -> Scene:
    """Scene `number`, ordinary or of one undesirable kind."""
    rng = np.random.default_rng((seed, number, 3))
    kind = UNDESIRABLE[rng.integers(len(UNDESIRABLE))] if rng.random() < UNDESIRABLE_SHARE else None
    return sample_scene(np.random.default_rng((seed, number)), load_assets(), undesirable=kind)


def clip_batch(seed: int, step: int, batch: int, device: str) -> tuple[Tensor, Tensor]:
    """Clips (B, 16, 3, SIZE, SIZE) in [0, 1] and their labels (B, 4)."""
    generator = rng_of(seed, step)
    scenes = [clip_scene(seed, step * batch + i) for i in range(batch)]
    frames_of_file = torch.randint(NUM_FRAMES, 3 * NUM_FRAMES, (batch, 1), generator=generator)
    shares = (torch.arange(NUM_FRAMES) + 0.5) / NUM_FRAMES
    times = (shares * frames_of_file).floor() / (frames_of_file - 1)  # those that curation takes from a file
    size = random_size(generator)
    rendered = render(scenes, load_assets(), times, size, device, truth=False)
    video = rendered.video.float() / 255
    if size != (SIZE, SIZE):
        video = F.interpolate(video.flatten(0, 1), size=(SIZE, SIZE), mode="bilinear", antialias=True)
        video = video.unflatten(0, (batch, NUM_FRAMES))
    return compress(video, generator), torch.tensor([labels(scene) for scene in scenes], device=device)


def normalise(video: Tensor) -> Tensor:
    """(B, F, 3, H, W) in [0, 1] => as the network wants it."""
    mean, std = (torch.tensor(values, device=video.device).view(3, 1, 1) for values in (MEAN, STD))
    return (video - mean) / std


def build(scale: CurationScale) -> VideoMAEForVideoClassification:
    config = VideoMAEConfig(
        image_size=SIZE,
        patch_size=16,
        num_frames=NUM_FRAMES,
        tubelet_size=2,
        use_mean_pooling=True,
        problem_type="multi_label_classification",
        id2label={i: str(name) for i, name in enumerate(UNDESIRABLE)},
        label2id={str(name): i for i, name in enumerate(UNDESIRABLE)},
        **scale.clip_filter,
    )
    return VideoMAEForVideoClassification(config)


def train(scale: CurationScale, work: Path, device: str, time_limit: float | None) -> Path:
    """Trains from where it stands; returns the filter's folder."""
    out = work / "clip_filter"
    if (out / "config.json").exists():
        return out
    torch.manual_seed(0)
    model = build(scale).to(torch.device(device))  # type: ignore[arg-type]

    def loss(step: int) -> Tensor:
        video, wanted = clip_batch(SEED, step, scale.filter_batch, device)
        return F.binary_cross_entropy_with_logits(model(normalise(video)).logits, wanted)

    def sheet() -> Tensor:
        return clip_batch(SEED + 1, 0, 8, device)[0][:, ::2].cpu()

    if fit("clip_filter", model, loss, scale.filter_steps, scale.learning_rate, work, time_limit, sheet):
        model.save_pretrained(out)
    return out
