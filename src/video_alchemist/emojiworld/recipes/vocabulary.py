"""What the world's things are called and look like: the words and the backbone that curation's detector starts from.

Detectors start from networks that know words and pictures already; here the two learn each other on cut-out actors.

C crops · V words · S tokens · D channels
"""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertModel, BertTokenizer, ResNetBackbone, ResNetConfig
from transformers.models.grounding_dino.modeling_grounding_dino import (
    SPECIAL_TOKENS,
    generate_masks_with_special_tokens_and_transfer_map,
)

from video_alchemist.emojiworld.assets import HUES, Assets, load_assets
from video_alchemist.emojiworld.recipes.curation_scale import CurationScale
from video_alchemist.emojiworld.recipes.fit import fit, rng_of
from video_alchemist.emojiworld.recipes.lossy import compress
from video_alchemist.emojiworld.recipes.world import random_times
from video_alchemist.emojiworld.render import render
from video_alchemist.emojiworld.scenes import BACKGROUNDS, Scene, sample_scene

# Grounding DINO finds the ends of phrases by BERT's numbers for these tokens.
FIXED_TOKENS = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}
MAX_TEXT_LENGTH = 256
UNSEEN_ARTIST = "twemoji"  # of the held-out concepts, this artist's drawings are kept out of the detector's training
CROP, FRAME, MARGIN = 48, 64, 1.15
FRAMES_OF_A_CLIP = 2
MIN_AREA = 0.01
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SEED = 40


@functools.cache
def detector_assets() -> Assets:
    """The drawings that the detector may train on, as split "train".

    The world's held-out concepts test what the generator makes of subjects that it never saw. A detector, though, must
    know a word to find what it names (the paper's was trained on most words there are), so it sees these concepts as
    drawn by all artists but two: the artist held out altogether and UNSEEN_ARTIST, whose drawings test it.
    """
    assets = load_assets()
    known = [
        replace(identity, split="train")
        if identity.split == "test_concept" and identity.artist != UNSEEN_ARTIST
        else identity
        for identity in assets.identities
    ]
    return replace(assets, identities=tuple(known))


@functools.cache
def concepts() -> tuple[str, ...]:
    """The names of all that acts in the detector's world."""
    known = {i.concept for i in detector_assets().identities if i.split == "train" and i.kind != "scenery"}
    return tuple(sorted(known))


@functools.cache
def broader_words() -> tuple[str, ...]:
    """Animal, vehicle, ..."""
    return tuple(sorted({identity.broader for identity in load_assets().identities}))


def build_tokenizer() -> BertTokenizer:
    """BERT's class: every single word of the world is a token, all other words are spelt."""
    phrases = [*concepts(), *broader_words(), *BACKGROUNDS, *HUES]
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    tokens = [*letters, *(f"##{letter}" for letter in letters), "-", ",", "'"]
    tokens += sorted({part for phrase in phrases for part in phrase.replace("-", " - ").split()} - set(tokens))
    vocabulary = dict(FIXED_TOKENS)
    free = iter(sorted(set(range(len(tokens) + len(FIXED_TOKENS) + 2000)) - set(FIXED_TOKENS.values())))
    vocabulary |= {token: next(free) for token in tokens}
    size = max(vocabulary.values()) + 1
    vocabulary |= {f"[unused{i}]": i for i in set(range(size)) - set(vocabulary.values())}
    ordered = dict(sorted(vocabulary.items(), key=lambda item: item[1]))
    return BertTokenizer(vocab=ordered, do_lower_case=True, model_max_length=MAX_TEXT_LENGTH)


def text_config(scale: CurationScale, vocab_size: int) -> BertConfig:
    width = scale.detector["d_model"]
    return BertConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * width,
        max_position_embeddings=MAX_TEXT_LENGTH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


def backbone_config(scale: CurationScale) -> ResNetConfig:
    options: dict[str, Any] = {"out_features": ["stage2", "stage3", "stage4"], **scale.backbone}
    return ResNetConfig(layer_type="basic", **options)


