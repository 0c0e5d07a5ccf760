"""EmojiWorld encoded once by the frozen networks, then drawn from for every training step with other references.

n clips · A actors · R reference frames · M pictures of a shard · L tokens of a picture · S text tokens · W word_length
"""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Dinov2Model, PreTrainedTokenizerFast, T5EncoderModel

from video_alchemist.dataset.augmentation import Augmentation, augment
from video_alchemist.dataset.batch import Batch
from video_alchemist.dataset.picture import paste_on
from video_alchemist.dataset.selection import select
from video_alchemist.emojiworld.recipes.fit import rng_of
from video_alchemist.emojiworld.recipes.image_encoder import MEAN, SMALL_AUGMENTATION, STD
from video_alchemist.emojiworld.recipes.origins import cell_origins, shares
from video_alchemist.emojiworld.recipes.scale import Scale
from video_alchemist.emojiworld.recipes.world import WorldBatch, clip_times, make_batch, random_times, sample_scenes
from video_alchemist.model.binding import token_index
from video_alchemist.pretrained.autoencoder import LTXAutoencoder
from video_alchemist.pretrained.image_encoder import ViTImageEncoder
from video_alchemist.pretrained.text_encoder import T5TextEncoder
from video_alchemist.records import MAX_IMAGES

WORD_LENGTH = 4
SHARD = 2048
BACKGROUND = -1
PICTURE_SEED, CLIP_SEED = 20, 21
# Mirrored and turned references would leave open which part of them is meant; they are of other moments in any case.
UPRIGHT = replace(
    SMALL_AUGMENTATION,
    min_side=2 * SMALL_AUGMENTATION.min_side,  # twice the pictures that the image encoder learns from
    flip_probability=0.0,
    shear_x_probability=0.0,
    shear_y_probability=0.0,
    rotation_probability=0.0,
    crop_probability=0.0,
)
CLOSE_UP_SHARE = 0.6  # of pictures: an actor that fills a sixth of the frame is little to learn copying from
ACTOR_WEIGHT = 4.0  # in teaching attention where to look; places are found by themselves
PASTE_SHARE = 0.1  # App. D: segments on another picture, so that raw photos work without a mask


@dataclass(frozen=True)
class Encoders:
    """The frozen networks, from a working folder or from the shipped bundle: their folders have the same names.

    In float32, though bundles hold bfloat16: CPUs that do not know it take ten times as long.
    """

    scale: Scale
    folder: Path
    device: str

    @cached_property
    def autoencoder(self) -> LTXAutoencoder:
        folder = self.folder / "autoencoder"
        return LTXAutoencoder(
            _frozen(AutoencoderKLLTXVideo.from_pretrained(folder, torch_dtype=torch.float32), self.device)
        )

    @cached_property
    def text(self) -> T5TextEncoder:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(self.folder / "tokenizer")
        model = _frozen(T5EncoderModel.from_pretrained(self.folder / "text_encoder", dtype=torch.float32), self.device)
        return T5TextEncoder(model, tokenizer, self.scale.max_text_length)

    @cached_property
    def image(self) -> ViTImageEncoder:
        model = _frozen(Dinov2Model.from_pretrained(self.folder / "image_encoder", dtype=torch.float32), self.device)
        return ViTImageEncoder(model, self.scale.reference_size, MEAN, STD)


def _frozen(model: torch.nn.Module, device: str) -> torch.nn.Module:
    return model.requires_grad_(False).eval().to(device)


