"""Checkpoints are whole or not there, and are written beside training."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import STAGES, RandomSource, config, make_transformer
from torch.distributed.checkpoint.filesystem import FileSystem

from video_alchemist.training import checkpoint, parallel
from video_alchemist.training.checkpoint import Checkpoints, Progress
from video_alchemist.training.config import CheckpointConfig, ParallelConfig, TrainConfig
from video_alchemist.training.stages import Stage
from video_alchemist.training.state import State, build, description, enter
from video_alchemist.training.trainer import train


@pytest.fixture
def ranks():
    with parallel.joined(ParallelConfig(), "cpu") as one:
        yield one


def stepped(ranks: parallel.Ranks, **changes: Any) -> State:
    """Weights, averages and moments that all differ from their beginnings."""
    state = enter(build(make_transformer(personalization=True, **changes), ranks, config()), STAGES[2], ranks, config())
    for parameter in state.transformer.parameters():
        parameter.grad = parameter.detach() + 0.1
    state.optimizer.step()
    state.update_ema(0, 0.999)
    return state


def write(folder: Path, state: State, step: int, keep: int = 2) -> Path:
    checkpoints = Checkpoints(folder, keep)
    checkpoints.save(state.tensors(), Progress(step, 8 * step), {"layers": description(state.transformer)})
    checkpoints.wait()
    return folder / f"{step:08d}"


def test_round_trip_is_exact_and_of_the_moment(tmp_path: Path, ranks) -> None:
    """Guards against lost bits, names or steps of moments; and against weights that change while they are written."""
    state = stepped(ranks)
    before = {name: tensor.full_tensor().clone() for name, tensor in state.tensors().items() if "step" not in name}
    checkpoints = Checkpoints(tmp_path, 1)
    checkpoints.save(state.tensors(), Progress(2, 16), {"layers": description(state.transformer)})
    with torch.no_grad():
        for parameter in state.transformer.parameters():
            parameter.add_(1.0)
    checkpoints.wait()
    path = checkpoint.newest(tmp_path)
    assert path is not None and (checkpoint.read_state(path)["step"], checkpoint.read_state(path)["seen"]) == (2, 16)
    again = build(checkpoint.hollow(checkpoint.read_state(path)["layers"]), ranks, config(), filled=False)
    checkpoint.restore(path, again)
    found = again.tensors()
    assert found.keys() == state.tensors().keys() and "exp_avg.binding.projection.weight" in found
    assert [name for name, tensor in before.items() if not torch.equal(found[name].full_tensor(), tensor)] == []
    assert found["step.patch_embedding.weight"] == 1


def test_only_the_newest_are_kept(tmp_path: Path, ranks) -> None:
    """Guards against a disk that fills up, and against deleting the wrong end."""
    state = stepped(ranks)
    for step in (5, 10, 100):
        write(tmp_path, state, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000010", "00000100"]


def test_half_written_checkpoints_are_passed_over(tmp_path: Path, ranks) -> None:
    """Guards against resuming from what a kill left: a temporary folder, a file cut short, no state.json."""
    state = stepped(ranks)
    good = write(tmp_path, state, 1, keep=9)
    cut, empty = write(tmp_path, state, 2, keep=9), write(tmp_path, state, 3, keep=9)
    weights = next(cut.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-10])
    (empty / "state.json").unlink()
    (tmp_path / "00000004.tmp").mkdir()
    with pytest.warns(UserWarning, match="broken and passed over"):
        assert checkpoint.newest(tmp_path) == good
    write(tmp_path, state, 5, keep=9)
    assert list(tmp_path.glob("*.tmp")) == []


def test_a_run_of_an_older_version_is_not_begun_anew(tmp_path: Path, ranks) -> None:
    """Guards against a run's metrics and checkpoints overwritten because none of them could be read."""
    path = write(tmp_path, stepped(ranks), 9)
    described = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({key: described[key] for key in ("step", "seen", "files")}))
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="can be read; .*00000009: written by an older"):
        checkpoint.newest(tmp_path)


def test_trained_transformer_is_the_average_and_forgets_its_folder(tmp_path: Path, ranks) -> None:
    """Guards against sampling with the raw weights, and against a machine's paths in shipped files."""
    state = stepped(ranks)
    write(tmp_path / "checkpoints", state, 1)
    loaded = checkpoint.trained_transformer(tmp_path)
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, state.ema[name].full_tensor()) and not parameter.requires_grad
    last = checkpoint.trained_transformer(tmp_path, averaged=False)
    assert torch.equal(last.binding.projection.weight, state.transformer.binding.projection.weight.full_tensor())
    assert not loaded.training
    loaded.save_pretrained(tmp_path / "again")
    assert str(tmp_path) not in (tmp_path / "again" / "config.json").read_text()
    with pytest.raises(ValueError, match="no whole checkpoint"):
        checkpoint.trained_transformer(tmp_path / "nowhere")


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a full disk that ruins the last checkpoint, leaves half of a new one, or goes unnoticed."""
    settings = config(checkpoint=CheckpointConfig(every=4))
    train(make_transformer(), RandomSource(), settings, tmp_path, max_steps=4)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(FileSystem, "create_stream", full)
    with pytest.raises(OSError, match=r"00000008 could not be written: .*No space left.*00000004, stands"):
        train(make_transformer(), RandomSource(), settings, tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["00000004"]
    monkeypatch.undo()
    assert train(make_transformer(), RandomSource(), settings, tmp_path, max_steps=8).step == 8


def test_layers_that_no_stage_trains_have_no_average(tmp_path: Path) -> None:
    """Guards against a second copy of a frozen backbone, and an export that lacks it; LoRA is fused into it."""
    stages = (Stage("lora", personalization=False, trainable="lora", steps=3, warmup=0),)
    backbone = make_transformer()
    for parameter in backbone.parameters():  # gates that are closed would keep gradients from the adapters
        torch.nn.init.normal_(parameter, std=0.1)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    settings: TrainConfig = config(stages=stages, dropout=0.0)
    train(backbone, RandomSource(), settings, tmp_path)
    path = checkpoint.newest(tmp_path / "checkpoints")
    assert path is not None
    from safetensors import safe_open

    with safe_open(next(path.glob("*.safetensors")), "pt") as file:
        names = set(file.keys())
    trained = {name.removeprefix("exp_avg.") for name in names if name.startswith("exp_avg.")}
    assert trained and all("lora_" in name for name in trained)
    assert {name.removeprefix("ema.") for name in names if name.startswith("ema.")} == trained
    fused = checkpoint.trained_transformer(tmp_path).state_dict()
    assert fused.keys() == before.keys()
    changed = {name.split(".")[2] for name in before if not torch.equal(fused[name], before[name])}
    assert changed == {"self_attn", "text_attn"}
    resumed = train(make_transformer(), RandomSource(), settings, tmp_path)
    assert resumed.step == 3 and json.loads((path / "state.json").read_text())["layers"]["lora"]["rank"] == 16
