"""EmojiWorld's renderer: batched affine sampling and compositing of packed sprites, the same on CPU and GPU.

B clips · A actors (MAX_ACTORS slots) · F frames · H,W pixels. Masks, boxes, faces and flow are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from video_alchemist.emojiworld.assets import HUES, Assets, recolour, tint
from video_alchemist.emojiworld.backgrounds import OVERSCAN, backgrounds
from video_alchemist.emojiworld.motion import affine, camera, shadow
from video_alchemist.emojiworld.scenes import MAX_ACTORS, Scene
from video_alchemist.emojiworld.undesirable import overlay, overlay_truth

Device = torch.device | str
CHUNK = 32  # clips at a time: bounds the memory
SMALL_FRAME = 80  # pixels; below, sprites are halved first, or sampling would skip every other pixel
LIGHT = {  # (places, actors): actors stay readable at night
    "day": ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
    "night": ((0.38, 0.42, 0.68), (0.68, 0.70, 0.88)),
    "sunset": ((1.05, 0.78, 0.62), (1.03, 0.88, 0.78)),
}
DARK_ALREADY = ("night sky", "moon")
LAMPLIT = ((0.72, 0.66, 0.62), (0.88, 0.84, 0.80))  # a room at night
AIRBORNE = ("night sky", "sea")  # no ground to cast a shadow on
ROOMS = ("kitchen", "bedroom")
SHADOW = 0.35  # of the light is gone in a shadow's middle


@dataclass(frozen=True)
class Rendered:
    """video and background (B, F, 3, H, W), (B, 3, H, W) uint8; the rest empty without truth.

    masks (B, A, F, H, W) bool: what is seen after occlusion. boxes, faces (B, A, F, 4) pixels x0, y0, x1, y1, NaN where
    nothing is seen. flow (B, F - 1, 2, H, W) pixels from a frame to the next, of the front-most thing.
    """

    video: Tensor
    background: Tensor
    masks: Tensor
    boxes: Tensor
    faces: Tensor
    flow: Tensor


def render(
    scenes: Sequence[Scene],
    assets: Assets,
    times: Tensor,
    size: tuple[int, int] = (64, 64),
    device: Device = "cpu",
    truth: bool = True,
) -> Rendered:
    """Clips at times (F,) or (B, F) in [0, 1] of size (height, width); without `truth` masks, ... are empty."""
    times = times.expand(len(scenes), -1) if times.ndim == 1 else times
    if len(times) != len(scenes):
        raise ValueError(f"times are of {len(times)} clips, scenes of {len(scenes)}: expected times (F,) or (B, F)")
    # Most actors first: the clips of a chunk that have a second or third actor are then its first ones, a view.
    order = sorted(range(len(scenes)), key=lambda i: -len(scenes[i].actors))
    scenes, times = [scenes[i] for i in order], times.cpu()[order]
    parts = [
        _render_chunk(scenes[i : i + CHUNK], assets, times[i : i + CHUNK], size, device, truth)
        for i in range(0, len(scenes), CHUNK)
    ]
    back = torch.tensor(order).argsort()
    names = ("video", "background", "masks", "boxes", "faces", "flow")
    joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    return Rendered(**{name: value[back.to(value.device)] for name, value in joined.items()})


def _render_chunk(
    scenes: Sequence[Scene], assets: Assets, times: Tensor, size: tuple[int, int], device: Device, truth: bool
) -> Rendered:
    """Some clips, those with most actors first."""
    height, width = size
    num_clips, num_frames = times.shape
    moments = times.double().numpy()
    maps = torch.from_numpy(_maps(scenes, moments, width / height)).float().to(device)  # (B, A, F, 2, 3)
    view = torch.from_numpy(_views(scenes, moments)).float().to(device)  # (B, F, 2, 3) frame -> place
    order = [np.argsort([a.depth for a in s.actors]).tolist() for s in scenes]

    place_light, actor_light = _lights(scenes, device)
    place = backgrounds(scenes, device) * place_light
    frame = _sample(place, view, size, "border")  # (B, 3, F, H, W)
    middle = torch.from_numpy(_views(scenes, np.full((num_clips, 1), 0.5))).float().to(device)
    clean = _sample(place, middle, size, "border")[:, :, 0]
    sprites = _sprites(scenes, assets, device, height)  # (B, A, 4, s, s) premultiplied
    sprites[:, :, :3] *= actor_light[:, None]
    frame *= _shade(scenes, moments, size, device)[:, None]
    bends = torch.tensor([[_attribute(s, i, "bend") for i in range(MAX_ACTORS)] for s in scenes], device=device)

    alphas = frame.new_zeros(num_clips, MAX_ACTORS, num_frames, height, width) if truth else None
    for slot in range(MAX_ACTORS):
        actor = torch.tensor([o[slot] for o in order if slot < len(o)], dtype=torch.long, device=device)
        n = len(actor)
        if n == 0:
            break
        rows = torch.arange(n, device=device)
        layer = _sample(sprites[rows, actor], _invert(maps[rows, actor]), size, "zeros", bends[rows, actor])
        frame[:n].mul_(1 - layer[:, 3:]).add_(layer[:, :3])
        if alphas is not None:
            alphas[:n] *= 1 - layer[:, None, 3]
            alphas[rows, actor] = layer[:, 3]
    video = frame.transpose(1, 2)  # (B, F, 3, H, W)
    if any(scene.undesirable for scene in scenes):
        video = torch.stack([overlay(clip, scene) for clip, scene in zip(video, scenes, strict=True)])
    video8, clean8 = _bytes(video), _bytes(clean)
    if alphas is None:
        nothing = torch.empty(num_clips, 0)
        return Rendered(video8, clean8, nothing, nothing, nothing, nothing)
    masks = alphas > 0.5
    faces, flow = _faces(scenes, assets, maps, masks, size), _flow(masks, maps, view, size)
    for b, scene in enumerate(scenes):
        masks[b], faces[b], flow[b] = overlay_truth(masks[b], faces[b], flow[b], scene)
    return Rendered(video8, clean8, masks, boxes(masks), faces, flow)


# ------------------------------------------------------------------------------------------------------------------
# Maps


def _maps(scenes: Sequence[Scene], moments: np.ndarray, aspect: float) -> np.ndarray:
    """Sprite -> frame of every actor, (B, A, F, 2, 3); the identity in empty slots."""
    maps = np.tile(np.eye(2, 3), (len(scenes), MAX_ACTORS, moments.shape[1], 1, 1))
    for b, scene in enumerate(scenes):
        u = _own_moments(scene, moments[b])
        for a in range(len(scene.actors)):
            maps[b, a] = affine(scene, a, u, aspect)
            if u is not moments[b]:
                maps[b, a] = _refilm(maps[b, a], scene, moments[b])
    return maps


def positions(scenes: Sequence[Scene], times: Tensor, aspect: float = 1.0) -> tuple[Tensor, Tensor]:
    """Where things are at times (B, F), in halves of width and height: maps (B, A, F, 3, 3) of every actor's sprite ->
    frame, the identity in empty slots, and (B, F, 3, 3) of frame -> place, both float32 on the CPU."""
    moments = times.cpu().double().numpy()
    maps = (_maps(scenes, moments, aspect), _views(scenes, moments))
    last_row = np.array([0.0, 0.0, 1.0])
    actors, views = (np.concatenate([m, np.broadcast_to(last_row, (*m.shape[:-2], 1, 3))], axis=-2) for m in maps)
    return torch.from_numpy(actors).float(), torch.from_numpy(views).float()


def _shade(scenes: Sequence[Scene], moments: np.ndarray, size: tuple[int, int], device: Device) -> Tensor:
    """The light that the actors' shadows leave on the ground, (B, F, H, W) in [1 - SHADOW, 1]."""
    height, width = size
    ellipses = np.zeros((len(scenes), max(len(scene.actors) for scene in scenes), moments.shape[1], 4))
    ellipses[..., :2], ellipses[..., 2:] = -9.0, 1e-3  # outside the frame
    for b, scene in enumerate(scenes):
        for a, actor in enumerate(scene.actors):
            if scene.background.name not in AIRBORNE and actor.action != "hides behind":
                ellipses[b, a] = shadow(scene, a, _own_moments(scene, moments[b]), width / height)
    x, y, across, down = torch.from_numpy(ellipses).float().to(device)[..., None].unbind(dim=-2)  # (B, A, F, 1)
    columns, rows = pixel_centres(size, device)
    # A soft ellipse is a product of a row's and a column's profile.
    profile_x = torch.exp(-(((columns - x) / across) ** 2))[..., None, :]  # (B, A, F, 1, W)
    profile_y = torch.exp(-(((rows[:, 0] - y) / down) ** 2))[..., None]  # (B, A, F, H, 1)
    return 1 - SHADOW * (profile_y * profile_x).amax(dim=1)


