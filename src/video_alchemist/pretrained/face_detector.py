"""Role: where faces are in a frame (§3.1: "for reference images depicting humans, we apply face detection").

B frames · H,W pixels · h,w cells of the heat map · A faces of a frame, at most
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels


@dataclass(frozen=True)
class Face:
    """score: in [0, 1]."""

    box: Box
    score: float


class FaceDetector(Protocol):
    def __call__(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
        """Frames (H, W, 3) uint8 RGB of any sizes => each one's faces, best first."""
        ...


# ------------------------------------------------------------------------------------------------------------------
# Files that OpenCV runs


class YuNetFaceDetector:
    """OpenCV's FaceDetectorYN with a YuNet file (MIT, from OpenCV's model zoo)."""

    def __init__(self, path: str | Path, size: int = 640, min_score: float = 0.5, overlap: float = 0.3) -> None:
        """size: pixels of a larger frame's longer side; YuNet finds faces of about 10 to 300 pixels.
        overlap: IoU from which the weaker of two boxes is dropped."""
        import cv2

        self.size = size
        self.network = _opened(cv2.FaceDetectorYN.create, path, "", (size, size), min_score, overlap)

    def __call__(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
        return [self._faces(frame) for frame in frames]

    def _faces(self, frame: np.ndarray) -> list[Face]:
        import cv2

        height, width = frame.shape[:2]
        scale = min(1.0, self.size / max(height, width))
        seen = _resized(frame, scale)
        self.network.setInputSize(seen.shape[1::-1])
        _, rows = self.network.detect(cv2.cvtColor(seen, cv2.COLOR_RGB2BGR))
        if rows is None:
            return []
        corners = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1) / scale  # the rest: landmarks
        return _best_first(corners, rows[:, -1], width, height)


