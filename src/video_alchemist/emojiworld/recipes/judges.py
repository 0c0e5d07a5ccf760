"""Two networks that judge what the shipped model generates; neither ever conditions it.

`appearance` says by patch features how much of a picture is found in a frame; `motion` says what an actor does.

B clips · F frames · H,W pixels · Q frames asked · G pictures of the gallery · P, L patches of a frame, of a picture
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

from video_alchemist.dataset.picture import paste_on
from video_alchemist.emojiworld.assets import load_assets
from video_alchemist.emojiworld.recipes.encoded import CLIP_SEED, EncodedWorld, Encoders, precompute
from video_alchemist.emojiworld.recipes.fit import fit, rng_of
from video_alchemist.emojiworld.recipes.scale import Scale
from video_alchemist.emojiworld.recipes.world import clip_times, cut_segments, make_batch, random_times, sample_scenes
from video_alchemist.emojiworld.render import render
from video_alchemist.emojiworld.scenes import SOLO_ACTIONS, Actor, Scene

PICTURE_SIZE = 64
PORTRAIT_FRAME = 96  # pixels of the frame that pictures are cut from
TEMPERATURE = 0.05
MOTION_SIZE = 32  # pixels of a frame's height: motion survives halving, the autoencoder's blur does not matter there
BATCHES = {"cpu": 32, "cuda": 128}
STEPS = {"small": {"appearance": 1000, "motion": 1600}, "base": {"appearance": 6000, "motion": 6000}}


@dataclass(frozen=True)
class Judges:
    """Both networks, frozen."""

    appearance: ViTModel
    motion: MotionJudge

    @classmethod
    def load(cls, work: Path, device: torch.device | str = "cpu") -> Judges:
        appearance = ViTModel.from_pretrained(work / "appearance", add_pooling_layer=False)
        motion = MotionJudge.from_pretrained(work / "motion")
        for network in (appearance, motion):
            network.requires_grad_(False).eval().to(torch.device(device))
        return cls(appearance, motion)


def train(scale: Scale, work: Path, device: str, time_limit: float | None) -> Path:
    """Trains both from where they stand, each for `time_limit`; returns the working folder."""
    train_appearance(scale, work, device, time_limit)
    train_motion(scale, work, device, time_limit)
    return work


def degrade(video: Tensor, generator: torch.Generator) -> Tensor:
    """Clips (B, 3, F, H, W) in [-1, 1] made as blurred, noisy and off in colour as generated ones, each to a degree."""

    def draw(*shape: int) -> Tensor:
        return torch.rand(len(video), *shape, generator=generator).to(video.device)

    frames = video.transpose(1, 2).flatten(0, 1)
    reach = max(1, frames.shape[-2] // 32)
    blurred = F.avg_pool2d(F.pad(frames, [reach] * 4, mode="replicate"), 2 * reach + 1, stride=1)
    blurred = blurred.unflatten(0, (len(video), -1)).transpose(1, 2)
    video = torch.lerp(video, blurred, draw(1, 1, 1, 1))
    coarse = torch.randn(*video.shape[:3], video.shape[3] // 4, video.shape[4] // 4, generator=generator)
    noise = F.interpolate(coarse.to(video.device), size=video.shape[2:], mode="trilinear", align_corners=False)
    gain, shift = 0.85 + 0.3 * draw(3, 1, 1, 1), 0.2 * draw(3, 1, 1, 1) - 0.1
    return (gain * video + shift + 0.1 * draw(1, 1, 1, 1) * noise).clamp(-1, 1)


# Appearance


def restage(actors: Sequence[Actor], seed: int, start: int) -> list[Scene]:
    """Each actor's look (drawing and colour) alone by day, at rest and large, in another pose and place."""
    templates = sample_scenes(seed, start, len(actors), num_actors=1)
    scenes = []
    for actor, template in zip(actors, templates, strict=True):
        look = {name: getattr(actor, name) for name in ("identity", "word", "kind", "colour", "hue", "saturation")}
        posed = replace(template.actors[0], **look, action="waits", x=0.0, y=0.0, scale=0.75)
        scenes.append(replace(template, actors=(posed,), light="day", camera=(0.0, 0.0, 0.0)))
    return scenes


