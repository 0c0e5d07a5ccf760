"""The shipped image encoder: DINOv2's class, self-supervised on EmojiWorld's segments and backgrounds, then frozen.

Two views of one picture must agree as a whole (contrastive) and every patch must tell its pixels, masked ones from
their surroundings (masked autoencoding): patch tokens keep "localized properties" (App. B.1), which identity needs.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from transformers import Dinov2Config, Dinov2Model

from video_alchemist.dataset.augmentation import Augmentation, augment
from video_alchemist.dataset.picture import paste_on
from video_alchemist.emojiworld.assets import load_assets
from video_alchemist.emojiworld.recipes.fit import fit, rng_of
from video_alchemist.emojiworld.recipes.scale import Scale
from video_alchemist.emojiworld.recipes.world import render_references, sample_scenes
from video_alchemist.model.place import place_waves

SCENES = 24
MASK_SHARE = 0.4
TEMPERATURE = 0.1
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
# EmojiWorld's pictures are small: Table 4's 112 px floor is meant for photographs.
SMALL_AUGMENTATION = Augmentation(min_side=28, max_kernel=1 / 16)


def world_views(seed: int, step: int, size: int, reference_size: int, device: str) -> tuple[Tensor, Tensor]:
    """Two augmented views of every segment and background of some scenes: 2 x (M, 3, size, size) in [0, 1]."""
    scenes = sample_scenes(seed, step * SCENES, SCENES)
    drawn = render_references(scenes, load_assets(), (size, size), reference_size, device)
    references, valid, backgrounds = drawn.pictures, drawn.valid, drawn.backgrounds
    first, second = references[:, :, 0], references[:, :, 2]
    both = valid[:, :, 0] & valid[:, :, 2]
    opaque = torch.cat([backgrounds, torch.ones_like(backgrounds[:, :1])], dim=1)
    generator = rng_of(6, step)
    white = torch.ones(3, 1, 1, device=device)
    views = [
        paste_on(augment(torch.cat([frames[both], opaque]), generator, SMALL_AUGMENTATION), white)
        for frames in (first, second)
    ]
    return views[0], views[1]


@torch.no_grad()
def start_well(encoder: Dinov2Model, pixels: nn.Linear, pictures: Tensor) -> None:
    """The patch embedding starts as the pictures' principal components, `pixels` as the way back, places as waves.

    From a random start the tokens are a blur for thousands of steps and do not tell where in the picture they are; no
    generator can draw what they do not tell.
    """
    convolution = encoder.embeddings.patch_embeddings.projection
    patch, width = convolution.kernel_size[0], convolution.out_channels
    patches = rearrange(pictures * 2 - 1, "b c (h p) (w q) -> (b h w) (c p q)", p=patch, q=patch)
    mean = patches.mean(dim=0)
    components = torch.linalg.svd(patches - mean, full_matrices=False).Vh[:width]  # (n, 3 * patch ** 2)
    # Whitened a little: fine detail has small components, and the layer norm at the end treats all channels alike.
    spread = ((patches - mean) @ components.T).std(dim=0).clamp(min=0.02).sqrt()
    assert convolution.bias is not None
    convolution.weight[: len(components)] = (components / spread[:, None]).view(-1, 3, patch, patch)
    convolution.bias[: len(components)] = -(components / spread[:, None]) @ mean
    pixels.weight[:, : len(components)] = components.T * spread
    pixels.bias.copy_(mean)
    side, places = pictures.shape[-1] // patch, encoder.embeddings.position_embeddings
    assert places is not None
    places[:, 1:] = place_waves(side, side, width).flatten(0, 1)


def train(scale: Scale, work: Path, device: str, time_limit: float | None) -> Path:
    """Trains from where it stands; returns the encoder's folder."""
    out = work / "image_encoder"
    if (out / "config.json").exists():
        return out
    torch.manual_seed(0)
    config = Dinov2Config(image_size=scale.image_encoder_size, mlp_ratio=4, use_mask_token=True, **scale.image_encoder)
    encoder, width, patch = Dinov2Model(config), config.hidden_size, scale.image_encoder["patch_size"]
    pixels = nn.Linear(width, 3 * patch**2)
    project = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 64))
    modules = nn.ModuleList([encoder, pixels, project]).to(device)
    start_well(encoder, pixels, world_views(5, 0, scale.size[0], scale.image_encoder_size, device)[0])

    def loss(step: int) -> Tensor:
        views = torch.cat(world_views(7, step, scale.size[0], scale.image_encoder_size, device)) * 2 - 1
        num_patches = (scale.image_encoder_size // patch) ** 2
        masked = (torch.rand(len(views), num_patches, generator=rng_of(8, step)) < MASK_SHARE).to(device)
        # The contrast sees whole pictures, half of the batch's views are shown with holes for the other task.
        masked &= (torch.arange(len(views), device=device) % 2 == 0)[:, None]
        tokens = encoder(views, bool_masked_pos=masked).last_hidden_state[:, 1:]
        target = rearrange(views, "b c (h p) (w q) -> b (h w) (c p q)", p=patch, q=patch)
        reconstruction = F.l1_loss(pixels(tokens), target)
        one, two = F.normalize(project(tokens.mean(dim=1)), dim=-1).chunk(2)
        logits = one @ two.T / TEMPERATURE
        labels = torch.arange(len(one), device=device)
        contrast = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
        return reconstruction + 0.1 * contrast

    @torch.no_grad()
    def sheet() -> Tensor:
        view = world_views(9, 0, scale.size[0], scale.image_encoder_size, device)[0][:12]
        shown = pixels(encoder(view * 2 - 1).last_hidden_state[:, 1:]) / 2 + 0.5
        side = scale.image_encoder_size // patch
        decoded = rearrange(shown, "b (h w) (c p q) -> b c (h p) (w q)", h=side, c=3, p=patch)
        return torch.stack([view, decoded]).cpu()

    if fit("image_encoder", modules, loss, scale.image_steps, 1e-3, work, time_limit, sheet):
        encoder.save_pretrained(out)
    return out
