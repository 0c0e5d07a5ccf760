"""EmojiWorld as training data: rendered frames, captions and reference pictures, a pure function of (seed, index).

B clips · A actors · R reference frames (5, 50, 95 %: §3.1) · H,W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from video_alchemist.dataset.picture import premultiply, unpremultiply
from video_alchemist.emojiworld.assets import Assets, load_assets
from video_alchemist.emojiworld.captions import caption
from video_alchemist.emojiworld.render import Rendered, render
from video_alchemist.emojiworld.scenes import Scene, Split, sample_scene
from video_alchemist.records import Entity

REFERENCE_TIMES = (0.05, 0.5, 0.95)  # §3.1: "in the 5%, 50%, and 95% percentiles"
FACE_SHARE = 0.3  # of a person's pictures show the face alone: face mode (§4.1) must work too
MIN_AREA = 0.01  # of the frame; smaller segments show nothing to learn an identity from


@dataclass(frozen=True)
class WorldBatch:
    """Clips with their words and candidate reference pictures.

    entity_actors: for each clip and entity, the actor it names, -1 for the background.
    """

    scenes: tuple[Scene, ...]
    video: Tensor  # (B, 3, F, H, W) float in [-1, 1]
    captions: tuple[str, ...]
    entities: tuple[tuple[Entity, ...], ...]
    entity_actors: tuple[tuple[int, ...], ...]
    references: Tensor | None = None  # (B, A, R, 4, size, size) float RGBA in [0, 1]
    valid: Tensor | None = None  # (B, A, R) bool: enough of the actor is seen
    backgrounds: Tensor | None = None  # (B, 3, size, size) float in [0, 1]


def sample_scenes(
    seed: int, start: int, count: int, split: Split = "train", num_actors: int | None = None
) -> list[Scene]:
    """Scenes number `start` to `start + count` of the world with this seed."""
    assets = load_assets()
    return [sample_scene(np.random.default_rng((seed, start + i)), assets, split, num_actors) for i in range(count)]


def make_batch(
    scenes: Sequence[Scene],
    times: Tensor,
    size: tuple[int, int],
    reference_size: int | None = None,
    device: torch.device | str = "cpu",
) -> WorldBatch:
    """Renders scenes at times (F,) or (B, F) in [0, 1]; with `reference_size` also cuts the reference pictures to train
    on."""
    assets = load_assets()
    words = [caption(scene, assets) for scene in scenes]
    frames = render(scenes, assets, times, size=size, device=device, truth=False).video
    references = valid = backgrounds = None
    if reference_size is not None:
        references, valid, backgrounds = render_references(scenes, assets, size, reference_size, device, FACE_SHARE)
    return WorldBatch(
        scenes=tuple(scenes),
        video=frames.transpose(1, 2).float() / 127.5 - 1,  # (B, F, 3, H, W) uint8 => (B, 3, F, H, W) float
        captions=tuple(text for text, _, _ in words),
        entities=tuple(entities for _, entities, _ in words),
        entity_actors=tuple(actors for _, _, actors in words),
        references=references,
        valid=valid,
        backgrounds=backgrounds,
    )


def render_references(
    scenes: Sequence[Scene],
    assets: Assets,
    size: tuple[int, int],
    reference_size: int,
    device: torch.device | str,
    face_share: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Segments of every actor in the three reference frames, some of people's faces alone, and the clean background.

    Rendered at twice the clip's resolution: a segment fills the encoder's picture, while in the clip it is a part.
    """
    double = (2 * size[0], 2 * size[1])
    rendered = render(scenes, assets, torch.tensor(REFERENCE_TIMES), size=double, device=device)
    references, valid = cut_segments(rendered, reference_size)
    faces = rendered.faces.isfinite().all(dim=-1) & valid & _drawn(scenes, valid.shape[1:], face_share).to(valid.device)
    if faces.any():
        references[faces] = cut_faces(rendered, faces, reference_size)
    background = F.interpolate(
        rendered.background.float() / 255, size=(reference_size, reference_size), mode="bilinear", antialias=True
    )
    return references, valid, background


def cut_segments(rendered: Rendered, size: int) -> tuple[Tensor, Tensor]:
    """Square crops around visible masks, the mask as alpha: (B, A, F, 4, size, size); and whether enough is seen."""
    video, masks, boxes = rendered.video, rendered.masks, rendered.boxes
    num_actors, num_frames = masks.shape[1:3]
    rgb = video[:, None].expand(-1, num_actors, -1, -1, -1, -1).float() / 255
    rgba = premultiply(torch.cat([rgb, masks[:, :, :, None].float()], dim=3)).flatten(0, 2)
    crops = unpremultiply(_crop(rgba, boxes.flatten(0, 2), 1.05, size))
    valid = masks.float().mean(dim=(-1, -2)) >= MIN_AREA
    return crops.unflatten(0, (len(video), num_actors, num_frames)), valid


def cut_faces(rendered: Rendered, chosen: Tensor, size: int) -> Tensor:
    """Square crops around the chosen faces (B, A, F) with what stands around them: (n, 4, size, size)."""
    clip, _, frame = chosen.nonzero(as_tuple=True)
    rgb = rendered.video[clip, frame].float() / 255
    return _crop(torch.cat([rgb, torch.ones_like(rgb[:, :1])], dim=1), rendered.faces[chosen], 1.3, size)


def _crop(pictures: Tensor, boxes: Tensor, margin: float, size: int) -> Tensor:
    """Squares `margin` times as large as boxes (n, 4) x0, y0, x1, y1 of pictures (n, C, H, W): (n, C, size, size)."""
    height, width = pictures.shape[-2:]
    centre = torch.nan_to_num((boxes[:, :2] + boxes[:, 2:]) / 2)
    side = torch.nan_to_num((boxes[:, 2:] - boxes[:, :2]).amax(dim=1), nan=float(width)).clamp(min=4) * margin
    theta = torch.zeros(len(boxes), 2, 3, device=boxes.device)
    theta[:, 0, 0], theta[:, 1, 1] = side / width, side / height
    theta[:, 0, 2], theta[:, 1, 2] = 2 * centre[:, 0] / width - 1, 2 * centre[:, 1] / height - 1
    grid = F.affine_grid(theta, [len(boxes), pictures.shape[1], size, size], align_corners=False)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _drawn(scenes: Sequence[Scene], shape: Sequence[int], share: float) -> Tensor:
    """True for about `share` of the places of every scene, (B, *shape); the same whatever batch a scene is in."""
    return torch.from_numpy(
        np.stack([np.random.default_rng((scene.seed, 7)).random(tuple(shape)) < share for scene in scenes])
    )


def clip_times(num_frames: int) -> Tensor:
    """(F,) from 0 to 1."""
    return torch.linspace(0, 1, num_frames)


def random_times(seed: int, start: int, count: int) -> Tensor:
    """One moment of each of `count` clips, (B, 1): clips of one frame are pictures."""
    rng = np.random.default_rng((seed, start, 1))
    return torch.from_numpy(rng.random((count, 1))).float()
