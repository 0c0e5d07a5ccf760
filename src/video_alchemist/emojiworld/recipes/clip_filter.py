"""Curation's filter of undesirable clips (App. A.1): VideoMAE's class, one answer for each of the four kinds.

B clips · F = 16 frames · H,W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

from video_alchemist.emojiworld.assets import load_assets
from video_alchemist.emojiworld.recipes.curation_scale import CurationScale
from video_alchemist.emojiworld.recipes.fit import fit, rng_of
from video_alchemist.emojiworld.recipes.lossy import compress, random_size
from video_alchemist.emojiworld.render import render
from video_alchemist.emojiworld.scenes import UNDESIRABLE, Scene, sample_scene

SIZE, NUM_FRAMES = 64, 16
PATCH, TUBELET = 16, 2
MOTION = 5  # numbers that every token learns to tell
MOTION_WEIGHT = 0.5
FIELDS = ("video", "labels", "motion")
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


@dataclass(frozen=True)
class Clips:
    """video (B, 16, 3, SIZE, SIZE) uint8; labels (B, 4); motion (B, T, h, w, 5), for each of the network's tokens: the
    mean flow of its actors and of its background, both x and y in pixels, and the actors' share."""

    video: Tensor
    labels: Tensor
    motion: Tensor


def clips(seed: int, step: int, batch: int, device: str) -> Clips:
    """Rendered clips of a random length and size, at the 16 moments that curation takes from a file."""
    generator = rng_of(seed, step)
    scenes = [clip_scene(seed, step * batch + i) for i in range(batch)]
    frames_of_file = torch.randint(NUM_FRAMES, 3 * NUM_FRAMES, (batch, 1), generator=generator)
    shares = (torch.arange(NUM_FRAMES) + 0.5) / NUM_FRAMES
    times = (shares * frames_of_file).floor() / (frames_of_file - 1)
    rendered = render(scenes, load_assets(), times, random_size(generator), device)
    height, width = rendered.video.shape[-2:]
    seen = rendered.video.flatten(0, 1).float()
    if (height, width) != (SIZE, SIZE):
        seen = F.interpolate(seen, size=(SIZE, SIZE), mode="bilinear", antialias=True)
    actors = rendered.masks[:, :, ::TUBELET].any(dim=1)[:, :, None].float()  # (B, T, 1, H, W)
    flow = rendered.flow[:, ::TUBELET] * flow_scale(height, width).to(rendered.flow)  # (B, T, 2, H, W)
    parts = torch.cat([flow * actors, flow * (1 - actors), actors], dim=2)
    means = F.adaptive_avg_pool2d(parts.flatten(0, 1), SIZE // PATCH).unflatten(0, (batch, -1))
    share = means[:, :, 4:]
    means[:, :, :2] /= share.clamp(min=0.05)
    means[:, :, 2:4] /= (1 - share).clamp(min=0.05)
    return Clips(
        seen.round().clamp(0, 255).byte().unflatten(0, (batch, NUM_FRAMES)),
        torch.tensor([labels(scene) for scene in scenes], device=device),
        means.permute(0, 1, 3, 4, 2),
    )


def flow_scale(height: int, width: int) -> Tensor:
    """From pixels of a frame to pixels of the square that the network sees, (2, 1, 1)."""
    return torch.tensor([SIZE / width, SIZE / height]).view(2, 1, 1)


def precompute(scale: CurationScale, run: Path, device: str) -> Clips:
    """The training's clips, rendered once: that takes five times as long as a step."""
    path = run / "clips.safetensors"
    if not path.exists():
        batches = [clips(SEED, step, 32, device) for step in range(-(-scale.filter_clips // 32))]
        joined = {name: torch.cat([getattr(one, name) for one in batches]).cpu() for name in FIELDS}
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in joined.items()}, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)
    return Clips(**load_file(path))


def draw(known: Clips, seed: int, step: int, batch: int, device: str) -> Clips:
    """Some of the clips, half of them mirrored, each lossy to a degree."""
    generator = rng_of(seed, step)
    rows = torch.randint(len(known.video), (batch,), generator=generator)
    video, wanted, motion = (getattr(known, name)[rows].to(device) for name in FIELDS)
    mirrored = torch.rand(batch, generator=generator) < 0.5
    video, motion = video.float() / 255, motion.clone()
    video[mirrored] = video[mirrored].flip(-1)
    motion[mirrored] = motion[mirrored].flip(-2) * motion.new_tensor([-1, 1, -1, 1, 1])
    return Clips(compress(video, generator), wanted, motion)


def normalise(video: Tensor) -> Tensor:
    """(B, F, 3, H, W) in [0, 1] => as the network wants it."""
    mean, std = (torch.tensor(values, device=video.device).view(3, 1, 1) for values in (MEAN, STD))
    return (video - mean) / std


def build(scale: CurationScale) -> VideoMAEForVideoClassification:
    config = VideoMAEConfig(
        image_size=SIZE,
        patch_size=PATCH,
        num_frames=NUM_FRAMES,
        tubelet_size=TUBELET,
        use_mean_pooling=True,
        problem_type="multi_label_classification",
        id2label={i: str(name) for i, name in enumerate(UNDESIRABLE)},
        label2id={str(name): i for i, name in enumerate(UNDESIRABLE)},
        **scale.clip_filter,
    )
    return VideoMAEForVideoClassification(config)


@torch.no_grad()
def see_motion_first(model: VideoMAEForVideoClassification, video: Tensor) -> None:
    """Sets the first layer to the directions in which patches of `video` (B, 16, 3, SIZE, SIZE), normalised, vary most:
    three quarters of the channels those of changes in time, which are faint beside the pictures themselves."""
    layer = model.videomae.embeddings.patch_embeddings.projection  # (D, 3, t, p, p)
    patches = rearrange(
        video, "b (f t) c (h p) (w q) -> (b f h w) c t (p q)", t=TUBELET, p=PATCH, q=PATCH
    )  # fmt: skip
    still = patches.mean(dim=2, keepdim=True).expand_as(patches)
    width = len(layer.weight)
    count = width * 3 // 4
    weight = torch.cat([_directions(patches - still, count), _directions(still, width - count)])
    layer.weight.copy_(weight.view_as(layer.weight))
    assert layer.bias is not None
    layer.bias.copy_(-weight @ patches.flatten(1).mean(dim=0))


def _directions(patches: Tensor, count: int) -> Tensor:
    """(n, ...) => (count, size of one), scaled so that each varies by about one."""
    centred = patches.flatten(1) - patches.flatten(1).mean(dim=0)
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(centred))
    variances, directions = variances.flip(0)[:count].clamp(min=0), directions.flip(1)[:, :count]
    return (directions / (variances.sqrt() + 0.01 * variances[0].sqrt())).T


def train(scale: CurationScale, work: Path, device: str, time_limit: float | None) -> Path:
    """Trains from where it stands; returns the filter's folder.

    Beside the four answers, every token learns to tell how its part of the picture moves: without, a network that has
    never seen anything takes very long to notice motion at all.
    """
    out = work / "clip_filter"
    if (out / "config.json").exists():
        return out
    known = precompute(scale, work / "clip_filter.run", device)
    torch.manual_seed(0)
    model = build(scale)
    see_motion_first(model, normalise(known.video[:256].float() / 255))
    tell_motion = nn.Linear(scale.clip_filter["hidden_size"], MOTION)
    both = nn.ModuleList([model, tell_motion]).to(torch.device(device))

    def loss(step: int) -> Tensor:
        batch = draw(known, SEED, step, scale.filter_batch, device)
        tokens = model.videomae(normalise(batch.video)).last_hidden_state  # (B, T h w, D)
        assert model.fc_norm is not None  # with `use_mean_pooling`
        answers = model.classifier(model.fc_norm(tokens.mean(dim=1)))
        motion = F.smooth_l1_loss(tell_motion(tokens), batch.motion.flatten(1, 3))
        return F.binary_cross_entropy_with_logits(answers, batch.labels) + MOTION_WEIGHT * motion

    def sheet() -> Tensor:
        return draw(known, SEED + 1, 0, 8, device).video[:, ::2].cpu()

    if fit("clip_filter", both, loss, scale.filter_steps, scale.learning_rate, work, time_limit, sheet):
        model.save_pretrained(out)
    return out