@torch.no_grad()
def encode(batch: WorldBatch, encoders: Encoders, augmentation: Augmentation, seed: int) -> dict[str, Tensor]:
    """Everything a training step needs to know of some clips, as CPU tensors in half precision."""
    device = encoders.device
    z0 = encoders.autoencoder.encode(batch.video)
    text = encoders.text(batch.captions)
    num_clips, num_tokens = len(batch.captions), encoders.scale.max_text_length
    tokens = torch.zeros(num_clips, num_tokens, text.tokens.shape[-1])
    mask = torch.zeros(num_clips, num_tokens, dtype=torch.bool)
    tokens[:, : text.tokens.shape[1]], mask[:, : text.mask.shape[1]] = text.tokens.cpu(), text.mask.cpu()

    assert batch.references is not None
    num_actors, num_views = batch.references.valid.shape[1:]
    word_index = torch.full((num_clips, num_actors + 1, WORD_LENGTH), -1, dtype=torch.int16)  # last row: background
    usable = torch.zeros(num_clips, num_actors + 1, dtype=torch.bool)
    for i, (entities, actors) in enumerate(zip(batch.entities, batch.entity_actors, strict=True)):
        for entity, actor in zip(entities, actors, strict=True):
            word_index[i, actor] = torch.tensor(token_index(text.offsets[i], entity.span, WORD_LENGTH))
            usable[i, actor] = word_index[i, actor, 0] >= 0  # a word that was cut off cannot be bound

    valid = batch.references.valid.cpu() & usable[:, :-1, None]
    generator = rng_of(seed, 0)
    segments = augment(batch.references.pictures[valid.to(device)], generator, augmentation)
    grounds = torch.ones(len(segments), 3, 1, 1, device=device).expand(-1, -1, *segments.shape[-2:]).clone()
    pasted = (torch.rand(len(segments), generator=generator) < PASTE_SHARE).to(device)
    others = torch.randint(num_clips, (len(segments),), generator=generator).to(device)
    grounds[pasted] = batch.references.backgrounds[others[pasted]]
    scenery = batch.references.backgrounds[usable[:, -1].to(device)]
    pictures = torch.cat([paste_on(segments, grounds), scenery])
    image_tokens = encoders.image(pictures)

    every = torch.cat([torch.arange(len(segments)), len(segments) + usable[:, -1].nonzero()[:, 0]])
    f, h, w = z0.shape[2:]
    origin = cell_origins(batch, valid.to(device), (f, h, w))[every.to(device)].half().cpu()

    slots = torch.full((num_clips, num_actors + 1, num_views), -1, dtype=torch.int32)
    slots[:, :-1][valid] = torch.arange(len(segments), dtype=torch.int32)
    slots[usable[:, -1], -1, 0] = torch.arange(len(segments), len(pictures), dtype=torch.int32)
    return {
        "z0": z0.half().cpu(),  # (n, C, f, h, w)
        "text_tokens": tokens.half(),  # (n, S, D_text)
        "text_mask": mask,  # (n, S)
        "word_index": word_index,  # (n, A + 1, W)
        "image_tokens": image_tokens.half().cpu(),  # (M, L, d)
        "origin": origin,  # (M, T, C, 3)
        "slots": slots,  # (n, A + 1, R) rows of image_tokens, -1 = none
    }


def precompute(
    scale: Scale,
    work: Path,
    device: str,
    clips: bool,
    count: int,
    networks: Path | None = None,
    augmentation: Augmentation = UPRIGHT,
) -> Path:
    """Encodes `count` clips, or pictures (clips of one frame), into shards; goes on where an earlier call stopped."""
    folder = work / "encoded" / ("clips" if clips else "pictures")
    folder.mkdir(parents=True, exist_ok=True)
    missing = [n for n in range(math.ceil(count / SHARD)) if not shard_path(folder, n).exists()]
    encode_one = partial(encode_shard, scale, networks or work, folder, device, clips, count, augmentation)
    workers = min(scale.workers, len(missing))
    if workers <= 1:
        for number in missing:
            encode_one(number)
        return folder
    threads = max(1, torch.get_num_threads() // workers)
    with ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=torch.set_num_threads, initargs=(threads,)
    ) as pool:
        list(pool.map(encode_one, missing))
    return folder


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.safetensors"


def encode_shard(
    scale: Scale,
    networks: Path,
    folder: Path,
    device: str,
    clips: bool,
    count: int,
    augmentation: Augmentation,
    number: int,
) -> None:
    """Renders and encodes the clips of one shard; the file appears when it is whole."""
    encoders = Encoders(scale, networks, device)
    step = min(scale.encode_batch, 32) if clips and device == "cpu" else scale.encode_batch
    first, end = number * SHARD, min((number + 1) * SHARD, count)
    parts = []
    for start in range(first, end, step):
        scenes = sample_scenes(CLIP_SEED if clips else PICTURE_SEED, start, min(step, end - start))
        times = clip_times(scale.num_frames) if clips else random_times(22, start, len(scenes))
        batch = make_batch(scenes, times, scale.size, scale.reference_size, device, 0.0 if clips else CLOSE_UP_SHARE)
        parts.append(encode(batch, encoders, augmentation, seed=start))
    path = shard_path(folder, number)
    temporary = path.with_suffix(".tmp")
    save_file(join(parts), temporary)
    os.replace(temporary, path)
    print(f"encoded {folder.name} {end}/{count}", flush=True)


