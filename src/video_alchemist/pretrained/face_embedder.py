"""Role: whose face a crop shows (§4.2: "face similarity", by ArcFace).

n crops · h,w pixels · d channels
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from video_alchemist.pretrained.weights import fill, is_weights_file, read_weights


class FaceEmbedder(Protocol):
    def __call__(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        """Face crops (h, w, 3) uint8 RGB of any sizes, not aligned => (n, d) float32, not normalised."""
        ...


class ArcFaceEmbedder:
    """An IResNet that was trained to tell people apart."""

    def __init__(self, model: IResNet, device: str = "cpu", batch: int = 32) -> None:
        """batch: crops a forward."""
        self.model = model.to(torch.device(device)).eval()  # type: ignore[arg-type]
        self.batch = batch

    @classmethod
    def from_pretrained(cls, name: str | PathLike[str], device: str = "cpu", **options: Any) -> ArcFaceEmbedder:
        """name: a folder, a hub id, or a file of insightface's arcface_torch ("backbone.pth")."""
        model = load_arcface(name) if is_weights_file(name) else IResNet.from_pretrained(name, **options)
        return cls(model, device)

    @torch.inference_mode()
    def __call__(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        size = self.model.config["size"]
        found = [np.zeros((0, self.model.config["embedding"]), np.float32)]
        for first in range(0, len(crops), self.batch):
            part = crops[first : first + self.batch]
            pixels = np.stack([cv2.resize(crop, (size, size), interpolation=cv2.INTER_LINEAR) for crop in part])
            faces = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
            found.append(self.model(faces.to(self.model.device, self.model.dtype)).float().cpu().numpy())
        return np.concatenate(found)


class IResNet(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """ArcFace's residual network (arXiv 1801.07698), by default of 100 layers. Names are arcface_torch's."""

    @register_to_config
    def __init__(
        self, layers: Sequence[int] = (3, 13, 30, 3), width: int = 64, size: int = 112, embedding: int = 512
    ) -> None:
        """layers: blocks at strides 2, 4, 8, 16. width: channels at the first. size: pixels of a crop's side, a
        multiple of 16. embedding: d."""
        super().__init__()
        if size % 16:
            nearest = max(1, round(size / 16)) * 16
            raise ValueError(f"face crops of size {size}; expected a multiple of 16, nearest: {nearest}")
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.prelu = nn.PReLU(width)
        channels = (width, width, 2 * width, 4 * width, 8 * width)
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(Block(c_in, c_out, 2), *(Block(c_out, c_out, 1) for _ in range(num_blocks - 1)))
            for c_in, c_out, num_blocks in zip(channels[:-1], channels[1:], layers, strict=True)
        )
        self.bn2 = nn.BatchNorm2d(channels[-1])
        self.fc = nn.Linear(channels[-1] * (size // 16) ** 2, embedding)
        self.features = nn.BatchNorm1d(embedding)
        self.features.weight.requires_grad = False  # ArcFace looks at angles: no channel may be stretched

    def forward(self, faces: Tensor) -> Tensor:
        """(n, 3, size, size) RGB in [-1, 1] => (n, d)."""
        x = self.prelu(self.bn1(self.conv1(faces)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.features(self.fc(self.bn2(x).flatten(1)))


class Block(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.prelu = nn.PReLU(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(c_out)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        return self.bn3(self.conv2(y)) + self.downsample(x)


def load_arcface(path: str | PathLike[str]) -> IResNet:
    """A file of insightface's arcface_torch: r100, or any of its family."""
    weights = read_weights(path)
    if not {"conv1.weight", "layer4.0.conv1.weight", "fc.weight"} <= weights.keys():
        raise ValueError(f"{str(path)!r} names {', '.join(list(weights)[:3])}, ...; expected arcface_torch's names")
    blocks = [name.split(".")[:2] for name in weights if name.startswith("layer")]
    layers = [1 + max(int(block) for layer, block in blocks if layer == f"layer{i}") for i in (1, 2, 3, 4)]
    width = len(weights["conv1.weight"])
    embedding, flat = weights["fc.weight"].shape
    model = IResNet(layers, width, 16 * math.isqrt(flat // (8 * width)), embedding)
    fill(model, weights, path)
    return model.eval()
