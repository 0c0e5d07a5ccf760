"""Curation's open-vocabulary detector (§3.1): Grounding DINO's class, starting from `vocabulary`.

B frames · A actors · Q queries · P places of the encoder's maps · S tokens of the prompt. Boxes are (centre x, centre
y, width, height) as shares of the frame.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn
from transformers import BertTokenizer, GroundingDinoConfig, GroundingDinoForObjectDetection, GroundingDinoProcessor
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil

from video_alchemist.emojiworld.recipes import vocabulary
from video_alchemist.emojiworld.recipes.curation_scale import CurationScale
from video_alchemist.emojiworld.recipes.fit import fit, rng_of
from video_alchemist.emojiworld.recipes.lossy import compress, random_size
from video_alchemist.emojiworld.recipes.vocabulary import broader_words, concepts, detector_assets, normalise
from video_alchemist.emojiworld.recipes.world import random_times
from video_alchemist.emojiworld.render import render
from video_alchemist.emojiworld.scenes import BACKGROUNDS, MAX_ACTORS, Scene

LONGEST = 5 / 3  # a frame's longer side is shrunk to this times `detector_size`
FRAMES_OF_A_CLIP = 2
MIN_AREA = 0.005  # of the frame; less is not worth finding
TWIN_SHARE = 0.08  # clips with two of a kind: what a single word then names is left open, and the detector must show it
OTHER_NAME_SHARE = 0.2  # asked for as "animal" where the caption says "fox", or the other way round
UNASKED_SHARE = 0.1
INVENTED_SHARE = 0.08  # words that nobody knows name what nothing else names
MAX_ABSENT = 3
CENTRE = 0.3  # of a box's side: places so near to its centre speak for it
LOSS_WEIGHTS = {"words": 2.0, "distance": 5.0, "overlap": 2.0}
SEED = 50

Question = tuple[str, tuple[int, ...]]  # a word, and the actors it names


@dataclass(frozen=True)
class Targets:
    """boxes (B, A, 4); tokens (B, A, S) 1 where a token is of a word that names the actor; seen (B, A) bool."""

    boxes: Tensor
    tokens: Tensor
    seen: Tensor


# ------------------------------------------------------------------------------------------------------------------
# Questions


def twin(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with its second actor made another one of the first one's concept, where there is another."""
    identities = detector_assets().identities
    first = identities[scene.actors[0].identity]
    others = [i for i in identities if i.concept == first.concept and i.split == "train" and i.index != first.index]
    if len(scene.actors) < 2 or not others:
        return scene
    chosen = others[rng.integers(len(others))]
    second = replace(scene.actors[1], identity=chosen.index, word=scene.actors[0].word)
    return replace(scene, actors=(scene.actors[0], second, *scene.actors[2:]))