def join(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Batches of clips as one, their picture numbers counted on."""
    offset, slots = 0, []
    for part in parts:
        slots.append(torch.where(part["slots"] >= 0, part["slots"] + offset, -1).int())
        offset += len(part["image_tokens"])
    joined = {key: torch.cat([part[key] for part in parts]) for key in parts[0] if key != "slots"}
    return {**joined, "slots": torch.cat(slots)}


@dataclass(frozen=True)
class EncodedWorld:
    """Training batches from encoded shards (dataset/batch.py: BatchSource).

    localization_every: in the first of so many steps, of `micro_batches` batches each, it is known where latents come
    from. subject_weight: how much more than scenery an actor's latents count in the loss. emphasis: actions,
    and how many times as often as others clips are drawn whose actors do them.
    """

    folder: Path
    batch_size: int
    seed: int
    references: bool  # False = stage I
    micro_batches: int = 1
    localization_every: int = 1
    subject_weight: float = 0.0
    emphasis: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        parts = [load_file(path) for path in sorted(self.folder.glob("*.safetensors"))]
        if not all("origin" in part and part["origin"].ndim == 4 for part in parts):
            raise ValueError(f"{self.folder} was encoded by an earlier version; delete it, and it is made anew")
        return join(parts)

    @cached_property
    def chances(self) -> np.ndarray:
        """Of every clip, to be drawn: (n,)."""
        count = len(self.tensors["z0"])
        scenes = sample_scenes(CLIP_SEED, 0, count) if self.emphasis else []
        weights = [np.mean([self.emphasis.get(actor.action, 1.0) for actor in scene.actors]) for scene in scenes]
        chances = np.array(weights or np.ones(count))
        return chances / chances.sum()

    def batch(self, step: int) -> Batch:
        rng = np.random.default_rng((self.seed, step))
        data = self.tensors
        count = len(data["z0"])
        rows = torch.from_numpy(rng.choice(count, self.batch_size, replace=count < self.batch_size, p=self.chances))
        text_mask = data["text_mask"][rows]
        length = int(text_mask.sum(dim=1).max())
        z0, text_tokens = data["z0"][rows], data["text_tokens"][rows, :length]
        if not self.references:
            return Batch(z0, text_tokens, text_mask[:, :length])
        # Most clips have few pictures; a bound that differs by batch saves padding all of them to six.
        most = int(rng.choice((2, 2, 3, MAX_IMAGES)))
        chosen = [self._select(int(row), rng, most) for row in rows]
        width = max(1, max(len(pictures) for pictures in chosen))
        slots = torch.zeros(len(rows), width, dtype=torch.long)
        image_mask, weight = torch.zeros(len(rows), width, dtype=torch.bool), torch.zeros(len(rows), width)
        word_index = torch.full((len(rows), width, data["word_index"].shape[-1]), -1, dtype=torch.long)
        for i, pictures in enumerate(chosen):
            for k, (entity, slot) in enumerate(pictures):
                slots[i, k], image_mask[i, k] = slot, True
                word_index[i, k] = data["word_index"][rows[i], entity].long()
                several = sum(other == entity for other, _ in pictures)
                weight[i, k] = (1.0 if entity == data["word_index"].shape[1] - 1 else ACTOR_WEIGHT) / several
        image_tokens = data["image_tokens"][slots]
        origin = None
        if step // self.micro_batches % self.localization_every == 0:
            origin = shares(data["origin"][slots].float(), weight, math.isqrt(image_tokens.shape[2]))
        batch = Batch(z0, text_tokens, text_mask[:, :length], image_tokens, word_index, image_mask, origin=origin)
        return replace(batch, weight=1 + self.subject_weight * self._subjects(rows)) if self.subject_weight else batch

    def _subjects(self, rows: Tensor) -> Tensor:
        """How much of every latent shows an actor: (B, f, h, w) in [0, 1]."""
        data = self.tensors
        pictures = data["slots"][rows, :-1].amax(dim=-1).long()                            # (B, A)
        share = data["origin"][pictures.clamp(min=0), ..., 2].float().mean(dim=-1)        # (B, A, T)
        share = (share * (pictures >= 0)[..., None]).sum(dim=1).clamp(max=1)               # (B, T)
        return share.unflatten(1, data["z0"].shape[2:])

    def _select(self, row: int, rng: np.random.Generator, max_images: int) -> list[tuple[int, int]]:
        """App. A.3 on one clip: (entity, picture) pairs in random order, so that a picture's number is no stand-in for
        its word."""
        slots = self.tensors["slots"][row].tolist()
        candidates = {str(actor): [slot for slot in slots[actor] if slot >= 0] for actor in range(len(slots) - 1)}
        ground = slots[BACKGROUND][0]
        pairs = select(candidates, (str(len(slots) - 1), ground) if ground >= 0 else None, rng, max_images=max_images)
        return [(int(pairs[i][0]), pairs[i][1]) for i in rng.permutation(len(pairs))]
