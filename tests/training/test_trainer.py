"""The loop: stages, resuming, stopping, and what stands in the run folder."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from tiny_training import STAGES, STEPS, config

from video_alchemist.training import checkpoint
from video_alchemist.training.checkpoint import trained_transformer
from video_alchemist.training.config import CheckpointConfig, OptimizerConfig
from video_alchemist.training.plot import read_metrics
from video_alchemist.training.stages import Stage
from video_alchemist.training.trainer import train


def assert_equal(first: torch.nn.Module, second: torch.nn.Module) -> None:
    ours, theirs = first.state_dict(), second.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_resuming_at_boundaries_is_bit_exact(tmp_path: Path, transformer, source) -> None:
    """Guards against layers added twice, or not at all, where a stage ends with the call, or a step after it began.

    Dropout, drops and noise are on, and batches accumulate, so any draw that depends on the past would show.
    """
    settings = config(micro_batches=2)
    train(transformer(), source(), settings, tmp_path / "whole")
    for steps in (6, 7, None):
        done = train(transformer(), source(), settings, tmp_path / "parts", max_steps=steps)
    assert (done.step, done.stopped) == (STEPS, "done")
    for averaged in (True, False):
        assert_equal(*(trained_transformer(tmp_path / name, averaged) for name in ("whole", "parts")))
    rows, again = read_metrics(tmp_path / "whole"), read_metrics(tmp_path / "parts")
    for name in ("step", "stage", "loss", "grad_norm", "seen"):
        assert [row[name] for row in rows] == [row[name] for row in again]
    assert (rows[-1]["step"], rows[-1]["seen"]) == (20, 80)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_change_nothing(tmp_path: Path, transformer, source) -> None:
    """Guards against batches out of order or drawn differently when processes make them."""
    for workers in (0, 2):
        train(transformer(), source(), config(data_workers=workers), tmp_path / str(workers), max_steps=4)
    assert_equal(*(trained_transformer(tmp_path / name) for name in ("0", "2")))


@pytest.mark.parametrize("workers", [0, 1])
def test_missing_data_is_one_line(tmp_path: Path, transformer, source, workers: int) -> None:
    """Guards against a worker's traceback in the place of its message, and a checkpoint lost with the run."""
    settings = config(data_workers=workers, checkpoint=CheckpointConfig(every=2))
    with pytest.raises(ValueError, match=r"^shard 3 is missing; expected clips-00003.tar$"):
        train(transformer(), source(missing_at=5), settings, tmp_path)
    path = checkpoint.newest(tmp_path / "checkpoints")
    assert path is not None and path.name == "00000004"


def test_backbone_is_fixed_while_new_layers_learn(tmp_path: Path, transformer, source) -> None:
    """Guards against weight decay or momentum that moves frozen weights, and new layers that get no gradient."""
    train(transformer(), source(), config(), tmp_path, max_steps=6)
    before = trained_transformer(tmp_path, averaged=False).state_dict()
    train(transformer(), source(), config(), tmp_path, max_steps=12)
    after = trained_transformer(tmp_path, averaged=False)
    new = {name for name, _ in after.personalization_parameters()}
    for name, tensor in before.items():
        assert torch.equal(tensor, after.state_dict()[name])
    assert new and new.isdisjoint(before)
    assert all(block.reference_attn.out.weight.abs().max() > 1e-3 for block in after.blocks)
    rates = [row["learning_rate"] for row in read_metrics(tmp_path)]
    assert rates == pytest.approx([0.01] * 6 + [0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01])


def test_batches_without_images_teach_the_new_layers_nothing(tmp_path: Path, transformer, source) -> None:
    """Guards against ranks that differ in what has a gradient: all have one, and here it is zero."""
    train(transformer(), source(with_images=False), config(), tmp_path, max_steps=8)
    assert [row["grad_norm"] for row in read_metrics(tmp_path)][6:] == [0, 0]


