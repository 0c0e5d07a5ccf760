"""Curation's face detector (§3.1): our small heat-map network, on EmojiWorld's faces and on frames without any.

B frames · A actors · H,W pixels
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from video_alchemist.emojiworld.assets import load_assets
from video_alchemist.emojiworld.recipes.curation_scale import CurationScale
from video_alchemist.emojiworld.recipes.fit import fit, rng_of
from video_alchemist.emojiworld.recipes.lossy import compress, random_size
from video_alchemist.emojiworld.recipes.world import random_times
from video_alchemist.emojiworld.render import render
from video_alchemist.emojiworld.scenes import Scene, Split, sample_scene
from video_alchemist.pretrained.face_detector import HeatmapFaceDetector

FRAMES_OF_A_CLIP = 2
FACE_SHARE = 0.6  # of the clips have a face for certain; the others as it comes
SEED = 60


def face_scene(seed: int, number: int, split: Split = "train") -> Scene:
    """Scene `number`; in FACE_SHARE of them somebody has a face."""
    assets, rng = load_assets(), np.random.default_rng((seed, number))
    wants_face = rng.random() < FACE_SHARE
    while True:
        scene = sample_scene(rng, assets, split)
        if not wants_face or any(assets.identities[actor.identity].face_box for actor in scene.actors):
            return scene


def face_batch(seed: int, step: int, batch: int, size: int, device: str) -> tuple[Tensor, Tensor]:
    """Frames (B, 3, H, W) in [0, 1], their longer side `size`; faces (B, A, 4) in pixels, NaN where there is none."""
    generator, clips = rng_of(seed, step), batch // FRAMES_OF_A_CLIP
    height, width = random_size(generator)
    times = torch.cat([random_times(seed + i, step, clips) for i in range(FRAMES_OF_A_CLIP)], dim=1)
    scenes = [face_scene(seed, step * clips + i) for i in range(clips)]
    rendered = render(scenes, load_assets(), times, (height, width), device)
    frames = compress(rendered.video.flatten(0, 1).float() / 255, generator)
    scale = size / max(height, width)
    seen = (round(height * scale), round(width * scale))
    frames = F.interpolate(frames, size=seen, mode="bilinear", antialias=True).clamp(0, 1)
    return frames, rendered.faces.transpose(1, 2).flatten(0, 1) * scale


def train(scale: CurationScale, work: Path, device: str, time_limit: float | None) -> Path:
    """Trains from where it stands; returns the face detector's folder."""
    out = work / "face_detector"
    if (out / "config.json").exists():
        return out
    torch.manual_seed(0)
    model = HeatmapFaceDetector(size=scale.face_size, **scale.face_detector).to(device)

    def loss(step: int) -> Tensor:
        return model.loss(*face_batch(SEED, step, scale.face_batch, scale.face_size, device))

    def sheet() -> Tensor:
        frames, _ = face_batch(SEED + 1, 0, 12, scale.face_size, device)
        arrays = (frames.permute(0, 2, 3, 1) * 255).byte().cpu().numpy()
        found = [[face.box for face in faces] for faces in model(arrays)]
        shown = [_framed(frame, boxes) for frame, boxes in zip(arrays, found, strict=True)]
        return torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2).float().unflatten(0, (2, 6)) / 255

    if fit("face_detector", model, loss, scale.face_steps, scale.learning_rate, work, time_limit, sheet):
        model.save_pretrained(out)
    return out


def _framed(frame: np.ndarray, boxes: list[tuple[float, float, float, float]]) -> np.ndarray:
    """A copy with boxes drawn."""
    from PIL import Image, ImageDraw

    picture = Image.fromarray(frame)
    for box in boxes:
        ImageDraw.Draw(picture).rectangle(box, outline="red")
    return np.asarray(picture)
