"""The benchmark's small networks (§4.2), never used to condition the model: CLIP's, DINO's, ArcFace's, RAFT's class.

All of them see what generated clips look like: frames blurred, noisy and off in colour to a degree.

B scenes · H,W pixels · d channels
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast, ViTConfig, ViTModel

from video_alchemist.dataset.picture import paste_on
from video_alchemist.emojiworld.assets import load_assets
from video_alchemist.emojiworld.captions import caption
from video_alchemist.emojiworld.recipes.face_detector import face_scene
from video_alchemist.emojiworld.recipes.fit import fit, rng_of
from video_alchemist.emojiworld.recipes.judges import degrade, restage
from video_alchemist.emojiworld.recipes.world import cut_faces, cut_segments, random_times, sample_scenes
from video_alchemist.emojiworld.render import render
from video_alchemist.emojiworld.scenes import Actor, Scene, Split
from video_alchemist.pretrained.face_embedder import IResNet
from video_alchemist.pretrained.image_text import CLIP_MEAN, CLIP_STD
from video_alchemist.pretrained.optical_flow import Raft
from video_alchemist.pretrained.subject_encoder import IMAGENET_MEAN, IMAGENET_STD

FRAME, PICTURE, FACE = 64, 64, 48  # pixels of a frame, a cut-out and a face
LARGE = 96  # pixels of the frame that cut-outs and faces are cut from
MAX_TEXT_LENGTH = 40
MIN_AREA = 0.02
MARGIN, SHARPNESS = 0.3, 24.0  # ArcFace's angle, in radians, and scale
ITERATIONS, DECAY = 6, 0.8  # of RAFT in training, and how much less an earlier iteration's error counts
MAX_GAP = 0.2  # of a clip, between the frames of a pair: 3 of 17
NETWORKS: dict[str, Any] = {
    "image_text": CLIPModel,
    "subject_encoder": ViTModel,
    "face_embedder": IResNet,
    "optical_flow": Raft,
}
OPTIONS: dict[str, dict[str, Any]] = {"subject_encoder": {"add_pooling_layer": False}}  # of `from_pretrained`
SEEDS = {"image_text": 70, "subject_encoder": 72, "face_embedder": 74, "optical_flow": 76}


@dataclass(frozen=True)
class EvaluatorScale:
    """Steps count optimiser steps; batches count scenes. The dictionaries are the classes' configurations."""

    vision: dict[str, Any] = field(default_factory=lambda: _transformer(128, 4))
    text: dict[str, Any] = field(default_factory=lambda: _transformer(128, 3))
    image_text_batch: int = 96
    image_text_steps: int = 700
    subject: dict[str, Any] = field(default_factory=lambda: _transformer(128, 4))
    subject_batch: int = 64
    subject_steps: int = 450
    face: dict[str, Any] = field(default_factory=lambda: {"layers": (1, 1, 2, 1), "width": 24, "embedding": 128})
    face_batch: int = 64
    face_steps: int = 350
    flow: dict[str, Any] = field(
        default_factory=lambda: {
            "channels": (32, 64), "features": 64, "hidden": 48, "context": 48, "motion": 48, "levels": 3, "radius": 3
        }
    )  # fmt: skip
    flow_batch: int = 12
    flow_steps: int = 1300
    flow_rate: float = 5e-4  # at 2e-3 it never leaves zero
    learning_rate: float = 1e-3


def _transformer(width: int, layers: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 32,
        "intermediate_size": 3 * width,
    }


SCALES = {
    "small": EvaluatorScale(),
    "base": EvaluatorScale(
        vision=_transformer(256, 6),
        text=_transformer(192, 4),
        image_text_batch=512,
        image_text_steps=6000,
        subject=_transformer(256, 6),
        subject_batch=384,
        subject_steps=4000,
        face={"layers": (2, 2, 2, 2), "width": 32, "embedding": 256},
        face_batch=384,
        face_steps=3000,
        flow_batch=64,
        flow_steps=8000,
    ),
}