def _own_moments(scene: Scene, moments: np.ndarray) -> np.ndarray:
    """The times at which actors are drawn: nothing moves by itself in a still picture or on a desk."""
    still = scene.undesirable in ("still_foreground", "slight_motion")
    return np.full_like(moments, 0.5) if still else moments


def _refilm(maps: np.ndarray, scene: Scene, moments: np.ndarray) -> np.ndarray:
    """Frozen actors (camera at its middle) under the camera's real moments."""
    pan_x, pan_y, zoom = camera(scene, moments)
    still_x, still_y, _ = camera(scene, np.full_like(moments, 0.5))
    moved = maps.copy()
    moved[:, 0, 2] += pan_x - still_x
    moved[:, 1, 2] += pan_y - still_y
    return moved * zoom[:, None, None]


def _views(scenes: Sequence[Scene], moments: np.ndarray) -> np.ndarray:
    """Frame halves -> place picture's halves, (B, F, 2, 3)."""
    views = np.zeros((len(scenes), moments.shape[1], 2, 3))
    for b, scene in enumerate(scenes):
        pan_x, pan_y, zoom = camera(scene, moments[b])
        views[b, :, 0, 0] = views[b, :, 1, 1] = 1 / zoom / OVERSCAN
        views[b, :, 0, 2], views[b, :, 1, 2] = -pan_x / OVERSCAN, -pan_y / OVERSCAN
    return views


