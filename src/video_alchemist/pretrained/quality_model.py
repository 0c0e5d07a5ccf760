"""Role: how good frames look, without references. Not in the paper, which misses it (App. D, "Unsupported Measure on
Video Quality").

A head upon the embeddings of the image and text encoder (pretrained/image_text.py), so that frames are encoded once. It
says something of the very encoder that it was trained on, and of no other.

n frames · d channels
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from os import PathLike
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from video_alchemist.pretrained.image_text import ImageTextEncoder
from video_alchemist.pretrained.weights import fill, is_weights_file, read_weights

DROPOUTS = (0.2, 0.2, 0.1)  # after the first layers
RAMP = np.arange(0, 256, 4, dtype=np.uint8)
PROBE = np.stack(np.broadcast_arrays(RAMP[:, None], RAMP[None], RAMP[None, ::-1]), axis=-1)  # what encoders are shown
PROBED, ALIKE = 8, 0.02  # channels of its unit embedding; how far copies of an encoder differ, in whatever precision


class QualityModel(Protocol):
    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        """Frames' embeddings (n, d), not normalised => scores (n,) float32; higher is better."""
        ...


class EmbeddingQuality:
    """A head upon CLIP's image embeddings."""

    def __init__(self, model: QualityHead, device: str = "cpu") -> None:
        self.model = model.to(torch.device(device)).eval()  # type: ignore[arg-type]

    @classmethod
    def from_pretrained(cls, name: str | PathLike[str], device: str = "cpu", **options: Any) -> EmbeddingQuality:
        """name: a folder, a hub id, or LAION's file "sac+logos+ava1-l14-linearMSE.pth"."""
        model = load_aesthetic(name) if is_weights_file(name) else QualityHead.from_pretrained(name, **options)
        return cls(model, device)

    def check(self, encoder: ImageTextEncoder) -> None:
        """Refuses another encoder than the head was trained upon, as far as that shows."""
        trained, found = self.model.config["probe"], probe(encoder)
        if trained is not None and not np.allclose(trained, found, atol=ALIKE):
            raise ValueError(
                "the quality model was trained upon another image and text encoder: of a test picture that gave "
                f"{np.round(trained[:2], 2)}, ..., this one {np.round(found[:2], 2)}, ...; expected the one that it "
                "came with"
            )

    @torch.inference_mode()
    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        expected = self.model.config["widths"][0]
        if embeddings.shape[1] != expected:
            raise ValueError(f"embeddings of {embeddings.shape[1]} channels for a quality model of {expected}")
        frames = torch.from_numpy(embeddings).to(self.model.device, self.model.dtype)
        return self.model(frames).float().cpu().numpy()


class QualityHead(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """By default LAION's aesthetic predictor upon CLIP ViT-L/14, whose scores are people's, some 1 to 10. Names are
    those of its file."""

    @register_to_config
    def __init__(
        self,
        widths: Sequence[int] = (768, 1024, 128, 64, 16, 1),
        bounded: bool = False,
        probe: Sequence[float] | None = None,
    ) -> None:
        """widths: channels, from d on. bounded: GELU between layers and scores in [0, 1]; LAION's has neither, and is
        one linear map. probe: by which the encoder that it was trained upon is known again, see `probe`."""
        super().__init__()
        layers: list[nn.Module] = []
        for i, (c_in, c_out) in enumerate(pairwise(widths)):
            layers.append(nn.Linear(c_in, c_out))
            if bounded:
                layers.append(nn.Sigmoid() if c_out == widths[-1] else nn.GELU())
            elif i < len(DROPOUTS):
                layers.append(nn.Dropout(DROPOUTS[i]))
        self.layers = nn.Sequential(*layers)

    def forward(self, embeddings: Tensor) -> Tensor:
        """(n, d) => (n,)."""
        return self.layers(F.normalize(embeddings, dim=-1))[:, 0]


def probe(encoder: ImageTextEncoder) -> list[float]:
    """The first values of a test picture's unit embedding."""
    (embedding,) = encoder.images([PROBE])
    return [round(float(value), 4) for value in (embedding / np.linalg.norm(embedding))[:PROBED]]


def load_aesthetic(path: str | PathLike[str]) -> QualityHead:
    """A file of LAION's improved-aesthetic-predictor: "sac+logos+ava1-l14-linearMSE.pth", or "ava+logos-..."."""
    model = QualityHead()
    fill(model, read_weights(path), path)
    return model.eval()