def test_lora_after_the_stages_trains_its_adapters_alone(tmp_path: Path, transformer, source) -> None:
    """Guards against adapters that leave the backbone, or the personalization layers, thawed."""
    lora = Stage("lora", personalization=True, trainable="lora", steps=3, warmup=0)
    settings = config(stages=(STAGES[0], lora), dropout=0.0)
    train(transformer(), source(), settings, tmp_path, max_steps=6)
    before = trained_transformer(tmp_path, averaged=False).state_dict()
    train(transformer(), source(), settings, tmp_path)
    after = trained_transformer(tmp_path, averaged=False).state_dict()
    changed = {name.split(".")[2] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"self_attn", "text_attn"} and read_metrics(tmp_path)[-1]["grad_norm"] > 0
    assert not any(after[name].any() for name in after if "reference_attn.out" in name)


def test_sources_may_differ_by_stage(tmp_path: Path, transformer, source) -> None:
    """Guards against a stage that goes on with the data of the one before, or is not told of its micro-batches."""
    sizes = {"I": 2, "II-new": 3, "II-all": 4}

    def source_of(stage: Stage, micro_batches: int):
        assert micro_batches == 2
        return source(size=sizes[stage.name])

    train(transformer(), source_of, config(micro_batches=2), tmp_path)
    assert read_metrics(tmp_path)[-1]["seen"] == 2 * (6 * 2 + 6 * 3 + 8 * 4)


def test_sources_may_be_encoded_on_the_way(tmp_path: Path, transformer, source) -> None:
    """Guards against `encode` being passed over, or seeing batches that were moved or changed before."""

    class Words:
        def batch(self, index: int) -> str:
            return f"batch {index}"

    def encode(words: str):
        return source().batch(int(words.removeprefix("batch ")))

    train(transformer(), source(), config(), tmp_path / "plain", max_steps=4)
    train(transformer(), Words(), config(), tmp_path / "encoded", max_steps=4, encode=encode)
    assert_equal(*(trained_transformer(tmp_path / name) for name in ("plain", "encoded")))


def test_training_learns(tmp_path: Path, transformer, source) -> None:
    """Guards against a sign error anywhere in the loop: the loss on one repeated batch falls well below 2."""

    class Same:
        def batch(self, index: int):
            made = source(size=16).batch(0)
            made.z0.fill_(1.0)
            return made

    stages = (Stage("I", False, "all", steps=60, warmup=5),)
    optimizer = OptimizerConfig(learning_rate=1e-2, gradient_clipping=1.0)
    settings = config(stages=stages, optimizer=optimizer, dropout=0.0, checkpoint=CheckpointConfig(100))
    train(transformer(), Same(), settings, tmp_path)
    losses = [row["loss"] for row in read_metrics(tmp_path)]
    assert losses[0] == pytest.approx(2, rel=0.2) and sum(losses[-10:]) / 10 < 1


def test_gradients_are_clipped(tmp_path: Path, transformer, source) -> None:
    """Guards against clipping that is not applied: a first AdamW step with a huge eps moves by lr * g / eps."""
    optimizer = OptimizerConfig(learning_rate=1.0, weight_decay=0.0, gradient_clipping=0.05, eps=1e4)
    before = transformer().state_dict()
    train(transformer(), source(), config(optimizer=optimizer), tmp_path, max_steps=1)
    after = trained_transformer(tmp_path, averaged=False).state_dict()
    moved = torch.stack([(after[name] - before[name]).double().norm() for name in before]).norm() * 1e4
    assert read_metrics(tmp_path)[0]["grad_norm"] > 0.05
    assert moved.item() == pytest.approx(0.05, rel=0.05)


def test_only_matrices_decay(tmp_path: Path, transformer, source) -> None:
    """Guards against weight decay on biases: where no gradient counts (eps huge), only matrices shrink."""
    optimizer = OptimizerConfig(learning_rate=0.1, weight_decay=0.5, eps=1e12)
    network = transformer()
    torch.nn.init.ones_(network.patch_embedding.bias)
    before = network.patch_embedding.weight.detach().clone()
    train(network, source(), config(optimizer=optimizer), tmp_path, max_steps=1)
    after = trained_transformer(tmp_path, averaged=False).patch_embedding
    assert torch.allclose(after.weight, before * 0.95) and torch.equal(after.bias, torch.ones(32))