def ask(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """What to look for in a scene: words of its actors and words of nothing in it, shuffled."""
    known = [detector_assets().identities[actor.identity] for actor in scene.actors]
    names = [{identity.concept, identity.broader} for identity in known]
    words = []
    for actor, identity in zip(scene.actors, known, strict=True):
        if len(known) > 1 and rng.random() < UNASKED_SHARE:
            continue
        other = identity.concept if actor.word == identity.broader else identity.broader
        words.append(other if rng.random() < OTHER_NAME_SHARE else actor.word)
    pool = [*rng.choice(concepts(), MAX_ABSENT), rng.choice(broader_words()), rng.choice(list(BACKGROUNDS))]
    absent = [str(word) for word in pool if not any(word in own for own in names)]
    words += [str(word) for word in rng.permutation(absent)[: rng.integers(MAX_ABSENT + 1)]]
    questions = [
        (word, tuple(i for i, own in enumerate(names) if word in own)) for word in dict.fromkeys(words or absent[:1])
    ]
    if rng.random() < INVENTED_SHARE and questions[0][1]:
        questions[0] = ("".join(rng.choice(list("abcdefghiklmnoprstuvw"), rng.integers(3, 8))), questions[0][1])
    return [questions[i] for i in rng.permutation(len(questions))]


def prompt(words: list[str]) -> tuple[str, list[tuple[int, int]]]:
    """Words as Grounding DINO reads them, "fox. robot.", and the characters of each."""
    spans, start = [], 0
    for word in words:
        spans.append((start, start + len(word)))
        start += len(word) + 2
    return ". ".join(words) + ".", spans


def token_targets(tokenizer: BertTokenizer, questions: list[list[Question]]) -> tuple[dict[str, Tensor], Tensor]:
    """The prompts' tensors, and (B, A, S): which tokens name which actor."""
    prompts = [prompt([word for word, _ in asked]) for asked in questions]
    inputs = tokenizer(
        [text for text, _ in prompts], return_tensors="pt", padding=True, return_offsets_mapping=True
    )
    offsets = inputs.pop("offset_mapping")  # (B, S, 2)
    tokens = torch.zeros(len(questions), MAX_ACTORS, offsets.shape[1])
    for b, (asked, (_, spans)) in enumerate(zip(questions, prompts, strict=True)):
        for (_, actors), (start, end) in zip(asked, spans, strict=True):
            inside = (offsets[b, :, 0] >= start) & (offsets[b, :, 1] <= end) & (offsets[b, :, 1] > offsets[b, :, 0])
            for actor in actors:
                tokens[b, actor, inside] = 1
    return dict(inputs), tokens


def question_batch(
    tokenizer: BertTokenizer, seed: int, step: int, scale: CurationScale, device: str
) -> tuple[dict[str, Tensor], Targets, list[list[Question]]]:
    """The network's inputs for frames of random clips, with what it should answer, and what was asked."""
    generator, batch = rng_of(seed, step), scale.detector_batch
    clips = batch // FRAMES_OF_A_CLIP
    rng = np.random.default_rng((seed, step, 7))
    scenes = [
        twin(scene, rng) if rng.random() < TWIN_SHARE else scene
        for scene in vocabulary.detector_scenes(seed, step * clips, clips)
    ]
    times = torch.cat([random_times(seed + i, step, clips) for i in range(FRAMES_OF_A_CLIP)], dim=1)
    height, width = random_size(generator)
    rendered = render(scenes, detector_assets(), times, (height, width), device)
    frames = compress(rendered.video.flatten(0, 1).float() / 255, generator)
    shrink = min(scale.detector_size / height, LONGEST * scale.detector_size / width)
    size = (round(height * shrink), round(width * shrink))
    frames = F.interpolate(frames, size=size, mode="bilinear", antialias=True).clamp(0, 1)
    seen = (rendered.masks.float().mean(dim=(-1, -2)) >= MIN_AREA).transpose(1, 2).flatten(0, 1)
    corners = rendered.boxes.transpose(1, 2).flatten(0, 1) / rendered.boxes.new_tensor([width, height, width, height])
    corners = torch.nan_to_num(corners)
    boxes = torch.cat([(corners[..., :2] + corners[..., 2:]) / 2, corners[..., 2:] - corners[..., :2]], dim=-1)
    questions = [ask(scene, rng) for scene in scenes for _ in range(FRAMES_OF_A_CLIP)]
    inputs, tokens = token_targets(tokenizer, questions)
    tokens = tokens.to(device)
    inputs = {name: value.to(device) for name, value in inputs.items()} | {"pixel_values": normalise(frames)}
    return inputs, Targets(boxes, tokens, seen & tokens.any(dim=-1)), questions


# ------------------------------------------------------------------------------------------------------------------
# Loss


def corners_of(boxes: Tensor) -> Tensor:
    return torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], dim=-1)


def generalised_iou(first: Tensor, second: Tensor) -> Tensor:
    """Of boxes (..., 4) that broadcast: (...) in [-1, 1], below zero the further apart."""
    a, b = corners_of(first), corners_of(second)
    both = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(dim=-1)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(dim=-1)
    union = first[..., 2:].prod(dim=-1) + second[..., 2:].prod(dim=-1) - both
    return both / union.clamp(min=1e-6) - (hull - union) / hull.clamp(min=1e-6)