def portraits(scenes: Sequence[Scene], device: torch.device | str) -> Tensor:
    """The first actor of every scene, cut out: (B, 4, PICTURE_SIZE, PICTURE_SIZE) RGBA in [0, 1]."""
    rendered = render(scenes, load_assets(), torch.tensor([0.5]), (PORTRAIT_FRAME, PORTRAIT_FRAME), device)
    segments, _, _ = cut_segments(rendered, PICTURE_SIZE)
    return segments[:, 0, 0]


def describe_frames(network: ViTModel, frames: Tensor) -> Tensor:
    """Frames (Q, 3, H, W) in [-1, 1] => unit patch features (Q, P, d)."""
    if frames.shape[-2:] != (PICTURE_SIZE, PICTURE_SIZE):
        frames = F.interpolate(frames, size=(PICTURE_SIZE, PICTURE_SIZE), mode="bilinear", antialias=True)
    return F.normalize(network(frames).last_hidden_state[:, 1:], dim=-1)


def describe_pictures(network: ViTModel, rgba: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures (G, 4, S, S) in [0, 1] => unit patch features (G, L, d) and each patch's share of the subject (G, L)."""
    features = describe_frames(network, paste_on(rgba, rgba.new_ones(3, 1, 1)) * 2 - 1)
    seen = F.adaptive_avg_pool2d(rgba[:, 3:], int(features.shape[1] ** 0.5)).flatten(1)
    return features, seen / seen.sum(dim=1, keepdim=True).clamp(min=1e-6)


def match(frames: Tensor, pictures: Tensor, weights: Tensor) -> Tensor:
    """How much of each picture is found in each frame (Q, G): the mean over a picture's patches (G, L, d), weighted,
    of the cosine with the most similar patch of the frame (Q, P, d)."""
    cosines = torch.einsum("qpd,gld->qglp", frames, pictures)
    return torch.einsum("qgl,gl->qg", cosines.amax(dim=-1), weights)


def contrast(logits: Tensor, owner: Tensor) -> Tensor:
    """Pictures must find their frame and frames their pictures; logits (Q, G), owner (G,) the frame of each picture.

    A frame's other pictures are no wrong answers for it.
    """
    own = owner[None] == torch.arange(len(logits), device=owner.device)[:, None]  # (Q, G)
    chosen = torch.eye(len(owner), dtype=torch.bool, device=owner.device)
    rows = logits[owner].masked_fill(own[owner] & ~chosen, -torch.inf)  # (G, G): each picture's frame against all
    labels = torch.arange(len(owner), device=owner.device)
    return (F.cross_entropy(rows, labels) + F.cross_entropy(logits.T, owner)) / 2


def appearance_batch(
    step: int, batch: int, size: tuple[int, int], device: str, seed: int = 10
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Degraded frames (Q, 3, H, W) in [-1, 1], pictures of their actors (G, 4, S, S) and whose they are (G,), and the
    frames' clean backgrounds (Q, 4, H, W)."""
    scenes = sample_scenes(seed, step * batch, batch, num_actors=1 + step % 2)
    rendered = render(scenes, load_assets(), random_times(seed, step, batch), size, device)
    frames = degrade(rendered.video.transpose(1, 2).float() / 127.5 - 1, rng_of(seed, step))[:, :, 0]
    visible = rendered.masks[:, :, 0].float().mean(dim=(-1, -2)) > 0.02  # (B, A)
    owner, actor = visible.nonzero(as_tuple=True)
    looks = [scenes[i].actors[k] for i, k in zip(owner.tolist(), actor.tolist(), strict=True)]
    pictures = portraits(restage(looks, seed + 1, step * 4 * batch), device)
    opaque = torch.cat([rendered.background.float() / 255, torch.ones_like(frames[:, :1])], dim=1)
    return frames, pictures, owner, opaque


def train_appearance(scale: Scale, work: Path, device: str, time_limit: float | None) -> Path:
    """Contrastive on the very score it is used with: frames against the pictures of the batch's actors and places."""
    out, batch = work / "appearance", BATCHES[device]
    if (out / "config.json").exists():
        return out
    torch.manual_seed(0)
    network = ViTModel(
        ViTConfig(
            hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512,
            image_size=PICTURE_SIZE, patch_size=8,
        ),
        add_pooling_layer=False,
    )  # fmt: skip
    network.to(torch.device(device))  # type: ignore[arg-type]

    def loss(step: int) -> Tensor:
        frames, pictures, owner, grounds = appearance_batch(step, batch, scale.size, device)
        asked = describe_frames(network, frames)
        of_actors = match(asked, *describe_pictures(network, pictures))
        # Places are told apart sooner than actors: a part of the batch does.
        places = torch.arange(len(frames) // 3, device=asked.device)
        of_places = match(asked[places], *describe_pictures(network, grounds[places]))
        return contrast(of_actors / TEMPERATURE, owner) + 0.5 * contrast(of_places / TEMPERATURE, places)

    if fit("appearance", network, loss, STEPS[scale.name]["appearance"], 1e-3, work, time_limit):
        network.save_pretrained(out)
    return out


# Motion


class MotionJudge(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Which of SOLO_ACTIONS a clip shows; convolutions over space and time on frames and their differences."""

    @register_to_config
    def __init__(self, channels: tuple[int, ...] = (24, 48, 96), num_frames: int = 17, num_actions: int = 13) -> None:
        super().__init__()
        first, second, third = channels

        def block(before: int, after: int, kernel: tuple[int, ...], stride: tuple[int, ...]) -> nn.Sequential:
            padding = tuple(k // 2 for k in kernel)
            convolution = nn.Conv3d(before, after, kernel, stride, padding)  # type: ignore[arg-type]
            return nn.Sequential(convolution, nn.GroupNorm(8, after), nn.SiLU())

        self.features = nn.Sequential(
            block(6, first, (1, 5, 5), (1, 2, 2)),
            block(first, second, (3, 3, 3), (1, 2, 2)),
            block(second, third, (3, 3, 3), (2, 2, 2)),
            block(third, third, (3, 3, 3), (2, 1, 1)),
        )
        moments = ((num_frames + 1) // 2 + 1) // 2
        self.head = nn.Sequential(nn.Linear(2 * third * moments, 128), nn.SiLU(), nn.Linear(128, num_actions))

    def forward(self, video: Tensor) -> Tensor:
        """(B, 3, F, H, W) in [-1, 1] of any size => logits (B, num_actions)."""
        height, width = MOTION_SIZE, round(video.shape[-1] / video.shape[-2] * MOTION_SIZE)
        if video.shape[-2:] != (height, width):
            video = F.interpolate(video, size=(video.shape[2], height, width), mode="area")
        change = torch.diff(video, dim=2, prepend=video[:, :, :1])
        hidden = self.features(torch.cat([video, 2 * change], dim=1))  # (B, C, moments, H / 8, W / 8)
        # Where an action happens does not matter, when does.
        pooled = torch.cat([hidden.mean(dim=(-1, -2)), hidden.amax(dim=(-1, -2))], dim=1)
        return self.head(pooled.flatten(1))


def halves(video: Tensor) -> Tensor:
    """(B, ..., W) => (B, 2, ..., W / 2): left and right."""
    return torch.stack(video.chunk(2, dim=-1), dim=1)


def motion_batch(step: int, batch: int, scale: Scale, device: str, seed: int = 12) -> tuple[Tensor, Tensor]:
    """Degraded clips (B, 3, F, H, W) and their actions (B,): whole ones of one actor, halves of ones with two."""
    scenes = sample_scenes(seed, step * batch, batch, num_actors=1 + step % 2)
    size = (MOTION_SIZE, MOTION_SIZE)
    return by_actor(make_batch(scenes, clip_times(scale.num_frames), size, device=device).video, scenes)


def by_actor(video: Tensor, scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """Clips (B, 3, F, H, W) of one actor each, or the halves of clips of two; and the actions (B,)."""
    if all(len(scene.actors) == 1 for scene in scenes):
        actions = [SOLO_ACTIONS.index(scene.actors[0].action) for scene in scenes]
        return video, torch.tensor(actions, device=video.device)
    kept, labels = [], []
    for i, scene in enumerate(scenes):
        for side, actor in enumerate(sorted(scene.actors, key=lambda actor: actor.x)):
            if actor.action in SOLO_ACTIONS and all(other.partner is None for other in scene.actors):
                kept.append(2 * i + side)
                labels.append(SOLO_ACTIONS.index(actor.action))
    return halves(video).flatten(0, 1)[kept], torch.tensor(labels, dtype=torch.long, device=video.device)


@torch.no_grad()
def precompute_decoded(scale: Scale, work: Path, device: str) -> Path:
    """Training clips as the autoencoder gives them back, from latents noised to a degree: (n, 3, F, h, w) uint8.

    A judge that knows rendered clips alone, however degraded, calls reconstructions at random: 94 % against 11 %.
    """
    path = work / "encoded" / "decoded.safetensors"
    if path.exists():
        return path
    precompute(scale, work, device, clips=True, count=scale.clip_scenes)
    world = EncodedWorld(work / "encoded" / "clips", 1, 0, references=False)
    autoencoder, parts = Encoders(scale, work, device).autoencoder, []
    latents = world.tensors["z0"][: scale.decoded_clips]
    for start, z in zip(range(0, len(latents), 16), latents.split(16), strict=True):
        generator = rng_of(13, start)
        noise = torch.randn(z.shape, generator=generator) * torch.rand(len(z), 1, 1, 1, 1, generator=generator) * 0.4
        video = autoencoder.decode((z.float() + noise).to(device))
        size = (video.shape[2], MOTION_SIZE, MOTION_SIZE)
        parts.append(((F.interpolate(video, size=size, mode="area") + 1) * 127.5).round().byte().cpu())
    temporary = path.with_suffix(".tmp")
    save_file({"video": torch.cat(parts)}, temporary)
    os.replace(temporary, path)
    return path


def decoded_batch(step: int, batch: int, decoded: Tensor, scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """Like `motion_batch`, drawn from decoded clips (n, 3, F, h, w) uint8 of some scenes."""
    choice = [i for i, scene in enumerate(scenes) if len(scene.actors) == 1 + step % 2]
    rows = [choice[int(k)] for k in torch.randint(len(choice), (batch,), generator=rng_of(14, step))]
    return by_actor(decoded[rows].float() / 127.5 - 1, [scenes[i] for i in rows])


def train_motion(scale: Scale, work: Path, device: str, time_limit: float | None) -> Path:
    """Classifies actions in clips as blurred and noisy as generated ones: rendered, and decoded from latents."""
    out, batch = work / "motion", BATCHES[device]
    if (out / "config.json").exists():
        return out
    torch.manual_seed(0)
    network = MotionJudge(num_frames=scale.num_frames, num_actions=len(SOLO_ACTIONS)).to(device)

    decoded = load_file(precompute_decoded(scale, work, device))["video"]
    scenes = sample_scenes(CLIP_SEED, 0, len(decoded))

    def loss(step: int) -> Tensor:
        if step % 4 < 2:
            video, actions = motion_batch(step, batch, scale, device)
        else:
            video, actions = decoded_batch(step, batch, decoded, scenes)
        video, actions = degrade(video.to(device), rng_of(12, step)), actions.to(device)
        return F.cross_entropy(network(video), actions, label_smoothing=0.05)

    if fit("motion", network, loss, STEPS[scale.name]["motion"], 2e-3, work, time_limit):
        network.save_pretrained(out)
    return out
