"""Role: how far each pixel moves from one frame to the next (§4.2: "dynamic degree", by RAFT, arXiv 2003.12039).

B pairs of one forward · H,W pixels · h,w cells of `stride` pixels · C channels
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from video_alchemist.pretrained.weights import Weights, fill, is_weights_file, read_weights

Norm = Callable[[int], nn.Module]
CORRELATIONS = 2**28  # numbers in the finest correlations of one forward: 1 GiB


class OpticalFlow(Protocol):
    def __call__(self, first: np.ndarray, second: np.ndarray, padded: bool = False) -> np.ndarray:
        """Frames (n, H, W, 3) uint8 and those that follow them => (n, H, W, 2) float32, pixels to the right and down.
        padded: together with the border that was added to make the sides multiples of the network's stride."""
        ...


class RaftOpticalFlow:
    """A Raft, as the authors' benchmark runs it: 20 iterations at the frames' own size."""

    def __init__(self, model: Raft, device: str = "cpu", num_iterations: int = 20, batch: int = 8) -> None:
        """batch: pairs a forward, at most; fewer where frames are large."""
        self.model = model.to(torch.device(device)).eval()  # type: ignore[arg-type]
        self.num_iterations = num_iterations
        self.batch = batch

    @classmethod
    def from_pretrained(cls, name: str | PathLike[str], device: str = "cpu", **options: Any) -> RaftOpticalFlow:
        """name: a folder, a hub id, or a file: princeton's "raft-things.pth", torchvision's raft_large."""
        model = load_raft(name) if is_weights_file(name) else Raft.from_pretrained(name, **options)
        return cls(model, device)

    @torch.inference_mode()
    def __call__(self, first: np.ndarray, second: np.ndarray, padded: bool = False) -> np.ndarray:
        if first.shape != second.shape or first.ndim != 4:
            raise ValueError(f"frames are {first.shape} and {second.shape}; expected (n, H, W, 3) twice")
        num_pairs, height, width = first.shape[:3]
        stride = self.model.stride
        down, across = -height % stride, -width % stride
        top, left = down // 2, across // 2
        cells = (height + down) * (width + across) // stride**2
        batch = min(self.batch, max(1, CORRELATIONS // cells**2))
        found = [np.zeros((0, height + down, width + across, 2), np.float32)]
        for i in range(0, num_pairs, batch):
            pair = [
                F.pad(self._pixels(frames[i : i + batch]), (left, across - left, top, down - top), mode="replicate")
                for frames in (first, second)
            ]
            flow = self.model(*pair, self.num_iterations)
            found.append(flow.permute(0, 2, 3, 1).float().cpu().numpy())
        flows = np.concatenate(found)
        return flows if padded else flows[:, top : top + height, left : left + width]

    def _pixels(self, frames: np.ndarray) -> Tensor:
        """(B, H, W, 3) uint8 => (B, 3, H, W) in [-1, 1]."""
        pixels = torch.from_numpy(frames.copy()).to(self.model.device).permute(0, 3, 1, 2)
        return 2 * (pixels.to(self.model.dtype) / 255) - 1


# ------------------------------------------------------------------------------------------------------------------
# The network. Names of submodules are torchvision's.


class Raft(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Compares all cells of two frames, then corrects a flow, which begins at zero, again and again."""

    @register_to_config
    def __init__(
        self,
        channels: Sequence[int] = (64, 96, 128),
        features: int = 256,
        hidden: int = 128,
        context: int = 128,
        motion: int = 128,
        levels: int = 4,
        radius: int = 4,
    ) -> None:
        """channels: of the encoders at strides 2, 4, 8; their number decides on `stride`. features: what cells are
        compared by. hidden, context, motion: the recurrent unit's state and its inputs. levels: of correlations, each
        half as fine as the one before; radius: cells of a level that are looked at, to every side."""
        super().__init__()
        self.stride = 2 ** len(channels)
        self.feature_encoder = encoder(channels, features, nn.InstanceNorm2d)
        self.context_encoder = encoder(channels, hidden + context, nn.BatchNorm2d)
        self.update_block = UpdateBlock(levels * (2 * radius + 1) ** 2, hidden, context, motion)
        self.mask_predictor = MaskPredictor(hidden, 9 * self.stride**2)

    def forward(self, first: Tensor, second: Tensor, num_iterations: int = 20, all_flows: bool = False) -> Tensor:
        """Frames (B, 3, H, W) in [-1, 1], sides multiples of `stride` => flow (B, 2, H, W), pixels to the right and
        down; all_flows: those of all iterations, (num_iterations, B, 2, H, W), as the training's loss wants them."""
        config = self.config
        if any(side % self.stride for side in first.shape[-2:]):
            raise ValueError(f"frames of {tuple(first.shape[-2:])}; expected sides that {self.stride} divides")
        seen_first, seen_second = self.feature_encoder(torch.cat([first, second])).chunk(2)  # (B, C, h, w) each
        pyramid = correlations(seen_first, seen_second, config["levels"])
        state = self.context_encoder(first)                                               # (B, C, h, w)
        hidden, context = state.split([config["hidden"], config["context"]], dim=1)
        hidden, context = hidden.tanh(), context.relu()
        rows, columns = (torch.arange(side, device=first.device, dtype=first.dtype) for side in state.shape[-2:])
        places = torch.stack(torch.meshgrid(columns, rows, indexing="xy"))                # (2, h, w): x, y
        flow = torch.zeros_like(state[:, :2])                                             # (B, 2, h, w), in cells
        flows = []
        for i in range(num_iterations):
            flow = flow.detach()  # an iteration learns to correct, not to have begun elsewhere
            seen = look_up(pyramid, places + flow, config["radius"])
            hidden, correction = self.update_block(hidden, context, seen, flow)
            flow = flow + correction
            if all_flows or i == num_iterations - 1:
                flows.append(upsample(flow, self.mask_predictor(hidden), self.stride))
        return torch.stack(flows) if all_flows else flows[-1]


def correlations(first: Tensor, second: Tensor, levels: int) -> list[Tensor]:
    """Features (B, C, h, w) of both frames => per level, how much each cell of the first is like each of the second:
    (B h w, 1, h, w), (B h w, 1, h/2, w/2), ..."""
    height, width = first.shape[-2:]
    volume = first.flatten(2).transpose(1, 2) @ second.flatten(2) / first.shape[1] ** 0.5  # (B, h w, h w)
    pyramid = [rearrange(volume, "b n (h w) -> (b n) 1 h w", h=height, w=width)]
    for _ in range(levels - 1):
        sides = pyramid[-1].shape[-2:]
        pyramid.append(F.avg_pool2d(pyramid[-1], [min(2, side) for side in sides]))  # a side of 1 stays
    return pyramid


def look_up(pyramid: Sequence[Tensor], places: Tensor, radius: int) -> Tensor:
    """Places (B, 2, h, w), x and y in the second frame's cells => what all levels say of the squares around them,
    (B, levels (2 radius + 1)^2, h, w); 0 outside."""
    batch, _, height, width = places.shape
    steps = torch.arange(-radius, radius + 1, device=places.device, dtype=places.dtype)
    square = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), dim=-1)  # x before y: the published order
    centres = rearrange(places, "b c h w -> (b h w) 1 1 c")
    seen = []
    for i, level in enumerate(pyramid):
        sides = level.new_tensor([level.shape[-1], level.shape[-2]])
        points = (2 * (centres / 2**i + square) + 1) / sides - 1  # so that a level of one cell needs no exception
        seen.append(F.grid_sample(level, points, align_corners=False).view(batch, height, width, -1))
    return torch.cat(seen, dim=-1).permute(0, 3, 1, 2)


def upsample(flow: Tensor, weights: Tensor, stride: int) -> Tensor:
    """(B, 2, h, w) in cells, (B, 9 stride^2, h, w) => (B, 2, H, W) in pixels: each a mean of the 3 x 3 cells around,
    weighted by softmax."""
    height = flow.shape[-2]
    around = F.unfold(stride * flow, 3, padding=1)
    around = rearrange(around, "b (c k) (h w) -> b c k 1 1 h w", k=9, h=height)
    weights = rearrange(weights, "b (k i j) h w -> b 1 k i j h w", k=9, i=stride).softmax(dim=2)
    return rearrange((weights * around).sum(dim=2), "b c i j h w -> b c (h i) (w j)")


def unit(
    c_in: int, c_out: int, kernel: int, stride: int = 1, norm: Norm | None = None, relu: bool = True
) -> nn.Sequential:
    """Convolution, norm, ReLU."""
    convolution = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2)
    return nn.Sequential(convolution, *([norm(c_out)] if norm else []), *([nn.ReLU(inplace=True)] if relu else []))


