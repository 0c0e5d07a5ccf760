"""EmojiWorld as training data: rendered frames, captions and reference pictures, a pure function of (seed, index).

B clips · A actors · F frames · R reference frames (5, 50, 95 %: §3.1) · H,W pixels. Windows are affine maps (3, 3)
between halves: (-1, -1) is the top left corner of a picture, (1, 1) the bottom right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

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
CLOSE_UP = (1.05, 1.6)  # side of a close-up's window over its actor's


class References(NamedTuple):
    """Candidate reference pictures of some scenes."""

    pictures: Tensor  # (B, A, R, 4, size, size) float RGBA in [0, 1]
    valid: Tensor  # (B, A, R) bool: enough of the actor is seen
    backgrounds: Tensor  # (B, 3, size, size) float in [0, 1]
    windows: Tensor  # (B, A, R, 3, 3): picture -> the frame it was cut from


@dataclass(frozen=True)
class WorldBatch:
    """Clips with their words and candidate reference pictures.

    entity_actors: for each clip and entity, the actor it names, -1 for the background.
    """

    scenes: tuple[Scene, ...]
    times: Tensor  # (B, F) in [0, 1]
    video: Tensor  # (B, 3, F, H, W) float in [-1, 1]
    captions: tuple[str, ...]
    entities: tuple[tuple[Entity, ...], ...]
    entity_actors: tuple[tuple[int, ...], ...]
    references: References | None
    masks: Tensor  # (B, A, F, H, W) bool: what the video shows of every actor; empty without references
    windows: Tensor  # (B, 3, 3): what the video shows -> the whole frame; close-ups show a part


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
    close_ups: float = 0.0,
) -> WorldBatch:
    """Renders scenes at times (F,) or (B, F) in [0, 1]; with `reference_size` also cuts the reference pictures to train
    on. close_ups: share of scenes of which the video shows a part, around one actor."""
    assets = load_assets()
    words = [caption(scene, assets) for scene in scenes]
    times = times.expand(len(scenes), -1) if times.ndim == 1 else times
    references = None
    if reference_size is not None:
        references = render_references(scenes, assets, size, reference_size, device, FACE_SHARE)
    if references is not None and close_ups:
        double = (2 * size[0], 2 * size[1])
        rendered = render(scenes, assets, times, size=double, device=device)
        windows = close_up_windows(scenes, rendered, close_ups)
        layers = torch.cat([rendered.video.float(), 255 * rendered.masks.transpose(1, 2).float()], dim=2)
        shown = _crop(layers.flatten(0, 1), windows.repeat_interleave(times.shape[1], dim=0), size)
        frames, masks = shown.unflatten(0, times.shape).split([3, layers.shape[2] - 3], dim=2)  # (B, F, 3 | A, H, W)
        masks = masks.transpose(1, 2) > 127.5  # (B, A, F, H, W)
        # What the window cuts off is not asked for.
        seen = masks[:, :, 0].float().mean(dim=(-1, -2)) >= 2 * MIN_AREA
        references = references._replace(valid=references.valid & seen[:, :, None])
    else:
        rendered = render(scenes, assets, times, size=size, device=device, truth=references is not None)
        frames, masks, windows = rendered.video, rendered.masks, torch.eye(3, device=device).expand(len(scenes), 3, 3)
    return WorldBatch(
        scenes=tuple(scenes),
        times=times,
        video=frames.transpose(1, 2).float() / 127.5 - 1,  # (B, F, 3, H, W) => (B, 3, F, H, W)
        captions=tuple(text for text, _, _ in words),
        entities=tuple(entities for _, entities, _ in words),
        entity_actors=tuple(actors for _, _, actors in words),
        references=references,
        masks=masks,
        windows=windows,
    )


def render_references(
    scenes: Sequence[Scene],
    assets: Assets,
    size: tuple[int, int],
    reference_size: int,
    device: torch.device | str,
    face_share: float = 0.0,
) -> References:
    """Segments of every actor in the three reference frames, some of people's faces alone, and the clean background.

    Rendered at twice the clip's resolution: a segment fills the encoder's picture, while in the clip it is a part.
    """
    double = (2 * size[0], 2 * size[1])
    rendered = render(scenes, assets, torch.tensor(REFERENCE_TIMES), size=double, device=device)
    pictures, valid, windows = cut_segments(rendered, reference_size)
    faces = rendered.faces.isfinite().all(dim=-1) & valid & _drawn(scenes, valid.shape[1:], face_share).to(valid.device)
    if faces.any():
        pictures[faces], windows[faces] = cut_faces(rendered, faces, reference_size)
    background = F.interpolate(
        rendered.background.float() / 255, size=(reference_size, reference_size), mode="bilinear", antialias=True
    )
    return References(pictures, valid, background, windows)


def cut_segments(rendered: Rendered, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Square crops around visible masks, the mask as alpha: (B, A, F, 4, size, size); whether enough is seen; and the
    crops' windows (B, A, F, 3, 3)."""
    video, masks = rendered.video, rendered.masks
    num_actors, num_frames = masks.shape[1:3]
    windows = square_windows(rendered.boxes, 1.05, video.shape[-2:])
    rgb = video[:, None].expand(-1, num_actors, -1, -1, -1, -1).float() / 255
    rgba = premultiply(torch.cat([rgb, masks[:, :, :, None].float()], dim=3)).flatten(0, 2)
    crops = unpremultiply(_crop(rgba, windows.flatten(0, 2), (size, size)))
    valid = masks.float().mean(dim=(-1, -2)) >= MIN_AREA
    return crops.unflatten(0, (len(video), num_actors, num_frames)), valid, windows