def test_time_limit_stops_with_a_checkpoint(tmp_path: Path, transformer, source) -> None:
    """Guards against time that runs out before anything was saved."""
    done = train(transformer(), source(), config(), tmp_path, time_limit=0.0)
    assert (done.step, done.stopped) == (1, "time limit")
    path = checkpoint.newest(tmp_path / "checkpoints")
    assert path is not None and path.name == "00000001"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_signal_stops_with_a_checkpoint(tmp_path: Path, transformer, source, name: str) -> None:
    """Guards against a scheduler's or a user's stop that loses the run, or leaves our handlers behind.

    Ranks agree at the end of a step, so the signal that comes between step 3 and 4 stops after 4.
    """
    usual = signal.getsignal(signal.Signals[name])
    done = train(
        transformer(),
        source(),
        config(sample_every=3),
        tmp_path,
        on_sample=lambda ema, step, folder: os.kill(os.getpid(), signal.Signals[name]),
    )
    assert (done.step, done.stopped) == (4, name)
    assert (tmp_path / "checkpoints/00000004/state.json").exists()
    assert signal.getsignal(signal.Signals[name]) is usual


def test_nan_stops_before_it_reaches_the_weights(tmp_path: Path, transformer, source) -> None:
    """Guards against a NaN that is trained on, or whose clips nobody can find again."""
    settings = config(checkpoint=CheckpointConfig(every=2), micro_batches=2)
    with pytest.raises(ValueError, match="loss nan.* at step 5 of stage I"):
        train(transformer(), source(nan_at=9), settings, tmp_path)
    failure = json.loads((tmp_path / "failure.json").read_text())
    assert (failure["step"], failure["stage"]["name"]) == (5, "I")
    assert [batch["ids"] for batch in failure["batches"]] == [["clip-8-0", "clip-8-1"], ["clip-9-0", "clip-9-1"]]
    assert [batch["losses"][0] == "nan" for batch in failure["batches"]] == [False, True]
    path = checkpoint.newest(tmp_path / "checkpoints")
    assert path is not None and path.name == "00000004"
    assert all(tensor.isfinite().all() for tensor in trained_transformer(tmp_path).state_dict().values())


def test_samples_are_drawn_from_the_average(tmp_path: Path, transformer, source) -> None:
    """Guards against samples of the raw weights, with dropout, or at the wrong steps."""
    seen: dict[int, torch.nn.Module] = {}

    def on_sample(averaged, step: int, folder: Path) -> None:
        assert not averaged.training and folder == tmp_path / "samples" and folder.is_dir()
        seen[step] = averaged

    train(transformer(), source(), config(sample_every=4), tmp_path, max_steps=8, on_sample=on_sample)
    assert list(seen) == [4, 8]
    assert_equal(seen[8], trained_transformer(tmp_path))


def test_another_transformer_is_refused(tmp_path: Path, transformer, source) -> None:
    """Guards against a run folder continued, in silence, with sizes other than those asked for."""
    train(transformer(), source(), config(), tmp_path, max_steps=1)
    with pytest.raises(ValueError, match="has depth 2, the transformer 3"):
        train(transformer(depth=3), source(), config(), tmp_path)


def test_run_keeps_its_micro_batches(tmp_path: Path, transformer, source) -> None:
    """Guards against other data after a resume: what a step is was decided when the run began."""
    train(transformer(), source(), config(micro_batches=3), tmp_path, max_steps=1)
    train(transformer(), source(), config(), tmp_path, max_steps=2)
    assert read_metrics(tmp_path)[-1]["seen"] == 2 * 3 * 2


def test_changed_configuration_is_said(tmp_path: Path, transformer, source, capsys) -> None:
    """Guards against a resumed run that differs from the first call in silence; one progress line every log_every."""
    train(transformer(), source(), config(log_every=2), tmp_path, max_steps=3)
    assert len(capsys.readouterr().out.splitlines()) == 2
    train(transformer(), source(), config(log_every=2, seed=1), tmp_path, max_steps=3)
    assert "configuration changed: seed: 0 -> 1" in capsys.readouterr().out
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 1