def _invert(maps: Tensor) -> Tensor:
    """Affine maps (..., 2, 3) backwards. A sprite seen edge-on has no width: it keeps a sliver."""
    linear, shift = maps[..., :2], maps[..., 2:]
    determinant = linear[..., 0, 0] * linear[..., 1, 1] - linear[..., 0, 1] * linear[..., 1, 0]
    determinant = torch.where(determinant.abs() < 1e-4, torch.full_like(determinant, 1e-4), determinant)
    adjugate = torch.stack(
        [linear[..., 1, 1], -linear[..., 0, 1], -linear[..., 1, 0], linear[..., 0, 0]], dim=-1
    ).unflatten(-1, (2, 2))
    inverse = adjugate / determinant[..., None, None]
    return torch.cat([inverse, -inverse @ shift], dim=-1)


def pixel_centres(size: tuple[int, int], device: Device) -> tuple[Tensor, Tensor]:
    """Pixel centres in frame halves: columns (W,), rows (H, 1)."""
    height, width = size
    rows = (2 * torch.arange(height, device=device) + 1) / height - 1
    columns = (2 * torch.arange(width, device=device) + 1) / width - 1
    return columns, rows[:, None]


def _sample(images: Tensor, maps: Tensor, size: tuple[int, int], padding: str, bends: Tensor | None = None) -> Tensor:
    """Images (B, C, s, s) through maps (B, F, 2, 3) from frame to image: (B, C, F, H, W)."""
    grid = _apply(maps, *pixel_centres(size, maps.device))  # (B, F, H, W, 2)
    if bends is not None and bool((bent := bends != 0).any()):
        bow = grid[bent, ..., 1].clamp(-1, 1).square_().sub_(0.5).mul_(bends[bent, None, None, None])
        grid[bent, ..., 0] += bow
    grid = grid.flatten(1, 2)  # frames below one another: the images need no copy a frame
    sampled = F.grid_sample(images, grid, mode="bilinear", padding_mode=padding, align_corners=False)
    return sampled.unflatten(2, (-1, size[0]))


