"""What curation must throw out (App. A.1): screens in screens and screen recordings, drawn over a clip.

(Still foregrounds and slight motion are a matter of the camera: see `motion` and `render`.)
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from video_alchemist.emojiworld.scenes import Scene


def overlay(clip: Tensor, scene: Scene) -> Tensor:
    """(F, 3, H, W) in [0, 1] => the same, as the scene's undesirable kind shows it."""
    rng = np.random.default_rng((scene.seed, 13))
    if scene.undesirable == "screen_in_screen":
        return _screen_in_screen(clip, rng)
    if scene.undesirable == "screen_recording":
        return _screen_recording(clip, rng)
    return clip


def overlay_truth(masks: Tensor, faces: Tensor, flow: Tensor, scene: Scene) -> tuple[Tensor, Tensor, Tensor]:
    """Masks (A, F, H, W), faces (A, F, 4) and flow (F - 1, 2, H, W) of a clip => as they are under its `overlay`."""
    if scene.undesirable == "screen_recording":
        return torch.zeros_like(masks), torch.full_like(faces, torch.nan), torch.zeros_like(flow)
    if scene.undesirable != "screen_in_screen":
        return masks, faces, flow
    height, width = masks.shape[-2:]
    h, w, top, left = _screen(height, width, np.random.default_rng((scene.seed, 13)))
    inner_masks, inner_flow = torch.zeros_like(masks), torch.zeros_like(flow)
    small = F.interpolate(masks.float(), size=(h, w), mode="bilinear", antialias=True) > 0.5
    inner_masks[..., top : top + h, left : left + w] = small
    scale = faces.new_tensor([w / width, h / height])
    if len(flow):
        inside = F.interpolate(flow, size=(h, w), mode="nearest") * scale[:, None, None]
        inner_flow[..., top : top + h, left : left + w] = inside
    return inner_masks, faces * scale.repeat(2) + faces.new_tensor([left, top]).repeat(2), inner_flow


def _screen(height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Height, width, top and left of the screen in the screen; the first thing drawn from the clip's generator."""
    share = float(rng.uniform(0.45, 0.65))
    h, w = int(share * height), int(share * width)
    return h, w, int(rng.integers(2, height - h - 1)), int(rng.integers(2, width - w - 1))


def _screen_in_screen(clip: Tensor, rng: np.random.Generator) -> Tensor:
    """The clip small on a blurred, resting picture of itself, with a frame around."""
    height, width = clip.shape[-2:]
    h, w, top, left = _screen(height, width, rng)
    still = F.interpolate(F.avg_pool2d(clip[:1], 8), size=(height, width), mode="bilinear").repeat(len(clip), 1, 1, 1)
    colour = clip.new_tensor(rng.random(3)).view(3, 1, 1)
    result = 0.6 * still + 0.4 * colour
    result[:, :, top - 1 : top + h + 1, left - 1 : left + w + 1] = float(rng.random() > 0.5)
    result[:, :, top : top + h, left : left + w] = F.interpolate(clip, size=(h, w), mode="bilinear", antialias=True)
    return result


def _screen_recording(clip: Tensor, rng: np.random.Generator) -> Tensor:
    """A desktop: windows with title bars, lines of text being written, a moving pointer."""
    num_frames, _, height, width = clip.shape
    desk = clip.new_tensor(rng.uniform(0.1, 0.9, 3)).view(1, 3, 1, 1).expand(num_frames, 3, height, width).clone()
    for _ in range(int(rng.integers(1, 4))):
        h, w = int(rng.uniform(0.4, 0.75) * height), int(rng.uniform(0.4, 0.8) * width)
        top, left = int(rng.integers(0, height - h)), int(rng.integers(0, width - w))
        paper, ink = (0.97, 0.25) if rng.random() < 0.6 else (0.13, 0.8)
        desk[:, :, top : top + h, left : left + w] = paper
        bar = clip.new_tensor(rng.uniform(0.2, 0.8, 3)).view(3, 1, 1)
        step = max(3, height // 16)
        desk[:, :, top : top + step, left : left + w] = bar
        for row in range(top + 2 * step, top + h - step, step):
            length = int(rng.uniform(0.2, 0.9) * w)
            start = int(rng.integers(0, num_frames))
            shown = torch.arange(num_frames, device=clip.device) >= start * (rng.random() < 0.4)
            desk[shown, :, row : row + max(1, step // 3), left + 2 : left + 2 + length] = ink
    x = np.linspace(rng.uniform(0, width - 4), rng.uniform(0, width - 4), num_frames).astype(int)
    y = np.linspace(rng.uniform(0, height - 6), rng.uniform(0, height - 6), num_frames).astype(int)
    for f in range(num_frames):
        desk[f, :, y[f] : y[f] + 5, x[f] : x[f] + 2] = 0.0
        desk[f, :, y[f] : y[f] + 2, x[f] : x[f] + 4] = 0.0
    return desk