class Vocabulary(nn.Module):
    """Pictures and words in one space; `backbone`, `text` and `project_text` go on into the detector."""

    ids: Tensor

    def __init__(self, scale: CurationScale, tokenizer: BertTokenizer) -> None:
        super().__init__()
        width = scale.detector["d_model"]
        self.backbone = ResNetBackbone(backbone_config(scale))
        self.text = BertModel(text_config(scale, len(tokenizer)), add_pooling_layer=False)
        self.project_text = nn.Linear(width, width)
        self.project_picture = nn.Linear(sum(self.backbone.channels[1:]), width)
        self.scale = nn.Parameter(torch.tensor(2.5))
        inputs = tokenizer([f"{word}." for word in (*concepts(), *broader_words())], return_tensors="pt", padding=True)
        self.register_buffer("ids", inputs["input_ids"], persistent=False)

    def words(self) -> Tensor:
        """(V, D) of unit length: concepts, then broader words. A word is the mean of its tokens."""
        special = torch.tensor([*SPECIAL_TOKENS, FIXED_TOKENS["[PAD]"]], device=self.ids.device)
        mask, positions = generate_masks_with_special_tokens_and_transfer_map(
            self.ids,  # type: ignore[arg-type]  # a tensor of longs
            special[:-1],  # type: ignore[arg-type]
        )
        tokens = self.project_text(self.text(self.ids, mask[:, None], position_ids=positions).last_hidden_state)
        own = (~torch.isin(self.ids, special))[..., None]
        return F.normalize((tokens * own).sum(dim=1) / own.sum(dim=1), dim=-1)

    def pictures(self, crops: Tensor) -> Tensor:
        """(C, 3, CROP, CROP), normalised => (C, D) of unit length."""
        maps = self.backbone(crops).feature_maps[1:]
        return F.normalize(self.project_picture(torch.cat([m.mean(dim=(-1, -2)) for m in maps], dim=1)), dim=-1)


def normalise(frames: Tensor) -> Tensor:
    mean, std = (torch.tensor(values, device=frames.device).view(3, 1, 1) for values in (MEAN, STD))
    return (frames - mean) / std


def detector_scenes(seed: int, start: int, count: int) -> list[Scene]:
    """Scenes of the drawings that the detector may see."""
    import numpy as np

    return [sample_scene(np.random.default_rng((seed, start + i)), detector_assets()) for i in range(count)]


def crop_batch(seed: int, step: int, batch: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Actors with what is around them, (C, 3, CROP, CROP) in [0, 1], and the rows of concept and broader word, (C,)."""
    clips = batch // FRAMES_OF_A_CLIP
    scenes = detector_scenes(seed, step * clips, clips)
    times = torch.cat([random_times(seed + i, step, clips) for i in range(FRAMES_OF_A_CLIP)], dim=1)
    rendered = render(scenes, detector_assets(), times, (FRAME, FRAME), device)
    frames = compress(rendered.video.flatten(0, 1).float() / 255, rng_of(seed, step))
    seen = rendered.masks.float().mean(dim=(-1, -2)) >= MIN_AREA  # (B, A, F)
    clip, actor, moment = (index.tolist() for index in seen.nonzero(as_tuple=True))
    found = rendered.boxes[clip, actor, moment] / FRAME * 2 - 1
    jitter = 0.1 * torch.randn(found.shape, generator=rng_of(seed + 1, step)).to(found)
    found = found + jitter * (found[:, 2:] - found[:, :2]).repeat(1, 2)
    side = (found[:, 2:] - found[:, :2]).amax(dim=1).clamp(min=0.2) * MARGIN / 2
    theta = torch.zeros(len(found), 2, 3, device=found.device)
    theta[:, 0, 0] = theta[:, 1, 1] = side
    theta[:, :, 2] = (found[:, :2] + found[:, 2:]) / 2
    grid = F.affine_grid(theta, [len(found), 3, CROP, CROP], align_corners=False)
    own = [c * FRAMES_OF_A_CLIP + m for c, m in zip(clip, moment, strict=True)]
    crops = F.grid_sample(frames[own], grid, mode="bilinear", padding_mode="border", align_corners=False)
    identities = [detector_assets().identities[scenes[c].actors[a].identity] for c, a in zip(clip, actor, strict=True)]
    names = torch.tensor([concepts().index(identity.concept) for identity in identities], device=device)
    wider = torch.tensor([broader_words().index(identity.broader) for identity in identities], device=device)
    return crops, names, wider


def train(scale: CurationScale, work: Path, device: str, time_limit: float | None) -> Path | None:
    """Trains from where it stands; the checkpoint of the finished training, None while it is not done."""
    torch.manual_seed(0)
    model = Vocabulary(scale, build_tokenizer()).to(device)

    def loss(step: int) -> Tensor:
        crops, names, wider = crop_batch(SEED, step, scale.vocabulary_batch, device)
        logits = model.scale.exp() * model.pictures(normalise(crops)) @ model.words().T
        count = len(concepts())
        narrow = F.cross_entropy(logits[:, :count], names, label_smoothing=0.05)
        return narrow + 0.3 * F.cross_entropy(logits[:, count:], wider)

    if fit("vocabulary", model, loss, scale.vocabulary_steps, 2 * scale.learning_rate, work, time_limit):
        return work / "vocabulary.run" / "checkpoint.safetensors"
    return None