def match(cost: Tensor) -> Tensor:
    """(B, Q, A) => the actor of each query, -1 for none (B, Q): the cheapest pair first, each used once.

    With three actors at most that is as good as the best assignment, and needs no solver.
    """
    cost, owner = cost.clone(), torch.full(cost.shape[:2], -1, device=cost.device)
    rows, actors = torch.arange(len(cost), device=cost.device), cost.shape[2]
    for _ in range(actors):
        lowest, place = cost.flatten(1).min(dim=1)
        query, actor = place // actors, place % actors
        free = lowest.isfinite()
        owner[rows[free], query[free]] = actor[free]
        cost[rows, query] = torch.inf
        cost[rows, :, actor] = torch.inf
    return owner


def focal(logits: Tensor, wanted: Tensor, known: Tensor) -> Tensor:
    """Sum over the `known` tokens, hard ones weighing more."""
    logits = logits.masked_fill(~known, 0.0)
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    wrong = torch.where(wanted > 0.5, 1 - logits.sigmoid(), logits.sigmoid())
    return (entropy * wrong.square() * known).sum()


def answer_loss(logits: Tensor, boxes: Tensor, owner: Tensor, targets: Targets, known: Tensor) -> Tensor:
    """Logits (B, Q, S) and boxes (B, Q, 4) of queries that speak for the actors in `owner` (B, Q), -1 for nothing."""
    named = owner >= 0
    actor = owner.clamp(min=0)[..., None]
    wanted = targets.tokens.gather(1, actor.expand(-1, -1, targets.tokens.shape[-1])) * named[..., None]
    count = named.sum().clamp(min=1)
    words = focal(logits, wanted, known[:, None].expand_as(logits)) / wanted.sum().clamp(min=1)
    found = boxes[named]
    true = targets.boxes.gather(1, actor.expand(-1, -1, 4))[named]
    distance, overlap = (found - true).abs().sum(), (1 - generalised_iou(found, true)).sum()
    return (
        LOSS_WEIGHTS["words"] * words
        + (LOSS_WEIGHTS["distance"] * distance + LOSS_WEIGHTS["overlap"] * overlap) / count
    )


def place_owner(boxes: Tensor, places: Tensor, targets: Targets) -> Tensor:
    """The actor that each place (P, 2) of the encoder's maps speaks for, -1 for none (B, P): it is near its centre."""
    away = (places[None, :, None] - targets.boxes[:, None, :, :2]).abs() / targets.boxes[:, None, :, 2:].clamp(min=1e-3)
    far = away.amax(dim=-1).masked_fill(~targets.seen[:, None], torch.inf)  # (B, P, A)
    nearest, owner = far.min(dim=-1)
    return torch.where((nearest < CENTRE) & boxes.isfinite().all(dim=-1), owner, -1)


