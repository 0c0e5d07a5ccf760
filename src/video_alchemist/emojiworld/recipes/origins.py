"""Which part of which reference every latent of a clip shows: what teaches attention where to look (localization).

B clips · A actors · F frames · R reference frames · f, h, w latent · T = f * h * w · M reference pictures
C cells of a latent
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from video_alchemist.emojiworld.recipes.world import REFERENCE_TIMES, WorldBatch
from video_alchemist.emojiworld.render import pixel_centres, positions

SPREAD = 0.6  # of what a reference token stands for beyond its own patch, in patches
PICTURES = 64  # at a time: bounds the memory
# Of a latent, along either side. With one place for all of it little more than its mean colour could be copied: what
# attention brings from around the place is averaged before anything is made of it.
CELLS = 2


def origins(batch: WorldBatch, shown: Tensor, latent: tuple[int, int, int]) -> Tensor:
    """Where in their references (x, y in [0, 1]) latents (f, h, w) come from, and their share that does: (M, T, 3).

    The M pictures are the segments that `shown` (B, A, R) bool chooses, then the backgrounds of all B clips.
    """
    assert batch.references is not None
    device, size = batch.masks.device, batch.masks.shape[3:]
    x, y = torch.broadcast_tensors(*pixel_centres((size[0], size[1]), device))             # 2 x (H, W)
    points = torch.stack([x, y, torch.ones_like(x)]).flatten(1)                            # (3, H * W)
    aspect = size[1] / size[0]
    frames, views = (maps.to(device) for maps in positions(batch.scenes, batch.times, aspect))
    sources, _ = positions(batch.scenes, torch.tensor(REFERENCE_TIMES).expand(len(batch.scenes), -1), aspect)
    back = torch.linalg.inv(batch.references.windows) @ sources.to(device)                 # (B, A, R, 3, 3)
    there = torch.linalg.inv(_wide(frames)) @ batch.windows[:, None, None]                 # (B, A, F, 3, 3)
    clip, actor, view = shown.nonzero(as_tuple=True)
    found = []
    for one in torch.arange(len(clip)).split(PICTURES):
        b, a, r = clip[one], actor[one], view[one]
        places = (back[b, a, r][:, None] @ there[b, a])[:, :, :2] @ points                 # (m, F, 2, H * W)
        found.append(_averaged(places.unflatten(-1, size), batch.masks[b, a], latent))
    _, middle = positions(batch.scenes, torch.full((len(batch.scenes), 1), 0.5), aspect)
    maps = torch.linalg.inv(middle.to(device)) @ views @ batch.windows[:, None]            # (B, F, 3, 3)
    places = (maps[:, :, :2] @ points).unflatten(-1, size)                                 # (B, F, 2, H, W)
    return torch.cat([*found, _averaged(places, ~batch.masks.any(dim=1), latent)])


def _wide(maps: Tensor) -> Tensor:
    """Affine maps without those that an actor seen edge-on has, which cannot be inverted."""
    flat = maps[..., :2, :2].det().abs() < 1e-4
    return torch.where(flat[..., None, None], torch.eye(3, device=maps.device), maps)


def _averaged(places: Tensor, own: Tensor, latent: tuple[int, int, int]) -> Tensor:
    """Places (m, F, 2, H, W) in halves of the picture of pixels that are its `own` (m, F, H, W) -> (m, T, 3)."""
    inside = (own & (places.abs() <= 1.02).all(dim=2))[:, :, None].float()                 # (m, F, 1, H, W)
    sums = torch.cat([places * inside, inside], dim=2)                                     # (m, F, 3, H, W)
    f, h, w = latent
    sums = F.adaptive_avg_pool2d(sums.flatten(0, 1), (h, w)).unflatten(0, own.shape[:2])
    if f > 1:  # a causal video autoencoder's first latent shows one frame, the others as many as there are left
        later = sums[:, 1:].unflatten(1, (f - 1, -1)).mean(dim=2)
        sums = torch.cat([sums[:, :1], later], dim=1)                                      # (m, f, 3, h, w)
    place = sums[:, :, :2] / sums[:, :, 2:].clamp(min=1e-4)
    return torch.cat([place / 2 + 0.5, sums[:, :, 2:]], dim=2).movedim(2, -1).flatten(1, 3)


def cell_origins(batch: WorldBatch, shown: Tensor, latent: tuple[int, int, int]) -> Tensor:
    """`origins` of every latent's quarters, row by row: (M, T, C, 3)."""
    f, h, w = latent
    return rearrange(
        origins(batch, shown, (f, CELLS * h, CELLS * w)),
        "M (f h y w x) place -> M (f h w) (y x) place", f=f, h=h, w=w, y=CELLS, x=CELLS,
    )  # fmt: skip


def shares(found: Tensor, weight: Tensor, side: int) -> Tensor:
    """Origins (B, N, T, C, 3) in pictures of side x side tokens, that count `weight` (B, N) -> (B, T, C, N * L), see
    `localization_loss`."""
    centres = (torch.arange(side, device=found.device) + 0.5) / side
    x, y, share = found.unbind(dim=-1)                                                     # (B, N, T, C) each
    across, down = (torch.exp(-0.5 * ((place[..., None] - centres) * side / SPREAD) ** 2) for place in (x, y))
    tokens = (down[..., :, None] * across[..., None, :]).flatten(-2)                       # (B, N, T, C, L)
    tokens = tokens / tokens.sum(dim=-1, keepdim=True).clamp(min=1e-6)
    tokens = tokens * (share * weight[..., None, None])[..., None]
    return tokens.movedim(1, 3).flatten(3)