def _apply(maps: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Affine maps (..., 2, 3) at points x, y that broadcast to (..., H, W): (..., H, W, 2)."""
    parts = maps[..., None, None]  # (..., 2, 3, 1, 1)
    shape = torch.broadcast_shapes(parts.shape[:-4] + (1, 1), x.shape, y.shape)
    result = maps.new_empty(*shape, 2)
    for i in range(2):
        across, down, shift = parts[..., i, 0, :, :], parts[..., i, 1, :, :], parts[..., i, 2, :, :]
        torch.add(across * x, down * y + shift, out=result[..., i])
    return result


def _bytes(picture: Tensor) -> Tensor:
    """[0, 1] => uint8."""
    return (picture * 255).round_().clamp_(0, 255).byte()


# ------------------------------------------------------------------------------------------------------------------
# Looks


def _sprites(scenes: Sequence[Scene], assets: Assets, device: Device, height: int) -> Tensor:
    """Every actor's drawing, recoloured and premultiplied: (B, A, 4, s, s); empty slots transparent."""
    index = torch.tensor([[_attribute(s, i, "identity") for i in range(MAX_ACTORS)] for s in scenes]).long()
    sprites = assets.sprites[index.flatten()].to(device).float() / 255
    hue = torch.tensor([_attribute(s, i, "hue") for s in scenes for i in range(MAX_ACTORS)], device=device)
    saturation = torch.tensor(
        [_attribute(s, i, "saturation") for s in scenes for i in range(MAX_ACTORS)], device=device
    )
    sprites = recolour(sprites, hue, saturation, torch.ones_like(hue))
    colours = [s.actors[i].colour if i < len(s.actors) else None for s in scenes for i in range(MAX_ACTORS)]
    tinted = torch.tensor([colour is not None for colour in colours], device=device)
    if tinted.any():
        rgb = torch.tensor([HUES[colour] for colour in colours if colour is not None], device=device)
        sprites[tinted] = tint(sprites[tinted], rgb)
    sprites = torch.cat([sprites[:, :3] * sprites[:, 3:], sprites[:, 3:]], dim=1)
    if height <= SMALL_FRAME:
        sprites = F.avg_pool2d(sprites, 2)
    present = torch.tensor([i < len(s.actors) for s in scenes for i in range(MAX_ACTORS)], device=device)
    return (sprites * present[:, None, None, None]).unflatten(0, (len(scenes), MAX_ACTORS))


def _attribute(scene: Scene, index: int, name: str) -> float:
    return float(getattr(scene.actors[index], name)) if index < len(scene.actors) else 0.0


def _lights(scenes: Sequence[Scene], device: Device) -> tuple[Tensor, Tensor]:
    """Factors of place and actors, (B, 3, 1, 1) each."""
    place, actor = [], []
    for scene in scenes:
        lamplit = scene.light == "night" and scene.background.name in ROOMS
        of_place, of_actor = LAMPLIT if lamplit else LIGHT[scene.light]
        place.append((1.0, 1.0, 1.0) if scene.background.name in DARK_ALREADY else of_place)
        actor.append(of_actor)
    shape = (-1, 3, 1, 1)
    return torch.tensor(place, device=device).view(shape), torch.tensor(actor, device=device).view(shape)


# ------------------------------------------------------------------------------------------------------------------
# Truth


def boxes(masks: Tensor) -> Tensor:
    """Boxes (..., 4) x0, y0, x1, y1 around masks (..., H, W) in pixels; NaN around nothing."""
    height, width = masks.shape[-2:]
    columns, rows = masks.any(dim=-2).float(), masks.any(dim=-1).float()
    x0, y0 = columns.argmax(dim=-1), rows.argmax(dim=-1)
    x1, y1 = width - columns.flip(-1).argmax(dim=-1), height - rows.flip(-1).argmax(dim=-1)
    found = torch.stack([x0, y0, x1, y1], dim=-1).float()
    return torch.where(masks.flatten(-2).any(dim=-1)[..., None], found, torch.full_like(found, torch.nan))


def _faces(scenes: Sequence[Scene], assets: Assets, maps: Tensor, masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Face boxes in pixels, (B, A, F, 4); NaN where there is none or little of it is seen."""
    height, width = size
    faces = torch.full((*maps.shape[:3], 4), torch.nan, device=maps.device)
    for b, scene in enumerate(scenes):
        for a, actor in enumerate(scene.actors):
            box = assets.identities[actor.identity].face_box
            if box is None:
                continue
            x0, y0, x1, y1 = (2 * value - 1 for value in box)
            corners = maps.new_tensor([(x0, y0, 1), (x1, y0, 1), (x0, y1, 1), (x1, y1, 1)])
            points = corners @ maps[b, a].transpose(-1, -2)  # (F, 4, 2)
            scale = points.new_tensor([width / 2, height / 2])
            points = ((points + 1) * scale).clamp(min=0).minimum(2 * scale)
            low, high = points.amin(dim=1), points.amax(dim=1)
            for f in range(len(low)):
                (left, top), (right, bottom) = low[f].round().int().tolist(), high[f].round().int().tolist()
                seen = masks[b, a, f, top:bottom, left:right]
                if seen.numel() and seen.float().mean() > 0.4:
                    faces[b, a, f] = torch.cat([low[f], high[f]])
    return faces


def _flow(masks: Tensor, maps: Tensor, view: Tensor, size: tuple[int, int]) -> Tensor:
    """Where every pixel's thing is in the next frame, minus where it is: (B, F - 1, 2, H, W)."""
    height, width = size
    flow = _carry(view[:, :-1], _invert(view[:, 1:]), size)  # the place under the camera
    for a in range(masks.shape[1]):
        moved = _carry(_invert(maps[:, a, :-1]), maps[:, a, 1:], size)
        flow = torch.where(masks[:, a, :-1, ..., None], moved, flow)
    return (flow * flow.new_tensor([width / 2, height / 2])).movedim(-1, 2)


def _carry(back: Tensor, forth: Tensor, size: tuple[int, int]) -> Tensor:
    """Pixels through `back` then `forth` (..., 2, 3), minus themselves: (..., H, W, 2)."""
    x, y = pixel_centres(size, back.device)
    inside = _apply(back, x, y)
    return _apply(forth, inside[..., 0], inside[..., 1]) - torch.stack(torch.broadcast_tensors(x, y), dim=-1)