class OnnxFaceDetector:
    """Any ONNX face detector of two common kinds, told apart by the shapes of what they answer.

    SCRFD's: per stride 8, 16, 32, ... scores (n, 1) and distances from a cell to the four sides (n, 4); landmarks are
    ignored. YOLO's (v8, v9, ...): (1, 5 or more, n), rows centre x, centre y, width, height, score of a face.
    """

    def __init__(self, path: str | Path, size: int = 640, min_score: float = 0.3, overlap: float = 0.4) -> None:
        """size: pixels of the square that the file was made for. overlap: IoU from which a weaker box is dropped."""
        import cv2

        self.size = size
        self.min_score = min_score
        self.overlap = overlap
        self.network = _opened(cv2.dnn.readNetFromONNX, path)
        self.outputs = self.network.getUnconnectedOutLayersNames()
        try:
            shapes = [answer.shape for answer in self._forward(np.zeros((1, 3, size, size), np.float32))]
        except cv2.error as error:
            raise ValueError(f"{str(path)!r} does not take pictures of {size} x {size}; give its own size") from error
        self.is_yolo = any(len(s) == 3 and 5 <= s[1] < s[2] for s in shapes)
        if not self.is_yolo and not {1, 4} <= {s[-1] for s in shapes}:
            raise ValueError(f"{str(path)!r} answers {shapes}; expected (1, 5+, n), or (n, 1) and (n, 4) a stride")

    def __call__(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
        return [self._faces(frame) for frame in frames]

    def _forward(self, pictures: np.ndarray) -> list[np.ndarray]:
        self.network.setInput(pictures)
        return list(self.network.forward(self.outputs))

    def _faces(self, frame: np.ndarray) -> list[Face]:
        import cv2

        height, width = frame.shape[:2]
        scale = self.size / max(height, width)
        seen = _resized(frame, scale)
        square = np.full((self.size, self.size, 3), 114 if self.is_yolo else 0, np.uint8)
        square[: seen.shape[0], : seen.shape[1]] = seen
        pixels = square.transpose(2, 0, 1)[None].astype(np.float32)
        answers = self._forward(pixels / 255 if self.is_yolo else (pixels - 127.5) / 128)
        corners, scores = (yolo_boxes if self.is_yolo else scrfd_boxes)(answers, self.size)
        likely = scores > self.min_score
        corners, scores = corners[likely], scores[likely]
        sides = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        kept = np.array(cv2.dnn.NMSBoxes(sides.tolist(), scores.tolist(), self.min_score, self.overlap), int)
        return _best_first(corners[kept] / scale, scores[kept], width, height)


def scrfd_boxes(answers: Sequence[np.ndarray], size: int) -> tuple[np.ndarray, np.ndarray]:
    """SCRFD's answers => boxes (n, 4) in the square's pixels, scores (n,)."""
    by_width: dict[int, list[np.ndarray]] = defaultdict(list)
    for answer in answers:
        by_width[answer.shape[-1]].append(answer.reshape(-1, answer.shape[-1]))
    # Engines list outputs in orders of their own; the finest stride has the most rows.
    levels = zip(*(sorted(by_width[columns], key=len, reverse=True) for columns in (4, 1)), strict=True)
    corners, scores = [], []
    for i, (distances, score) in enumerate(levels):
        stride = 8 * 2**i
        cells = np.stack(np.meshgrid(*[np.arange(-(-size // stride))] * 2, indexing="xy"), axis=-1).reshape(-1, 2)
        centres = np.repeat(cells, len(distances) // len(cells), axis=0) * stride  # as many anchors a cell
        sides = distances * stride
        corners.append(np.concatenate([centres - sides[:, :2], centres + sides[:, 2:]], axis=1))
        scores.append(score[:, 0])
    return np.concatenate(corners), np.concatenate(scores)


def yolo_boxes(answers: Sequence[np.ndarray], size: int) -> tuple[np.ndarray, np.ndarray]:
    """YOLO's answers => boxes (n, 4) in the square's pixels, scores (n,). Of several heads, the last is the main."""
    rows = [answer[0] for answer in answers if answer.ndim == 3 and 5 <= answer.shape[1] < answer.shape[2]][-1]
    centres, halves = rows[:2].T, rows[2:4].T / 2
    return np.concatenate([centres - halves, centres + halves], axis=1), rows[4]


def _opened(opener: Callable[..., Any], path: str | Path, *settings: Any) -> Any:
    """What OpenCV makes of a file."""
    import cv2

    if not Path(path).is_file():
        raise ValueError(f"no such face detector: {str(path)!r}; expected an ONNX file")
    try:
        return opener(str(path), *settings)
    except cv2.error as error:
        raise ValueError(f"{str(path)!r} is not an ONNX file that OpenCV can read: {error.err}") from error


def _resized(frame: np.ndarray, scale: float) -> np.ndarray:
    import cv2

    height, width = (max(1, round(side * scale)) for side in frame.shape[:2])
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def _best_first(corners: np.ndarray, scores: np.ndarray, width: int, height: int) -> list[Face]:
    """Boxes cut at the frame's edges; those that lie outside vanish."""
    corners = corners.clip(0, [width, height, width, height])
    rows = [(*map(float, corners[i]), float(scores[i])) for i in np.argsort(-scores, kind="stable")]
    return [Face((x0, y0, x1, y1), score) for x0, y0, x1, y1, score in rows if x1 > x0 and y1 > y0]


# ------------------------------------------------------------------------------------------------------------------
# Ours


class HeatmapFaceDetector(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """A small convolutional network of our own that finds faces by their centres (as CenterNet, arXiv 1904.07850).

    Each cell of 4 x 4 pixels tells how likely a face's centre lies in it, where in it, and how large the face is.
    """

    STRIDE = 4  # pixels of a cell
    BATCH = 8  # frames a forward

    @register_to_config
    def __init__(
        self,
        channels: tuple[int, ...] = (16, 32, 64, 96),
        width: int = 32,
        size: int = 256,
        min_score: float = 0.3,
        max_faces: int = 50,
    ) -> None:
        """channels: at strides 2, 4, 8, ... width: channels of the levels brought together.
        size: pixels of a frame's longer side as the network sees it; that of its training."""
        super().__init__()
        self.stages = nn.ModuleList(Stage(a, b) for a, b in zip((3, *channels[:-1]), channels, strict=True))
        self.laterals = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels[1:])
        self.smooth = Residual(width)
        answer = nn.Conv2d(width, 5, 1)
        self.head = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), answer)
        # Nearly all cells are empty: beginning at 1 % keeps their loss from drowning the faces'.
        nn.init.constant_(answer.bias[:1], -4.6)  # type: ignore[index]

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | PathLike | None, device: str = "cpu", **kwargs: Any
    ) -> HeatmapFaceDetector:
        """A folder or a hub id."""
        model = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        return model.to(torch.device(device)).eval()  # type: ignore[arg-type]

    def cells(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, 3, H, W) in [0, 1], any size => logits of a centre (B, h, w), its place in the cell (B, h, w, 2)
        and the logarithm of width and height in cells (B, h, w, 2); h, w are a quarter of H, W, rounded up."""
        x = 2 * images - 1
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        x = self.laterals[-1](levels[-1])
        for lateral, level in zip(self.laterals[-2::-1], levels[-2:0:-1], strict=True):
            x = lateral(level) + F.interpolate(x, size=level.shape[-2:], mode="bilinear")
        centre, place, extent = self.head(self.smooth(x)).permute(0, 2, 3, 1).split([1, 2, 2], dim=-1)
        return centre.squeeze(-1), place, extent

    def loss(self, images: Tensor, boxes: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1]; boxes (B, A, 4) xyxy in pixels, rows of NaN where there is no face."""
        centre, place, extent = self.cells(images)
        truth = centre_truth(boxes, centre.shape[-2:], self.STRIDE)
        probability = centre.sigmoid().clamp(1e-5, 1 - 1e-5)
        on_centre = truth == 1
        # CenterNet's focal loss: cells beside a centre are forgiven the more, the nearer they are.
        missed = (1 - probability).square() * probability.log()
        invented = (1 - truth) ** 4 * probability.square() * (1 - probability).log()
        seen = torch.isfinite(boxes).all(dim=-1)
        clip, face = seen.nonzero(as_tuple=True)
        num_faces = max(1, len(clip))
        heat = -torch.where(on_centre, missed, invented).sum() / num_faces
        middles = (boxes[clip, face, :2] + boxes[clip, face, 2:]) / 2 / self.STRIDE        # (faces, 2)
        sides = (boxes[clip, face, 2:] - boxes[clip, face, :2]).clamp(min=1) / self.STRIDE
        cells = _cells_of(middles, centre.shape[-2:])
        column, row = cells.unbind(-1)
        off = F.l1_loss(place[clip, row, column], middles - cells, reduction="sum")
        wrong_size = F.l1_loss(extent[clip, row, column], sides.log(), reduction="sum")
        return heat + (off + wrong_size) / num_faces

    @torch.no_grad()
    def forward(self, frames: Sequence[np.ndarray]) -> list[list[Face]]:
        """The role. Frames of one shape share a forward."""
        found: list[list[Face]] = [[] for _ in frames]
        by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i, frame in enumerate(frames):
            by_shape[frame.shape].append(i)
        for rows in by_shape.values():
            for first in range(0, len(rows), self.BATCH):
                part = rows[first : first + self.BATCH]
                for i, faces in zip(part, self._faces(np.stack([frames[i] for i in part])), strict=True):
                    found[i] = faces
        return found

    def _faces(self, frames: np.ndarray) -> Iterator[list[Face]]:
        """(B, H, W, 3) uint8 => the faces of each."""
        height, width = frames.shape[1:3]
        scale = self.config["size"] / max(height, width)
        seen = (max(1, round(height * scale)), max(1, round(width * scale)))
        images = torch.from_numpy(frames).to(self.device).permute(0, 3, 1, 2).to(self.dtype) / 255
        cells = self.cells(F.interpolate(images, size=seen, mode="bilinear", antialias=True))
        ratio = np.array([width / seen[1], height / seen[0]] * 2)
        for centre, place, extent in zip(*cells, strict=True):
            corners, scores = self._boxes(centre.float(), place.float(), extent.float())
            yield _best_first(corners * ratio, scores, width, height)

    def _boxes(self, centre: Tensor, place: Tensor, extent: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """What `cells` says of one image => boxes (n, 4) in its pixels, scores (n,): the peaks of the heat map."""
        peaks = centre == F.max_pool2d(centre[None], 3, stride=1, padding=1)[0]
        scores = (centre.sigmoid() * peaks).flatten()
        scores, order = scores.topk(min(self.config["max_faces"], scores.numel()))
        order = order[scores > self.config["min_score"]]
        row, column = order // centre.shape[1], order % centre.shape[1]
        middles = torch.stack([column, row], dim=-1) + place[row, column]
        halves = extent[row, column].clamp(max=8).exp() / 2
        corners = torch.cat([middles - halves, middles + halves], dim=-1) * self.STRIDE
        return corners.cpu().numpy(), scores[: len(order)].cpu().numpy()


def centre_truth(boxes: Tensor, shape: Sequence[int], stride: int) -> Tensor:
    """Boxes (B, A, 4) in pixels, NaN where none => (B, h, w): 1 where a face's centre lies, falling off around it over
    about half the face, so that a near miss costs little."""
    seen = torch.isfinite(boxes).all(dim=-1)
    known = torch.where(seen[..., None], boxes, 0.0) / stride
    cells = _cells_of((known[..., :2] + known[..., 2:]) / 2, shape)                        # (B, A, 2)
    spread = (0.54 * (known[..., 2:] - known[..., :2]) + 1) / 6
    rulers = (torch.arange(length, device=boxes.device) for length in (shape[1], shape[0]))
    across, down = (  # (B, A, w), (B, A, h)
        ((ruler - cells[..., axis, None]) / spread[..., axis, None]).square() for axis, ruler in enumerate(rulers)
    )
    bumps = torch.exp(-(down[..., None] + across[..., None, :]) / 2) * seen[..., None, None]
    return bumps.amax(dim=1) if bumps.shape[1] else bumps.sum(dim=1)


def _cells_of(middles: Tensor, shape: Sequence[int]) -> Tensor:
    """(column, row) of the cells that points lie in."""
    last = torch.tensor([shape[1] - 1, shape[0] - 1], device=middles.device)
    return middles.floor().long().clamp(min=0).minimum(last)


class Stage(nn.Module):
    """Half the size, then a residual block."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(c_in, c_out, 3, stride=2, padding=1)
        self.block = Residual(c_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.down(x))


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(min(8, channels), channels) for _ in range(2))
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            y = conv(F.relu(norm(y)))
        return x + y
