"""The quality role: our head beside LAION's names and rule, and bound to the encoder that it was trained upon."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from video_alchemist.pretrained.quality_model import PROBE, EmbeddingQuality, QualityHead, load_aesthetic, probe

LAION = {  # names and shapes of sac+logos+ava1-l14-linearMSE.pth
    "layers.0.weight": (1024, 768), "layers.0.bias": (1024,), "layers.2.weight": (128, 1024), "layers.2.bias": (128,),
    "layers.4.weight": (64, 128), "layers.4.bias": (64,), "layers.6.weight": (16, 64), "layers.6.bias": (16,),
    "layers.7.weight": (1, 16), "layers.7.bias": (1,),
}  # fmt: skip


class Encoder:
    """Stands in for CLIP: an embedding of a picture's first values, turned by an angle."""

    def __init__(self, turned: float = 0.0) -> None:
        self.turned = turned

    def texts(self, captions: Sequence[str]) -> np.ndarray:
        raise AssertionError("no text has a quality")

    def images(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        values = np.stack([frame[:4, 0, :2].ravel().astype(np.float32) for frame in frames]) + 1
        return 3 * np.concatenate([values + self.turned * values[:, ::-1], values[:, :2]], axis=1)


def test_names_and_shapes_of_laions_file() -> None:
    """Guards against a head that the public file does not fit."""
    with torch.device("meta"):
        names = {name: tuple(value.shape) for name, value in QualityHead().state_dict().items()}
    assert names == LAION


def test_scores_of_laions_head(tmp_path: Path, weights_of: Callable[[Any], Any]) -> None:
    """Guards against activations between the layers, dropout that is left on, and embeddings that are not brought to
    unit length: the published head's rule, written out."""
    weights = weights_of(LAION)
    torch.save(weights, tmp_path / "aesthetic.pth")
    quality = EmbeddingQuality.from_pretrained(tmp_path / "aesthetic.pth")
    embeddings = np.random.RandomState(0).standard_normal((3, 768)).astype(np.float32) * [[1], [10], [0.1]]
    x = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    for i in (0, 2, 4, 6, 7):
        x = x @ weights[f"layers.{i}.weight"].numpy().T + weights[f"layers.{i}.bias"].numpy()
    scores = quality(embeddings.astype(np.float32))
    assert scores.shape == (3,) and scores.dtype == np.float32
    np.testing.assert_allclose(scores, x[:, 0], atol=1e-5)
    quality.check(Encoder())  # LAION's file does not tell whose embeddings it wants, but for their width


def test_small_head_in_a_folder(tmp_path: Path) -> None:
    """Guards against a configuration that a folder loses, scores beyond [0, 1], and half-precision copies refused."""
    torch.manual_seed(0)
    head = QualityHead((10, 6, 1), bounded=True, probe=probe(Encoder()))
    head.save_pretrained(tmp_path / "whole")
    head.half().save_pretrained(tmp_path / "half")
    embeddings = Encoder().images(np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), np.uint8))
    scores = [EmbeddingQuality.from_pretrained(tmp_path / name)(embeddings) for name in ("whole", "half")]
    assert scores[0].shape == (5,) and 0 < scores[0].min() < scores[0].max() < 1
    np.testing.assert_allclose(*scores, atol=2e-3)
    EmbeddingQuality.from_pretrained(tmp_path / "half").check(Encoder(turned=0.003))


def test_another_encoder_is_refused() -> None:
    """Guards against a head upon embeddings that mean something else, which gives numbers all the same."""
    quality = EmbeddingQuality(QualityHead((10, 1), bounded=True, probe=probe(Encoder())))
    with pytest.raises(ValueError, match="was trained upon another image and text encoder"):
        quality.check(Encoder(turned=0.5))
    with pytest.raises(ValueError, match="embeddings of 4 channels for a quality model of 10"):
        quality(np.ones((2, 4), np.float32))
    assert PROBE.shape == (64, 64, 3) and len(np.unique(PROBE.reshape(-1, 3), axis=0)) == 64 * 64


def test_other_files_are_refused(tmp_path: Path) -> None:
    """Guards against the file with ReLUs, or any other, read as if it were this one."""
    torch.save({name.replace("layers.2", "layers.3"): torch.zeros(shape) for name, shape in LAION.items()},
               tmp_path / "relu.pth")  # fmt: skip
    with pytest.raises(ValueError, match="does not fit QualityHead: 4 names or shapes differ; first 'layers.2.bias'"):
        load_aesthetic(tmp_path / "relu.pth")
