"""The decoder, tuned to draw what the transformer makes: its last denoising step, in pixels.

A small transformer leaves fine channels to chance: drawn as they are, they are grain, and edges where blocks meet.
Training clips, noised in part and sampled from there, have just these faults, and what should have come out is known.

n clips · C latent channels · f,h,w latent · F frames · H,W pixels
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from safetensors.torch import load_file, save_file
from torch import Tensor

from video_alchemist.emojiworld.assets import load_assets
from video_alchemist.emojiworld.captions import caption
from video_alchemist.emojiworld.recipes import autoencoder, bundle
from video_alchemist.emojiworld.recipes.fit import fit, rng_of
from video_alchemist.emojiworld.recipes.scale import Scale
from video_alchemist.emojiworld.recipes.scores import to_bytes
from video_alchemist.emojiworld.recipes.studies import Sample, to_array
from video_alchemist.emojiworld.recipes.world import clip_times, make_batch, render_references, sample_scenes
from video_alchemist.emojiworld.scenes import Scene
from video_alchemist.flow import interpolate, schedule
from video_alchemist.pretrained.roles import autoencoder_role
from video_alchemist.records import Reference
from video_alchemist.sampling.guidance import DualGuidance, GuidedVelocity
from video_alchemist.sampling.request import Request
from video_alchemist.sampling.solver import euler

SEED = 30
BATCH = 16
FIRST_START, LAST_START = 4, 10  # steps of twelve: before, where things stand is open; later, little is left to do
LEARNING_RATE = 3e-4
SHEET_ROWS = 16
CLEAN_SHARE = 0.5  # of latents as encoded: what is no grain must stay


def train(scale: Scale, work: Path, device: str, time_limit: float | None) -> Path:
    """Tunes the decoder in `work/autoencoder` from where it stands; the encoder, and so all latents, stay."""
    out = work / "autoencoder"
    model = AutoencoderKLLTXVideo.from_pretrained(out).to(device)
    role, mark = autoencoder_role(model), out / "tuned"
    if mark.exists():
        return out
    made = load_file(precompute(scale, work, device))
    model.requires_grad_(False)
    model.decoder.requires_grad_(True)

    def loss(step: int) -> Tensor:
        generator = rng_of(SEED + 1, step)
        rows = torch.randint(len(made["video"]), (scale.autoencoder_batch,), generator=generator)
        clean = torch.rand(len(rows), 1, 1, 1, 1, generator=generator) < CLEAN_SHARE
        z = torch.where(clean, made["z0"][rows], made["sampled"][rows]).to(device).float()
        video = (made["video"][rows].float() / 127.5 - 1).to(device)
        ratio, side = role.spatial_ratio, scale.decoder_crop // role.spatial_ratio
        top, left = (int(torch.randint(full - side + 1, (), generator=generator)) for full in z.shape[-2:])
        z = z[..., top : top + side, left : left + side]
        top, left, side = ratio * top, ratio * left, ratio * side
        # `role.decode` cuts values off, and with them gradients.
        mean, std = (values.to(z).view(1, -1, 1, 1, 1) for values in (model.latents_mean, model.latents_std))
        return autoencoder.error(model.decode(z * std + mean).sample, video[..., top : top + side, left : left + side])

    @torch.no_grad()
    def sheet() -> Tensor:
        """Clips as rendered above what is drawn of them as sampled: (rows, columns, 3, H, W) in [0, 1]."""
        rows = slice(None, None, BATCH)
        drawn = to_bytes(role.decode(made["sampled"][rows].to(device).float()))
        pairs = torch.stack([made["video"][rows], drawn], dim=1).flatten(0, 1)[:SHEET_ROWS]  # (rows, 3, F, H, W)
        return pairs.transpose(1, 2)[:, ::2].float() / 255

    if fit("decoder", model.decoder, loss, scale.decoder_steps, LEARNING_RATE, work, time_limit, sheet):
        model.save_pretrained(out)
        mark.touch()
    return out


@torch.no_grad()
def precompute(scale: Scale, work: Path, device: str) -> Path:
    """Clips as rendered, as encoded, and as sampled from there on: video (n, 3, F, H, W) uint8, z0 and sampled
    (n, C, f, h, w)."""
    path = work / "encoded" / "sampled.safetensors"
    if path.exists():
        return path
    pipe = bundle.assemble(scale, work).to(device)
    pipe.set_progress_bar_config(disable=True)
    parts = [sample_from(pipe, scale, start, device) for start in range(0, scale.decoder_clips, BATCH)]
    temporary = path.with_suffix(".tmp")
    save_file({name: torch.cat([part[name] for part in parts]) for name in parts[0]}, temporary)
    os.replace(temporary, path)
    return path


def sample_from(pipe: Any, scale: Scale, start: int, device: str) -> dict[str, Tensor]:
    """Clips number `start` to `start + BATCH`: noised to the time of one of the pipeline's steps, and led back by it
    with their captions and pictures."""
    scenes = sample_scenes(SEED, start, BATCH)
    video = make_batch(scenes, clip_times(scale.num_frames), scale.size, device=device).video
    z0 = autoencoder_role(pipe.autoencoder).encode(video)
    requests = [
        Request(sample.prompt, sample.references, seed=start + i) for i, sample in enumerate(asked(scenes, scale))
    ]
    settings = pipe.settings(requests[0])
    first = int(torch.randint(FIRST_START, LAST_START + 1, (), generator=rng_of(SEED, start)))
    times = schedule(settings.num_steps, settings.time_shift).to(device)[first * settings.num_steps // 12 :]
    noise = torch.stack([pipe._noise(request.seed, settings) for request in requests]).to(device)
    z = interpolate(z0, noise, times[:1].expand(len(z0)))
    condition = pipe._encode(requests, settings)
    guider = DualGuidance(settings.text_scale, settings.image_scale, settings.equation)
    sampled = euler(GuidedVelocity(pipe.transformer, condition, guider, len(times) - 1, times=times), z, times)
    return {"video": to_bytes(video), "z0": z0.half().cpu(), "sampled": sampled.half().cpu()}


def asked(scenes: list[Scene], scale: Scale) -> list[Sample]:
    """Captions with a picture of every actor they name that is seen, and of the place in every second scene."""
    shown = render_references(scenes, load_assets(), scale.size, scale.reference_size, "cpu")
    samples = []
    for i, scene in enumerate(scenes):
        text, entities, actors = caption(scene, load_assets())
        rng, references, said = np.random.default_rng((scene.seed, SEED)), [], Counter[str]()
        for entity, actor in zip(entities, actors, strict=True):
            if actor < 0:
                frames, pictures = [0] * int(rng.integers(2)), shown.backgrounds[i, None]
            else:
                frames, pictures = shown.valid[i, actor].nonzero()[:, 0].tolist(), shown.pictures[i, actor]
            if frames:
                picture = to_array(pictures[int(rng.choice(frames))])
                references.append(Reference(entity.word, picture, kind=entity.kind, occurrence=said[entity.word]))
            said[entity.word] += 1
        samples.append(Sample(scene, text, tuple(references)))
    return samples
