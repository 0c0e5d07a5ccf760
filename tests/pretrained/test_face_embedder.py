"""ArcFace's role: our network beside arcface_torch's names and answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from video_alchemist.pretrained.face_embedder import ArcFaceEmbedder, IResNet, load_arcface


def shapes(network: IResNet) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def test_names_and_shapes_of_iresnet100(digest_of: Callable[[Any], str]) -> None:
    """Guards against a network that the public r100 files do not fit. The digest is that of arcface_torch's own
    iresnet100, of 925 names."""
    with torch.device("meta"):
        names = shapes(IResNet())
    assert names["layer1.0.bn1.weight"] == names["bn1.weight"] == (64,)
    assert names["layer3.29.conv2.weight"] == (256, 256, 3, 3)
    assert names["layer4.0.downsample.0.weight"] == (512, 256, 1, 1)
    assert names["fc.weight"] == (512, 25088) and names["features.running_mean"] == (512,)
    assert len(names) == 925
    assert digest_of(names) == "dc48aa67c7449a7caf250153f36da2fc4a3288e632c3667206a7cda2a14b3842"


def test_answers_of_arcface_torch(tmp_path: Path, weights_of: Callable[[Any], Any]) -> None:
    """Guards against layers in another order, another scale of colours or another way to resize. The numbers are those
    of arcface_torch's iresnet with the same weights, of 2, 1, 1, 1 blocks and for crops of 32 x 32."""
    with torch.device("meta"):
        names = shapes(IResNet((2, 1, 1, 1), size=32, embedding=64))
    torch.save(weights_of(names), tmp_path / "backbone.pth")
    crops = np.random.RandomState(1).randint(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    embedder = ArcFaceEmbedder.from_pretrained(tmp_path / "backbone.pth")
    expected = [[-7.6462, 17.5793, 2.8806, 5.8464], [-16.1852, 3.3169, 5.8352, 6.5737]]
    np.testing.assert_allclose(embedder(list(crops))[:, [0, 7, 30, 63]], expected, atol=1e-3)


def test_small_network_in_a_folder(tmp_path: Path) -> None:
    """Guards against a configuration that a folder loses, answers that depend on the batch, and crops resized by
    another rule than OpenCV's bilinear one."""
    torch.manual_seed(0)
    network = IResNet((1, 1, 2, 1), width=8, size=32, embedding=16)
    network(torch.randn(8, 3, 32, 32))  # so that batch norms have something to remember
    network.save_pretrained(tmp_path / "folder")
    torch.save(network.state_dict(), tmp_path / "file.pth")
    rng = np.random.default_rng(0)
    crops = [rng.integers(0, 256, shape, np.uint8) for shape in ((20, 50, 3), (64, 48, 3), (32, 32, 3))]
    resized = np.stack([cv2.resize(crop, (32, 32)) for crop in crops]).transpose(0, 3, 1, 2)
    with torch.no_grad():
        expected = network.eval()((torch.from_numpy(resized) / 255 - 0.5) / 0.5)
    for name in ("folder", "file.pth"):
        for batch in (1, 2, 8):
            embedder = ArcFaceEmbedder.from_pretrained(tmp_path / name)
            embedder.batch = batch
            np.testing.assert_allclose(embedder(crops), expected, atol=1e-5)
    assert embedder([]).shape == (0, 16)


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="face crops of size 40; expected a multiple of 16, nearest: 32"):
        IResNet(size=40)
    torch.save({"fnet.conv1.weight": torch.zeros(1)}, tmp_path / "raft.pth")
    with pytest.raises(ValueError, match="raft.pth' names fnet.conv1.weight, ...; expected arcface_torch's names"):
        load_arcface(tmp_path / "raft.pth")
