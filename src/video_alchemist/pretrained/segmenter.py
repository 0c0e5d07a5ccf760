"""Role: the mask of what a box shows (§3.1: "used by SAM to segment the mask regions corresponding to each entity").

B frames of one forward · n boxes of a frame · H,W pixels · M the side of the network's own masks
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from video_alchemist.pretrained.weights import load_whole

Masks = tuple[np.ndarray, np.ndarray]  # (n, H, W) bool; (n,) float32, how good each is


class Segmenter(Protocol):
    def __call__(self, frames: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> list[Masks]:
        """Frames (H, W, 3) uint8 of any sizes, boxes (n, 4) xyxy in pixels (n may be 0) => per frame, masks and scores
        in [0, 1]."""
        ...


class SamSegmenter:
    """transformers' SamModel with its processor. A frame is encoded once, however many boxes it has."""

    def __init__(self, model: Any, processor: Any, device: str = "cpu", batch: int = 6) -> None:
        """batch: frames a forward."""
        self.model = model.to(device).eval()
        self.image_processor = processor.image_processor
        self.device = device
        self.batch = batch

    @classmethod
    def from_pretrained(
        cls, name: str, device: str = "cpu", dtype: torch.dtype = torch.float32, **options: Any
    ) -> SamSegmenter:
        """name: a folder or a hub id ("facebook/sam-vit-base"). options: `revision` and the like."""
        from transformers import SamModel, SamProcessor

        model = load_whole(SamModel, name, dtype=dtype, **options)
        return cls(model, SamProcessor.from_pretrained(name, **options), device)

    def __call__(self, frames: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> list[Masks]:
        if len(frames) != len(boxes):
            raise ValueError(f"{len(frames)} frames and {len(boxes)} arrays of boxes; expected one array a frame")
        rows = [np.asarray(row, np.float32).reshape(-1, 4) for row in boxes]
        found = [_nothing(frame) for frame in frames]
        asked = [i for i, row in enumerate(rows) if len(row)]
        for first in range(0, len(asked), self.batch):
            part = asked[first : first + self.batch]
            answers = self._forward([frames[i] for i in part], [rows[i] for i in part])
            for i, answer in zip(part, answers, strict=True):
                found[i] = answer
        return found

    @torch.inference_mode()
    def _forward(self, frames: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> list[Masks]:
        inputs = self.image_processor(list(frames), input_data_format="channels_last", return_tensors="pt")
        original, resized = inputs["original_sizes"].tolist(), inputs["reshaped_input_sizes"].tolist()
        # Boxes do not see each other, so frames with fewer of them are filled up with empty ones, later cut off.
        prompts = torch.zeros(len(frames), max(map(len, boxes)), 4)
        for i, row in enumerate(boxes):
            (height, width), (new_height, new_width) = original[i], resized[i]
            scale = torch.tensor([new_width / width, new_height / height]).repeat(2)
            prompts[i, : len(row)] = torch.from_numpy(row) * scale
        output = self.model(
            image_embeddings=self.model.get_image_embeddings(inputs["pixel_values"].to(self.device, self.model.dtype)),
            input_boxes=prompts.to(self.device, self.model.dtype),
            multimask_output=False,
        )
        answers = []
        for i, row in enumerate(boxes):
            logits = output.pred_masks[i, : len(row)].float()                              # (n, 1, M, M)
            masks = self.image_processor.post_process_masks([logits], [original[i]], [resized[i]])[0]
            scores = output.iou_scores[i, : len(row), 0].float().clamp(0, 1)
            answers.append((masks[:, 0].cpu().numpy(), scores.cpu().numpy()))              # (n, H, W), (n,)
        return answers


def _nothing(frame: np.ndarray) -> Masks:
    return np.zeros((0, *frame.shape[:2]), bool), np.zeros(0, np.float32)
