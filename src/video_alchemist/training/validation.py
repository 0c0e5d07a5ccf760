"""What the model makes of fixed prompts while it learns: a contact sheet, with and without references."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from video_alchemist.model.condition import place_references, reference_image
from video_alchemist.model.transformer import AlchemistTransformer
from video_alchemist.records import Condition
from video_alchemist.video import contact_sheet, replacing

FRAMES = 6  # of a video that are shown
PICTURE = 256  # pixels of a reference


@dataclass(frozen=True)
class ContactSheet:
    """Draws RUN/samples/<step>.png: of each condition a row with its references, and one by its words alone.

    pipeline: an AlchemistPipeline, whose transformer is the one being trained while it draws.
    """

    pipeline: Any
    conditions: Sequence[Condition]
    seed: int = 0

    def __call__(self, transformer: AlchemistTransformer, step: int, folder: Path) -> None:
        before = self.pipeline.transformer
        self.pipeline.register_modules(transformer=transformer)
        try:
            self._draw(step, folder / f"{step:08d}.png", with_references=transformer.config["personalization"])
        finally:
            self.pipeline.register_modules(transformer=before)

    def _draw(self, step: int, path: Path, with_references: bool) -> None:
        rows, labels = [], []
        for condition in self.conditions:
            shown = [reference_image(place.reference, PICTURE) for place in place_references(condition)]
            pictures = [Image.fromarray((one.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)) for one in shown]
            blank = [Image.new("RGB", (1, 1), "white")] * len(pictures)
            if with_references and pictures:
                rows.append([*pictures, *self._frames(condition)])
                labels.append(f"step {step}: {condition.text}")
            rows.append([*blank, *self._frames(Condition(condition.text))])
            labels.append(f"step {step}, words alone: {condition.text}")
        with replacing(path) as temporary:
            contact_sheet(rows, labels).save(temporary)

    @torch.no_grad()
    def _frames(self, condition: Condition) -> list[Image.Image]:
        video = self.pipeline(condition.text, condition.references, seed=self.seed, output_type="pil").frames[0]
        return [video[i] for i in np.linspace(0, len(video) - 1, min(FRAMES, len(video))).round().astype(int)]