def map_places(height: int, width: int, strides: tuple[int, ...] = (8, 16, 32)) -> Tensor:
    """Centres of all places of the encoder's maps, finest first: (P, 2) x, y as shares of the frame."""
    parts = []
    for stride in strides:
        rows, columns = -(-height // stride), -(-width // stride)
        y, x = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
        parts.append(torch.stack([x, y], dim=-1).flatten(0, 1))
    return torch.cat(parts)


def detector_loss(model: GroundingDinoForObjectDetection, inputs: dict[str, Tensor], targets: Targets) -> Tensor:
    """Of the decoder's layers with one query an actor, and of the encoder's proposals with many places an actor."""
    outputs = model.model(**inputs)
    known, text = inputs["attention_mask"].bool(), outputs.encoder_last_hidden_state_text
    length = known.shape[1]
    total = torch.zeros((), device=known.device)
    reference = outputs.init_reference_points
    for layer, hidden in enumerate(outputs.intermediate_hidden_states.unbind(dim=1)):
        logits = model.class_embed[layer](hidden, text, known)[..., :length]
        boxes = (model.bbox_embed[layer](hidden) + torch.special.logit(reference, eps=1e-5)).sigmoid()
        reference = outputs.intermediate_reference_points[:, layer]
        with torch.no_grad():
            own = torch.einsum("bqs,bas->bqa", logits.masked_fill(~known[:, None], 0).sigmoid(), targets.tokens)
            own = own / targets.tokens.sum(dim=-1).clamp(min=1)[:, None]
            pairs = boxes[:, :, None], targets.boxes[:, None]
            cost = 5 * (pairs[0] - pairs[1]).abs().sum(dim=-1) - 2 * generalised_iou(*pairs) - 2 * own
            owner = match(cost.masked_fill(~targets.seen[:, None], torch.inf))
        total = total + answer_loss(logits, boxes, owner, targets, known)
    proposed = outputs.enc_outputs_coord_logits
    places = map_places(*inputs["pixel_values"].shape[-2:]).to(proposed.device)
    owner = place_owner(proposed, places, targets)
    logits = outputs.enc_outputs_class[..., :length]
    return total + answer_loss(logits, proposed.sigmoid(), owner, targets, known)


# ------------------------------------------------------------------------------------------------------------------
# Network


def build(scale: CurationScale, tokenizer: BertTokenizer) -> GroundingDinoForObjectDetection:
    shape = scale.detector
    config = GroundingDinoConfig(
        backbone_config=vocabulary.backbone_config(scale),
        text_config=vocabulary.text_config(scale, len(tokenizer)),
        d_model=shape["d_model"],
        num_queries=shape["num_queries"],
        num_feature_levels=3,
        encoder_layers=shape["encoder_layers"],
        decoder_layers=shape["decoder_layers"],
        encoder_attention_heads=shape["heads"],
        decoder_attention_heads=shape["heads"],
        encoder_ffn_dim=shape["ffn"],
        decoder_ffn_dim=shape["ffn"],
        max_text_len=vocabulary.MAX_TEXT_LENGTH,
        dropout=0.0,
        fusion_droppath=0.0,
    )
    model = GroundingDinoForObjectDetection(config)
    model.model.unfreeze_backbone()  # transformers' class freezes ResNets
    # Logits are products of normalised vectors, too large to begin with; the decoder's own norm must stay as it is,
    # because boxes are refined from what stands before and after it.
    nn.init.constant_(model.model.encoder.layers[-1].text_enhancer_layer.layer_norm_after.weight, 0.1)
    return model


def start_from(model: GroundingDinoForObjectDetection, checkpoint: Path) -> None:
    """Loads what `vocabulary` learnt."""
    parts: dict[str, nn.Module] = {
        "backbone.": model.model.backbone.conv_encoder.model,
        "text.": model.model.text_backbone,
        "project_text.": model.model.text_projection,
    }
    with safe_open(checkpoint, "pt") as file:
        for name, module in parts.items():
            prefix = f"model.{name}"
            keys = [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118 (not a dict)
            state = {key.removeprefix(prefix): file.get_tensor(key) for key in keys}
            module.load_state_dict({key: value for key, value in state.items() if "num_batches" not in key})


def processor(tokenizer: BertTokenizer, size: int) -> GroundingDinoProcessor:
    """What frames and words go through at run time."""
    image_processor = GroundingDinoImageProcessorPil(
        size={"shortest_edge": size, "longest_edge": int(LONGEST * size)},
        image_mean=list(vocabulary.MEAN),
        image_std=list(vocabulary.STD),
    )
    return GroundingDinoProcessor(image_processor, tokenizer)


def train(scale: CurationScale, work: Path, device: str, time_limit: float | None) -> Path:
    """Trains vocabulary, then detector, from where they stand; returns the detector's folder."""
    out = work / "detector"
    if (out / "config.json").exists():
        return out
    checkpoint = vocabulary.train(scale, work, device, time_limit)
    if checkpoint is None:
        return out
    tokenizer = vocabulary.build_tokenizer()
    torch.manual_seed(0)
    model = build(scale, tokenizer)
    start_from(model, checkpoint)
    model.to(torch.device(device))  # type: ignore[arg-type]

    def loss(step: int) -> Tensor:
        inputs, targets, _ = question_batch(tokenizer, SEED, step, scale, device)
        return detector_loss(model, inputs, targets)

    if fit("detector", model, loss, scale.detector_steps, scale.learning_rate, work, time_limit):
        model.save_pretrained(out)
        processor(tokenizer, scale.detector_size).save_pretrained(out)
    return out
