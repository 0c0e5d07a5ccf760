"""Checkpoints are whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from video_alchemist.training import checkpoint
from video_alchemist.training.checkpoint import Progress
from video_alchemist.training.config import OptimizerConfig
from video_alchemist.training.trainer import average_of, make_optimizer


def write(folder: Path, network, step: int, keep: int = 2) -> Path:
    return checkpoint.save(folder, network, average_of(network), {}, Progress(step, 8 * step), {"stage": "I"}, keep)


def test_round_trip_is_exact(tmp_path: Path, transformer) -> None:
    """Guards against weights or moments that lose bits, names or their step on the way through the files."""
    network = transformer(personalization=True)
    optimizer = make_optimizer(network, OptimizerConfig(), {})
    for _ in range(2):
        for parameter in network.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    moments = checkpoint.optimizer_moments(optimizer, network)
    path = checkpoint.save(tmp_path, network, average_of(network), moments, Progress(2, 16), {"stage": "II"}, keep=1)
    loaded = checkpoint.load(path)
    assert loaded.progress == Progress(2, 16)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, loaded.transformer.state_dict()[name])
    restored = make_optimizer(loaded.transformer, OptimizerConfig(), loaded.moments)
    again = checkpoint.optimizer_moments(restored, loaded.transformer)
    assert again.keys() == moments.keys() and all(torch.equal(again[name], moments[name]) for name in moments)
    assert moments["step.patch_embedding.weight"] == 2


def test_only_the_newest_are_kept(tmp_path: Path, transformer) -> None:
    """Guards against a disk that fills up, and against deleting the wrong end."""
    for step in (5, 10, 100):
        write(tmp_path, transformer(), step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000010", "00000100"]


def test_half_written_checkpoints_are_passed_over(tmp_path: Path, transformer) -> None:
    """Guards against resuming from what a kill left: a temporary folder, a file cut short, no state.json."""
    good = write(tmp_path, transformer(), 1, keep=9)
    cut, empty = write(tmp_path, transformer(), 2, keep=9), write(tmp_path, transformer(), 3, keep=9)
    weights = cut / "ema" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    (empty / "state.json").unlink()
    (tmp_path / "00000004.tmp" / "transformer").mkdir(parents=True)
    with pytest.warns(UserWarning, match="broken and passed over"):
        assert checkpoint.newest(tmp_path) == good
    write(tmp_path, transformer(), 5, keep=9)
    assert list(tmp_path.glob("*.tmp")) == []


def test_trained_transformer_is_the_average_and_forgets_its_folder(tmp_path: Path, transformer) -> None:
    """Guards against sampling with the raw weights, and against a machine's paths in shipped files."""
    network = transformer()
    ema = average_of(network)
    torch.nn.init.ones_(ema.patch_embedding.weight)
    checkpoint.save(tmp_path / "checkpoints", network, ema, {}, Progress(1, 1), {}, keep=1)
    loaded = checkpoint.trained_transformer(tmp_path)
    assert torch.equal(loaded.patch_embedding.weight, ema.patch_embedding.weight) and not loaded.training
    loaded.save_pretrained(tmp_path / "again")
    assert str(tmp_path) not in (tmp_path / "again" / "config.json").read_text()
    with pytest.raises(ValueError, match="no whole checkpoint"):
        checkpoint.trained_transformer(tmp_path / "nowhere")
