"""Role: which clips are undesirable (App. A.1: "we fine-tune VideoMAE for video classification"; its four categories).

B clips · F = 16 frames · H,W pixels
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from video_alchemist.pretrained.weights import load_whole

UNDESIRABLE = ("still_foreground", "slight_motion", "screen_in_screen", "screen_recording")
NUM_FRAMES = 16
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ClipFilter(Protocol):
    @property
    def size(self) -> int:
        """Frames are size x size pixels."""
        ...

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        """Evenly spread frames, (B, 16, size, size, 3) uint8 => (B, 4) float32 in [0, 1], columns as UNDESIRABLE."""
        ...


class VideoMAEClipFilter:
    """transformers' VideoMAEForVideoClassification with one answer a category: a clip can be of several."""

    def __init__(
        self,
        model: Any,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        device: str = "cpu",
        batch: int = 8,
    ) -> None:
        """mean, std: of the three colours in [0, 1]. batch: clips a forward."""
        labels = {str(label): int(column) for column, label in model.config.id2label.items()}
        if missing := [name for name in UNDESIRABLE if name not in labels]:
            raise ValueError(f"the clip filter's labels are {sorted(labels)}; {missing} are missing among them")
        if model.config.problem_type != "multi_label_classification":
            raise ValueError(
                f"the clip filter's problem_type is {model.config.problem_type!r}; expected "
                "'multi_label_classification': a screen in a screen can be a still picture, too"
            )
        if model.config.num_frames != NUM_FRAMES:
            raise ValueError(f"the clip filter reads {model.config.num_frames} frames; expected {NUM_FRAMES}")
        self.model = model.to(device).eval()
        self.columns = [labels[name] for name in UNDESIRABLE]
        self.mean, self.std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (mean, std))
        self.device = device
        self.batch = batch

    @classmethod
    def from_pretrained(
        cls, name: str, device: str = "cpu", dtype: torch.dtype = torch.float32, **options: Any
    ) -> VideoMAEClipFilter:
        """name: a folder or a hub id, fine-tuned on UNDESIRABLE. options: `revision` and the like."""
        from transformers import VideoMAEForVideoClassification
        from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil

        model = load_whole(VideoMAEForVideoClassification, name, dtype=dtype, **options)
        try:
            settings, _ = VideoMAEImageProcessorPil.get_image_processor_dict(name, **options)
        except OSError:  # the model came without
            settings = {}
        mean, std = settings.get("image_mean", IMAGENET_MEAN), settings.get("image_std", IMAGENET_STD)
        return cls(model, mean, std, device)

    @property
    def size(self) -> int:
        return int(self.model.config.image_size)

    @torch.inference_mode()
    def __call__(self, clips: np.ndarray) -> np.ndarray:
        if clips.shape[1:] != (NUM_FRAMES, self.size, self.size, 3) or clips.dtype != np.uint8:
            wanted = f"(B, {NUM_FRAMES}, {self.size}, {self.size}, 3) of uint8"
            raise ValueError(f"clips are {clips.shape} of {clips.dtype}; expected {wanted}")
        answers = [np.zeros((0, len(UNDESIRABLE)), np.float32)]
        for first in range(0, len(clips), self.batch):
            video = torch.from_numpy(clips[first : first + self.batch]).to(self.device)
            video = (video.permute(0, 1, 4, 2, 3).float() / 255 - self.mean) / self.std  # (B, F, 3, H, W)
            logits = self.model(pixel_values=video.to(self.model.dtype)).logits
            answers.append(logits[:, self.columns].float().sigmoid().cpu().numpy())
        return np.concatenate(answers)