def cut_faces(rendered: Rendered, chosen: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Square crops around the chosen faces (B, A, F) with what stands around them: (n, 4, size, size), and windows."""
    clip, _, frame = chosen.nonzero(as_tuple=True)
    rgb = rendered.video[clip, frame].float() / 255
    windows = square_windows(rendered.faces[chosen], 1.3, rgb.shape[-2:])
    return _crop(torch.cat([rgb, torch.ones_like(rgb[:, :1])], dim=1), windows, (size, size)), windows


def square_windows(boxes: Tensor, margin: float, size: Sequence[int]) -> Tensor:
    """Windows `margin` times as large as boxes (..., 4) x0, y0, x1, y1 in pixels of pictures of size (H, W)."""
    height, width = size
    centre = torch.nan_to_num((boxes[..., :2] + boxes[..., 2:]) / 2)
    side = torch.nan_to_num((boxes[..., 2:] - boxes[..., :2]).amax(dim=-1), nan=float(width)).clamp(min=4) * margin
    windows = torch.zeros(*side.shape, 3, 3, device=boxes.device)
    windows[..., 0, 0], windows[..., 1, 1], windows[..., 2, 2] = side / width, side / height, 1
    windows[..., 0, 2], windows[..., 1, 2] = 2 * centre[..., 0] / width - 1, 2 * centre[..., 1] / height - 1
    return windows


def close_up_windows(scenes: Sequence[Scene], rendered: Rendered, share: float) -> Tensor:
    """Square windows (B, 3, 3) inside the frame around one actor of each scene, large ones rather than small ones; the
    whole frame for all but a `share`. The same whatever batch a scene is in."""
    height, width = rendered.video.shape[-2:]
    boxes, areas = rendered.boxes[:, :, 0].cpu(), rendered.masks[:, :, 0].float().mean(dim=(-1, -2)).cpu()
    windows = torch.eye(3).repeat(len(scenes), 1, 1)
    for b, scene in enumerate(scenes):
        rng = np.random.default_rng((scene.seed, 9))
        shown, chosen, margin, *offset = rng.random(5)
        if shown >= share or not areas[b].any():
            continue
        actor = int((areas[b].cumsum(0) < chosen * areas[b].sum()).sum())
        box = boxes[b, actor]
        length = (box[2:] - box[:2]).amax().clamp(min=width / 8)
        side = (length * (CLOSE_UP[0] + (CLOSE_UP[1] - CLOSE_UP[0]) * margin)).clamp(max=min(height, width))
        centre = (box[:2] + box[2:]) / 2 + (torch.tensor(offset) - 0.5) * (side - length).clamp(min=0)
        centre = torch.maximum(torch.minimum(centre, torch.tensor([width, height]) - side / 2), side / 2)
        windows[b] = square_windows(torch.cat([centre - side / 2, centre + side / 2]), 1.0, (height, width))
    return windows.to(rendered.video.device)


def _crop(pictures: Tensor, windows: Tensor, size: tuple[int, int]) -> Tensor:
    """What windows (n, 3, 3) show of pictures (n, C, H, W): (n, C, *size)."""
    grid = F.affine_grid(windows[:, :2], [len(windows), pictures.shape[1], *size], align_corners=False)
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