def encoder(channels: Sequence[int], c_out: int, norm: Norm) -> nn.Sequential:
    """(B, 3, H, W) => (B, c_out, h, w)."""
    parts: OrderedDict[str, nn.Module] = OrderedDict(convnormrelu=unit(3, channels[0], 7, 2, norm))
    for i, c in enumerate(channels):
        first = Residual(channels[max(i - 1, 0)], c, 2 if i else 1, norm)
        parts[f"layer{i + 1}"] = nn.Sequential(first, Residual(c, c, 1, norm))
    parts["conv"] = nn.Conv2d(channels[-1], c_out, 1)
    whole = nn.Sequential(parts)
    for module in whole.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return whole


class Residual(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.convnormrelu1 = unit(c_in, c_out, 3, stride, norm)
        self.convnormrelu2 = unit(c_out, c_out, 3, 1, norm)
        self.downsample = unit(c_in, c_out, 1, stride, norm, relu=False) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.downsample(x) + self.convnormrelu2(self.convnormrelu1(x)))


class UpdateBlock(nn.Module):
    """What was seen and the flow so far => the next state, and a correction of the flow."""

    def __init__(self, seen: int, hidden: int, context: int, motion: int) -> None:
        super().__init__()
        self.motion_encoder = MotionEncoder(seen, motion)
        self.recurrent_block = nn.ModuleDict({
            "convgru1": ConvGRU(hidden, context + motion, (1, 5)),
            "convgru2": ConvGRU(hidden, context + motion, (5, 1)),
        })  # fmt: skip
        self.flow_head = nn.Sequential(OrderedDict(
            conv1=nn.Conv2d(hidden, 2 * hidden, 3, padding=1),
            relu=nn.ReLU(),
            conv2=nn.Conv2d(2 * hidden, 2, 3, padding=1),
        ))  # fmt: skip

    def forward(self, hidden: Tensor, context: Tensor, seen: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.cat([context, self.motion_encoder(seen, flow)], dim=1)
        for gru in self.recurrent_block.values():
            hidden = gru(hidden, x)
        return hidden, self.flow_head(hidden)


class MotionEncoder(nn.Module):
    def __init__(self, seen: int, motion: int) -> None:
        super().__init__()
        self.convcorr1 = unit(seen, 2 * motion, 1)
        self.convcorr2 = unit(2 * motion, 2 * motion - motion // 2, 3)
        self.convflow1 = unit(2, motion, 7)
        self.convflow2 = unit(motion, motion // 2, 3)
        self.conv = unit(2 * motion, motion - 2, 3)

    def forward(self, seen: Tensor, flow: Tensor) -> Tensor:
        both = torch.cat([self.convcorr2(self.convcorr1(seen)), self.convflow2(self.convflow1(flow))], dim=1)
        return torch.cat([self.conv(both), flow], dim=1)


class ConvGRU(nn.Module):
    """A gated recurrent unit whose products are convolutions, along rows or along columns."""

    def __init__(self, hidden: int, c_in: int, kernel: tuple[int, int]) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.convz, self.convr, self.convq = (nn.Conv2d(hidden + c_in, hidden, kernel, padding=padding) for _ in "zrq")

    def forward(self, hidden: Tensor, x: Tensor) -> Tensor:
        both = torch.cat([hidden, x], dim=1)
        update, reset = self.convz(both).sigmoid(), self.convr(both).sigmoid()
        return (1 - update) * hidden + update * self.convq(torch.cat([reset * hidden, x], dim=1)).tanh()


class MaskPredictor(nn.Module):
    """The weights of `upsample`, before their softmax."""

    def __init__(self, hidden: int, c_out: int) -> None:
        super().__init__()
        self.convrelu = unit(hidden, 2 * hidden, 3)
        self.conv = nn.Conv2d(2 * hidden, c_out, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        return 0.25 * self.conv(self.convrelu(hidden))  # RAFT's factor, for the balance of its gradients


# ------------------------------------------------------------------------------------------------------------------
# Published weights

PRINCETON = (  # parts of its names, and ours
    (r"^fnet\.", "feature_encoder."),
    (r"^cnet\.", "context_encoder."),
    (r"(layer\d\.\d)\.conv([12])", r"\1.convnormrelu\2.0"),
    (r"(layer\d\.\d)\.norm([12])", r"\1.convnormrelu\2.1"),
    (r"encoder\.conv1\.", "encoder.convnormrelu.0."),
    (r"encoder\.norm1\.", "encoder.convnormrelu.1."),
    (r"encoder\.conv2\.", "encoder.conv."),
    (r"^update_block\.encoder\.(conv.*)\.", r"update_block.motion_encoder.\1.0."),
    (r"\.convc(\d)", r".convcorr\1"),
    (r"\.convf(\d)", r".convflow\1"),
    (r"\.gru\.conv([zrq])([12])", r".recurrent_block.convgru\2.conv\1"),
    (r"^update_block\.mask\.0", "mask_predictor.convrelu.0"),
    (r"^update_block\.mask\.2", "mask_predictor.conv"),
)


def load_raft(path: str | PathLike[str]) -> Raft:
    """RAFT's large network: princeton's file (raft-things.pth) or torchvision's (raft_large_C_T_V1), by their names."""
    weights = read_weights(path)
    if "fnet.conv1.weight" in weights:
        weights = from_princeton(weights)
    model = Raft()
    fill(model, weights, path)
    return model.eval()


def from_princeton(weights: Weights) -> Weights:
    """Its names made ours. (norm3 is the norm of `downsample`, which holds it a second time.)"""
    renamed = {}
    for name, value in weights.items():
        if ".norm3." not in name:
            for theirs, ours in PRINCETON:
                name = re.sub(theirs, ours, name)
            renamed[name] = value
    return renamed
