"""Role: captions and frames in one space (§4.2: "text similarity", "video similarity", by CLIP).

n captions or frames · H,W pixels · d channels
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from video_alchemist.pretrained.weights import load_whole

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
Crop = Literal["short", "long"]


class ImageTextEncoder(Protocol):
    """Embeddings are not normalised."""

    def texts(self, captions: Sequence[str]) -> np.ndarray:
        """=> (n, d) float32. Of a long caption, what the network has room for."""
        ...

    def images(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """Frames (H, W, 3) uint8 of any sizes => (n, d) float32."""
        ...


class ClipImageTextEncoder:
    """transformers' CLIPModel with its tokenizer."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        device: str = "cpu",
        batch: int = 32,
        crop: Crop = "short",
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
    ) -> None:
        """batch: captions or frames a forward. crop: a frame's middle square, or the whole frame in a black one."""
        if crop not in ("short", "long"):
            raise ValueError(f"crop is {crop!r}; expected 'short' or 'long'")
        # Texts are read where they end. Where the model looks for another token, it reads each at its beginning, and
        # all are alike. (2 stands in old configurations, and means the greatest token.)
        end = model.config.text_config.eos_token_id
        if end not in (2, tokenizer.eos_token_id):
            raise ValueError(f"the model ends texts by token {end}, the tokenizer by {tokenizer.eos_token_id}")
        self.model = model.to(device).eval()
        self.tokenizer = tokenizer
        self.device = device
        self.batch = batch
        self.crop = crop
        self.mean, self.std = mean, std

    @classmethod
    def from_pretrained(
        cls, name: str, device: str = "cpu", dtype: torch.dtype = torch.float32, crop: Crop = "short", **options: Any
    ) -> ClipImageTextEncoder:
        """name: a folder or a hub id ("openai/clip-vit-large-patch14"). options: `revision` and the like."""
        from transformers import AutoTokenizer, CLIPModel

        model = load_whole(CLIPModel, name, dtype=dtype, **options)
        return cls(model, AutoTokenizer.from_pretrained(name, **options), device, crop=crop)

    @torch.inference_mode()
    def texts(self, captions: Sequence[str]) -> np.ndarray:
        found = [self._nothing()]
        for first in range(0, len(captions), self.batch):
            inputs = self.tokenizer(
                list(captions[first : first + self.batch]),
                padding=True,
                truncation=True,
                max_length=self.model.config.text_config.max_position_embeddings,
                return_tensors="pt",
            ).to(self.device)
            pooled = self.model.text_model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).pooler_output
            found.append(self.model.text_projection(pooled).float().cpu().numpy())
        return np.concatenate(found)

    @torch.inference_mode()
    def images(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        found = [self._nothing()]
        size = self.model.config.vision_config.image_size
        for first in range(0, len(frames), self.batch):
            squares = [square(frame, self.crop) for frame in frames[first : first + self.batch]]
            pixels = normalised(squares, size, self.mean, self.std).to(self.device, self.model.dtype)
            pooled = self.model.vision_model(pixels).pooler_output
            found.append(self.model.visual_projection(pooled).float().cpu().numpy())
        return np.concatenate(found)

    def _nothing(self) -> np.ndarray:
        return np.zeros((0, self.model.config.projection_dim), np.float32)


def square(frame: np.ndarray, crop: Crop) -> np.ndarray:
    """(H, W, 3) uint8 => its middle square ("short"), or the whole of it in a black square ("long")."""
    if crop == "long":
        return on_square(frame, 0)
    height, width = frame.shape[:2]
    side = min(height, width)
    top, left = round((height - side) / 2), round((width - side) / 2)  # half to even, as torchvision crops
    return frame[top : top + side, left : left + side]


def on_square(picture: np.ndarray, grey: int) -> np.ndarray:
    """(h, w, 3) uint8 => in the middle of a square of the longer side, on a grey of 0 to 255."""
    height, width = picture.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    canvas = np.full((side, side, 3), grey, np.uint8)
    canvas[top : top + height, left : left + width] = picture
    return canvas


def normalised(squares: Sequence[np.ndarray], size: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Squares of (s, s, 3) uint8 => (n, 3, size, size), bicubic as Pillow has it, normalised by colour."""
    resized = [np.asarray(Image.fromarray(one).resize((size, size), Image.Resampling.BICUBIC)) for one in squares]
    pixels = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