def train(role: str, scale: EvaluatorScale, work: Path, device: str, time_limit: float | None, texts: Path) -> Path:
    """Trains one network from where it stands; returns its folder. texts: folder of the tokenizer."""
    out = work / role
    if (out / "config.json").exists():
        return out
    torch.manual_seed(0)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(texts)
    model, loss, steps = {
        "image_text": lambda: (*_image_text(scale, tokenizer, device), scale.image_text_steps),
        "subject_encoder": lambda: (*_subject_encoder(scale, device), scale.subject_steps),
        "face_embedder": lambda: (*_face_embedder(scale, device), scale.face_steps),
        "optical_flow": lambda: (*_optical_flow(scale, device), scale.flow_steps),
    }[role]()
    rate = scale.flow_rate if role == "optical_flow" else scale.learning_rate
    if fit(role, model, loss, steps, rate, work, time_limit):
        model.save_pretrained(out)
        if role == "image_text":
            tokenizer.save_pretrained(out)
    return out


Made = tuple[Any, Callable[[int], Tensor]]  # a network, and its loss at a step


def contrast(first: Tensor, second: Tensor, sharpness: Tensor | float, margin: float = 0.0) -> Tensor:
    """Rows (B, d) must find each other among all; margin: by which angle more than the others (ArcFace)."""
    cosines = F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T
    own = torch.eye(len(first), dtype=torch.bool, device=first.device)
    angles = torch.acos(cosines.clamp(-1 + 1e-6, 1 - 1e-6))
    logits = sharpness * torch.where(own, torch.cos((angles + margin).clamp(max=torch.pi)), cosines)
    labels = torch.arange(len(first), device=first.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def normalise(pictures: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(n, 3, H, W) in [0, 1] by colour."""
    colours = [torch.tensor(values, device=pictures.device).view(3, 1, 1) for values in (mean, std)]
    return (pictures - colours[0]) / colours[1]


def as_generated(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """(n, 3, H, W) in [0, 1], worse to a degree."""
    return (degrade(pictures[:, :, None] * 2 - 1, generator)[:, :, 0] + 1) / 2


# ------------------------------------------------------------------------------------------------------------------
# CLIP's class: frames and captions


def caption_batch(seed: int, step: int, batch: int, device: str, split: Split = "train") -> tuple[Tensor, list[str]]:
    """Frames (B, 3, FRAME, FRAME) in [0, 1], worse to a degree, and their captions."""
    scenes = sample_scenes(seed, step * batch, batch, split)
    times = random_times(seed, step * batch, batch)
    video = render(scenes, load_assets(), times, (FRAME, FRAME), device, truth=False).video
    frames = as_generated(video[:, 0].float() / 255, rng_of(seed, step))
    return frames, [caption(scene, load_assets())[0] for scene in scenes]


def _image_text(scale: EvaluatorScale, tokenizer: PreTrainedTokenizerFast, device: str) -> Made:
    text = {
        **scale.text,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": MAX_TEXT_LENGTH,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {**scale.vision, "image_size": FRAME, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128)).to(torch.device(device))  # type: ignore[arg-type]

    def loss(step: int) -> Tensor:
        frames, captions = caption_batch(SEEDS["image_text"], step, scale.image_text_batch, device)
        words = tokenizer(captions, padding=True, truncation=True, max_length=MAX_TEXT_LENGTH, return_tensors="pt")
        seen = model.vision_model(normalise(frames, CLIP_MEAN, CLIP_STD)).pooler_output
        read = model.text_model(words["input_ids"].to(device), words["attention_mask"].to(device)).pooler_output
        sharpness = model.logit_scale.exp().clamp(max=100)
        return contrast(model.visual_projection(seen), model.text_projection(read), sharpness)

    return model, loss


# ------------------------------------------------------------------------------------------------------------------
# DINO's class: cut-outs of one subject, in other poses and places


def cut_outs(scenes: Sequence[Scene], times: Tensor, device: str) -> tuple[Tensor, Tensor]:
    """The first actor of every scene on white, (B, 3, PICTURE, PICTURE) in [0, 1]; and whether enough of it is seen."""
    rendered = render(scenes, load_assets(), times, (LARGE, LARGE), device)
    segments, _, _ = cut_segments(rendered, PICTURE)
    seen = rendered.masks[:, 0, 0].float().mean(dim=(-1, -2)) >= MIN_AREA
    return paste_on(segments[:, 0, 0], torch.ones(3, 1, 1, device=device)), seen


def subject_batch(
    seed: int, step: int, batch: int, device: str, split: Split = "train"
) -> tuple[Tensor, Tensor, list[Actor]]:
    """Two cut-outs of every subject, as it acts and as it poses elsewhere, 2 x (n, 3, PICTURE, PICTURE) in [0, 1]."""
    scenes = sample_scenes(seed, step * batch, batch, split)
    times = random_times(seed, step * batch, batch)
    actors = [scene.actors[0] for scene in scenes]
    first, seen = cut_outs(scenes, times, device)
    second, also = cut_outs(restage(actors, seed + 1, step * batch), times, device)
    both = seen & also
    pictures = as_generated(first[both], rng_of(seed, step)), second[both]
    return *pictures, [actor for actor, kept in zip(actors, both.tolist(), strict=True) if kept]


def _subject_encoder(scale: EvaluatorScale, device: str) -> Made:
    config = ViTConfig(**scale.subject, image_size=PICTURE, patch_size=8)
    model = ViTModel(config, add_pooling_layer=False).to(torch.device(device))  # type: ignore[arg-type]

    def describe(pictures: Tensor) -> Tensor:
        return model(normalise(pictures, IMAGENET_MEAN, IMAGENET_STD)).last_hidden_state[:, 0]

    def loss(step: int) -> Tensor:
        first, second, _ = subject_batch(SEEDS["subject_encoder"], step, scale.subject_batch, device)
        return contrast(describe(first), describe(second), 15.0)

    return model, loss


# ------------------------------------------------------------------------------------------------------------------
# ArcFace's class: faces of one person


def with_face(seed: int, number: int, split: Split) -> Scene:
    """Scene `number` whose first actor has a face, if anybody in it has one."""
    scene = face_scene(seed, number, split)
    identities = load_assets().identities
    order = sorted(scene.actors, key=lambda actor: identities[actor.identity].face_box is None)
    return replace(scene, actors=tuple(order)) if not any(actor.partner is not None for actor in order) else scene


def face_batch(seed: int, step: int, batch: int, device: str, split: Split = "train") -> tuple[Tensor, Tensor]:
    """Two faces of every person, as they act and as they pose elsewhere, 2 x (n, 3, FACE, FACE) in [-1, 1]."""
    scenes = [with_face(seed, step * batch + i, split) for i in range(batch)]
    times = random_times(seed, step * batch, batch)
    twice = scenes, restage([scene.actors[0] for scene in scenes], seed + 1, step * batch)
    rendered = [render(some, load_assets(), times, (LARGE, LARGE), device) for some in twice]
    both = torch.stack([one.faces[:, 0, 0].isfinite().all(dim=-1) for one in rendered]).all(dim=0)
    found = []
    for one in rendered:
        chosen = torch.zeros_like(one.masks[..., 0, 0])
        chosen[:, 0, 0] = both
        found.append(cut_faces(one, chosen, FACE)[0][:, :3])
    return as_generated(found[0], rng_of(seed, step)) * 2 - 1, found[1] * 2 - 1


def _face_embedder(scale: EvaluatorScale, device: str) -> Made:
    model = IResNet(**scale.face, size=FACE).to(torch.device(device))  # type: ignore[arg-type]

    def loss(step: int) -> Tensor:
        first, second = face_batch(SEEDS["face_embedder"], step, scale.face_batch, device)
        one, two = model(torch.cat([first, second])).chunk(2)
        return contrast(one, two, SHARPNESS, MARGIN * min(1.0, step / (0.3 * scale.face_steps)))

    return model, loss


# ------------------------------------------------------------------------------------------------------------------
# RAFT's class: where everything moves


def flow_batch(seed: int, step: int, batch: int, device: str, split: Split = "train") -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of frames 2 x (B, 3, FRAME, FRAME) in [-1, 1] and the true flow (B, 2, FRAME, FRAME) in pixels."""
    scenes = sample_scenes(seed, step * batch, batch, split)
    rng = np.random.default_rng((seed, step, 1))
    gaps = rng.uniform(0.3 * MAX_GAP, MAX_GAP, batch)
    starts = rng.uniform(0, 1 - gaps)
    times = torch.from_numpy(np.stack([starts, starts + gaps], axis=1)).float()
    rendered = render(scenes, load_assets(), times, (FRAME, FRAME), device)
    video = rendered.video.transpose(1, 2).float() / 127.5 - 1
    worse = torch.arange(batch) % 2 == 1  # not all: noise of its own in each frame hides what moved
    video[worse] = degrade(video[worse], rng_of(seed, step))
    return video[:, :, 0], video[:, :, 1], rendered.flow[:, 0]


def _optical_flow(scale: EvaluatorScale, device: str) -> Made:
    model = Raft(**scale.flow).to(torch.device(device))  # type: ignore[arg-type]

    def loss(step: int) -> Tensor:
        first, second, true = flow_batch(SEEDS["optical_flow"], step, scale.flow_batch, device)
        flows = model(first, second, ITERATIONS, all_flows=True)
        weights = DECAY ** torch.arange(ITERATIONS - 1, -1, -1, device=device)
        return (weights * (flows - true).abs().mean(dim=(1, 2, 3, 4))).sum()

    return model, loss


# ------------------------------------------------------------------------------------------------------------------
# How good they are


@torch.inference_mode()
def measure(work: Path, device: str = "cpu", batch: int = 64, rounds: int = 4) -> dict[str, float]:
    """On held-out concepts: shares in [0, 1] of pictures whose partner is the nearest of `batch`, and flow errors in
    pixels beside those of no flow at all."""
    networks: dict[str, Any] = {
        role: kind.from_pretrained(work / role, **OPTIONS.get(role, {})) for role, kind in NETWORKS.items()
    }
    for network in networks.values():
        network.to(device).eval()
    model, subject, face, flow = networks.values()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(work / "image_text")
    sums: dict[str, list[float]] = {}
    for step in range(rounds):
        frames, captions = caption_batch(171, step, batch, device, "test_concept")
        words = tokenizer(captions, padding=True, truncation=True, max_length=MAX_TEXT_LENGTH, return_tensors="pt")
        seen = model.visual_projection(model.vision_model(normalise(frames, CLIP_MEAN, CLIP_STD)).pooler_output)
        read = model.text_projection(model.text_model(**words.to(device)).pooler_output)
        sums.setdefault("image_text: caption of 64", []).append(_found(seen, read))
        first, second, _ = subject_batch(173, step, batch, device, "test_concept")
        pictures = (normalise(one, IMAGENET_MEAN, IMAGENET_STD) for one in (first, second))
        described = [subject(one).last_hidden_state[:, 0] for one in pictures]
        sums.setdefault("subject_encoder: subject of 64", []).append(_found(*described))
        faces = face_batch(175, step, batch, device, "test_concept")
        sums.setdefault("face_embedder: face of those seen", []).append(_found(*(face(one) for one in faces)))
        first, second, true = flow_batch(177, step, batch, device, "test_concept")
        moving = true.norm(dim=1) > 0.5
        error = (flow(first, second) - true).norm(dim=1)
        sums.setdefault("optical_flow: error", []).append(float(error.mean()))
        sums.setdefault("optical_flow: error where it moves", []).append(float(error[moving].mean()))
        sums.setdefault("optical_flow: motion where it moves", []).append(float(true.norm(dim=1)[moving].mean()))
    return {name: round(float(np.mean(values)), 3) for name, values in sums.items()}


def _found(first: Tensor, second: Tensor) -> float:
    """Share of rows of the first whose own row of the second is the most similar."""
    nearest = (F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T).argmax(dim=1)
    return float((nearest == torch.arange(len(first), device=first.device)).float().mean())
