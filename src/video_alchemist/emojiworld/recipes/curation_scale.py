"""How large curation's small networks are and how long each trains: one frozen value for two cores, one for a GPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class CurationScale:
    """Steps count optimiser steps, batches count frames (clips for the filter, sprites for the vocabulary).

    The dictionaries are configurations of ResNetConfig (the detector's backbone), GroundingDinoConfig, SamVisionConfig,
    HeatmapFaceDetector and VideoMAEConfig.
    """

    name: str
    detector_size: int = 96  # pixels of a frame's shorter side
    backbone: dict[str, Any] = field(default_factory=dict)
    detector: dict[str, Any] = field(default_factory=dict)
    vocabulary_batch: int = 192
    vocabulary_steps: int = 900
    detector_batch: int = 32
    detector_steps: int = 5000
    segmenter_size: int = 128  # pixels of the square that frames are padded to
    segmenter: dict[str, Any] = field(default_factory=dict)
    segmenter_width: int = 64  # channels of prompt encoder and mask decoder
    segmenter_batch: int = 16
    segmenter_steps: int = 5000
    face_detector: dict[str, Any] = field(default_factory=dict)
    face_size: int = 128
    face_batch: int = 24
    face_steps: int = 6000
    clip_filter: dict[str, Any] = field(default_factory=dict)
    filter_clips: int = 4096  # rendered once
    filter_batch: int = 32
    filter_steps: int = 1500
    learning_rate: float = 1e-3


SMALL = CurationScale(
    name="small",
    backbone={"embedding_size": 32, "hidden_sizes": [32, 64, 128, 192], "depths": [2, 2, 2, 1]},
    detector={"d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "num_queries": 20, "ffn": 192, "heads": 4},
    segmenter={"hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4, "mlp_dim": 288},
    clip_filter={"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 384},
)

BASE = CurationScale(
    name="base",
    backbone={"embedding_size": 32, "hidden_sizes": [48, 96, 128, 192], "depths": [2, 2, 2, 1]},
    detector={"d_model": 96, "encoder_layers": 3, "decoder_layers": 3, "num_queries": 30, "ffn": 256, "heads": 8},
    vocabulary_batch=1024,
    vocabulary_steps=4000,
    detector_batch=256,
    detector_steps=8000,
    segmenter={"hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4, "mlp_dim": 512},
    segmenter_batch=128,
    segmenter_steps=5000,
    face_batch=192,
    face_steps=4000,
    clip_filter={"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512},
    filter_clips=32_768,
    filter_batch=128,
    filter_steps=8000,
)

CURATION_SCALES = {scale.name: scale for scale in (SMALL, BASE)}
