"""Curation's segmenter (§3.1): SAM's class, from the box of a subject to its mask and how good that mask is.

B frames · A actors (boxes) · H,W pixels · S the side of the square that frames are padded to · M = S / 2 of masks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import SamConfig, SamModel, SamProcessor
from transformers.models.sam.configuration_sam import SamMaskDecoderConfig, SamPromptEncoderConfig, SamVisionConfig
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from video_alchemist.emojiworld.assets import load_assets
from video_alchemist.emojiworld.recipes.curation_scale import CurationScale
from video_alchemist.emojiworld.recipes.fit import fit, rng_of
from video_alchemist.emojiworld.recipes.lossy import compress, random_size
from video_alchemist.emojiworld.recipes.world import random_times, sample_scenes
from video_alchemist.emojiworld.render import boxes, render

PATCH = 8
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FRAMES_OF_A_CLIP = 2
MIN_AREA = 0.005  # of the frame
JITTER = 0.12  # of a box's side: detectors are not exact
SEED = 30


def build(scale: CurationScale) -> SamModel:
    width = scale.segmenter_width
    image: dict[str, Any] = {"image_size": scale.segmenter_size, "patch_size": PATCH}
    layers = scale.segmenter["num_hidden_layers"]
    vision = SamVisionConfig(
        **scale.segmenter,
        **image,
        output_channels=width,
        num_pos_feats=width // 2,
        use_rel_pos=False,
        window_size=0,
        global_attn_indexes=list(range(layers)),
        initializer_range=0.02,
    )
    prompt = SamPromptEncoderConfig(hidden_size=width, mask_input_channels=4, **image)
    decoder = SamMaskDecoderConfig(hidden_size=width, mlp_dim=2 * width, num_attention_heads=4, iou_head_hidden_dim=64)
    model = SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder))
    # Places are told by random waves. Those that transformers draws are for weights to be loaded over them: so short
    # that neighbouring pixels have nothing in common.
    torch.nn.init.normal_(model.shared_image_embedding.positional_embedding)
    return model


def processor(size: int) -> SamProcessor:
    """What frames go through at run time."""
    square = {"height": size, "width": size}
    return SamProcessor(
        SamImageProcessorPil(
            size={"longest_edge": size},
            pad_size=square,
            mask_size={"longest_edge": size // 2},
            mask_pad_size={"height": size // 2, "width": size // 2},
            image_mean=list(MEAN),
            image_std=list(STD),
        )
    )


def frame_batch(seed: int, step: int, batch: int, size: int, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Frames (B, 3, S, S) in [0, 1], padded with mean grey; boxes (B, A, 4) in the square's pixels, off by a little;
    masks (B, A, M, M) in [0, 1]; whether enough of an actor is seen (B, A)."""
    generator = rng_of(seed, step)
    height, width = random_size(generator)
    clips = batch // FRAMES_OF_A_CLIP
    times = torch.cat([random_times(seed + i, step, clips) for i in range(FRAMES_OF_A_CLIP)], dim=1)
    rendered = render(sample_scenes(seed, step * clips, clips), load_assets(), times, (height, width), device)
    frames = compress(rendered.video.flatten(0, 1).float() / 255, generator)
    masks = rendered.masks.transpose(1, 2).flatten(0, 1)  # (B, A, H, W)
    seen = masks.float().mean(dim=(-1, -2)) >= MIN_AREA
    found = torch.nan_to_num(boxes(masks)) * (size / width)
    sides = (found[..., 2:] - found[..., :2]).repeat(1, 1, 2)
    shifts = (2 * torch.rand(found.shape, generator=generator) - 1).to(found) * JITTER * sides
    resized = (round(height * size / width), size)
    frames = F.interpolate(frames, size=resized, mode="bilinear", antialias=True).clamp(0, 1)
    squares = frames.new_tensor(MEAN).view(3, 1, 1).repeat(len(frames), 1, size, size)
    squares[..., : resized[0], :] = frames
    below = F.pad(masks.float(), [0, 0, 0, width - height])
    small = F.interpolate(below, size=(size // 2, size // 2), mode="bilinear", antialias=True)
    return squares, (found + shifts).clamp(0, size), small, seen


def normalise(frames: Tensor) -> Tensor:
    mean, std = (torch.tensor(values, device=frames.device).view(3, 1, 1) for values in (MEAN, STD))
    return (frames - mean) / std


def mask_loss(logits: Tensor, quality: Tensor, masks: Tensor) -> Tensor:
    """Logits and masks (n, M, M), predicted IoU (n,): cross-entropy and overlap of masks, error of their quality."""
    probabilities = logits.sigmoid()
    both = (probabilities * masks).sum(dim=(-1, -2))
    dice = 1 - (2 * both + 1) / (probabilities.sum(dim=(-1, -2)) + masks.sum(dim=(-1, -2)) + 1)
    entropy = F.binary_cross_entropy_with_logits(logits, masks)
    return 2 * entropy + dice.mean() + F.mse_loss(quality, mask_iou(logits > 0, masks > 0.5))


def mask_iou(first: Tensor, second: Tensor) -> Tensor:
    """Of boolean masks (..., H, W)."""
    both, either = (first & second).sum(dim=(-1, -2)), (first | second).sum(dim=(-1, -2))
    return both / either.clamp(min=1)


def train(scale: CurationScale, work: Path, device: str, time_limit: float | None) -> Path:
    """Trains from where it stands; returns the segmenter's folder."""
    out, size = work / "segmenter", scale.segmenter_size
    if (out / "config.json").exists():
        return out
    torch.manual_seed(0)
    model = build(scale).to(torch.device(device))  # type: ignore[arg-type]

    def loss(step: int) -> Tensor:
        frames, found, masks, seen = frame_batch(SEED, step, scale.segmenter_batch, size, device)
        answer = model(pixel_values=normalise(frames), input_boxes=found, multimask_output=False)
        return mask_loss(answer.pred_masks[:, :, 0][seen], answer.iou_scores[..., 0][seen], masks[seen])

    @torch.no_grad()
    def sheet() -> Tensor:
        frames, found, masks, _ = frame_batch(SEED + 1, 0, 12, size, device)
        answer = model(pixel_values=normalise(frames), input_boxes=found[:, :1], multimask_output=False)
        shown = [
            F.interpolate(mask[:, None].float(), size=(size, size)).expand(-1, 3, -1, -1)
            for mask in (masks[:, 0], answer.pred_masks[:, 0, 0] > 0)
        ]
        return torch.stack([frames, frames * shown[0], frames * shown[1]]).cpu()

    if fit("segmenter", model, loss, scale.segmenter_steps, scale.learning_rate, work, time_limit, sheet):
        model.save_pretrained(out)
        processor(size).save_pretrained(out)
    return out
