"""The loop: stages, resuming, stopping, and what stands in the run folder."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from video_alchemist.training import checkpoint
from video_alchemist.training.config import CheckpointConfig, OptimizerConfig, TrainConfig
from video_alchemist.training.plot import read_metrics
from video_alchemist.training.stages import Stage
from video_alchemist.training.trainer import average_of, extend, train, update_ema

STAGES = (
    Stage("I", personalization=False, trainable="all", steps=6, warmup=0),
    Stage("II-new", personalization=True, trainable="personalization", steps=6, warmup=4),
    Stage("II-all", personalization=True, trainable="all", steps=8, warmup=0),
)


def config(**changes: Any) -> TrainConfig:
    optimizer = OptimizerConfig(learning_rate=1e-2)
    return TrainConfig(**{"stages": STAGES, "optimizer": optimizer, "checkpoint": CheckpointConfig(8), **changes})


def assert_equal(first: torch.nn.Module, second: torch.nn.Module) -> None:
    ours, theirs = first.state_dict(), second.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.parametrize("pause", [3, 6, 8])
def test_resuming_is_bit_exact(tmp_path: Path, transformer, source, pause: int) -> None:
    """Guards against state that a checkpoint forgets: within stage I, at the boundary, and after layers were added.

    Dropout, drops and noise are on, and batches accumulate, so any draw that depends on the past would show.
    """
    settings = config(accumulation=2)
    whole = train(transformer(), source(), settings, tmp_path / "whole")
    train(transformer(), source(), settings, tmp_path / "parts", max_steps=pause)
    parts = train(transformer(), source(), settings, tmp_path / "parts")
    assert (whole.step, whole.stopped) == (parts.step, parts.stopped) == (20, "done")
    assert_equal(whole.transformer, parts.transformer)
    assert_equal(whole.ema, parts.ema)
    rows, again = read_metrics(tmp_path / "whole"), read_metrics(tmp_path / "parts")
    for name in ("step", "stage", "loss", "grad_norm", "seen"):
        assert [row[name] for row in rows] == [row[name] for row in again]
    assert (rows[-1]["step"], rows[-1]["seen"]) == (20, 80)


def test_workers_change_nothing(tmp_path: Path, transformer, source) -> None:
    """Guards against batches out of order or drawn differently when processes make them."""
    alone = train(transformer(), source(), config(), tmp_path / "alone", max_steps=8)
    helped = train(transformer(), source(), config(data_workers=2), tmp_path / "helped", max_steps=8)
    assert_equal(alone.transformer, helped.transformer)


def test_crash_after_the_checkpoint_is_made_good(tmp_path: Path, transformer, source) -> None:
    """Guards against rows counted twice, and a leftover of the write that a kill interrupted being believed."""
    settings = config(checkpoint=CheckpointConfig(every=4, keep=9))
    whole = train(transformer(), source(), settings, tmp_path / "whole")
    train(transformer(), source(), settings, tmp_path / "killed", max_steps=10)
    (tmp_path / "killed/checkpoints/00000010").rename(tmp_path / "killed/checkpoints/00000010.tmp")
    with (tmp_path / "killed/metrics.jsonl").open("a") as file:
        file.write('{"step": 11, "st')
    resumed = train(transformer(), source(), settings, tmp_path / "killed")
    assert_equal(whole.transformer, resumed.transformer)
    assert [row["step"] for row in read_metrics(tmp_path / "killed")] == list(range(1, 21))


def test_backbone_is_fixed_while_new_layers_learn(tmp_path: Path, transformer, source) -> None:
    """Guards against weight decay or momentum that moves frozen weights, and new layers that get no gradient."""
    before = train(transformer(), source(), config(), tmp_path, max_steps=6).transformer
    after = train(transformer(), source(), config(), tmp_path, max_steps=12).transformer
    new = {name for name, _ in after.personalization_parameters()}
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, after.state_dict()[name])
    assert new and new.isdisjoint(before.state_dict())
    assert all(block.reference_attn.out.weight.abs().max() > 1e-3 for block in after.blocks)
    rates = [row["learning_rate"] for row in read_metrics(tmp_path)]
    assert rates == pytest.approx([0.01] * 6 + [0.0025, 0.005, 0.0075, 0.01, 0.01, 0.01])


def test_average_gets_the_same_new_layers(transformer) -> None:
    """Guards against an average whose new layers are drawn apart from the weights that it follows."""
    network = transformer()
    ema = average_of(network)
    torch.nn.init.ones_(ema.patch_embedding.weight)
    extended, extended_ema = extend(network, seed=5), extend(ema, seed=5)
    for name, parameter in extended_ema.personalization_parameters():
        assert torch.equal(parameter, extended.get_parameter(name))
    assert extended.binding.projection.weight.any()
    assert torch.equal(extended_ema.patch_embedding.weight, ema.patch_embedding.weight)


def test_batches_without_images_leave_the_new_layers_alone(tmp_path: Path, transformer, source) -> None:
    """Guards against a backward pass through nothing: a batch without images while only their layers train."""
    done = train(transformer(), source(with_images=False), config(), tmp_path, max_steps=8)
    assert done.step == 8 and [row["grad_norm"] for row in read_metrics(tmp_path)][6:] == [0, 0]


def test_sources_may_differ_by_stage(tmp_path: Path, transformer, source) -> None:
    """Guards against a stage that goes on with the data of the one before."""
    sizes = {"I": 2, "II-new": 3, "II-all": 4}
    train(transformer(), lambda stage: source(size=sizes[stage.name]), config(), tmp_path)
    assert read_metrics(tmp_path)[-1]["seen"] == 6 * 2 + 6 * 3 + 8 * 4


def test_training_learns(tmp_path: Path, transformer, source) -> None:
    """Guards against a sign error anywhere in the loop: the loss on one repeated batch falls well below 2."""

    class Same:
        def batch(self, step: int):
            made = source(size=16).batch(0)
            made.z0.fill_(1.0)
            return made

    stages = (Stage("I", False, "all", steps=60, warmup=5),)
    optimizer = OptimizerConfig(learning_rate=1e-2, gradient_clipping=1.0)
    train(transformer(), Same(), config(stages=stages, optimizer=optimizer, dropout=0.0), tmp_path)
    losses = [row["loss"] for row in read_metrics(tmp_path)]
    assert losses[0] == pytest.approx(2, rel=0.2) and sum(losses[-10:]) / 10 < 1


def test_gradients_are_clipped(tmp_path: Path, transformer, source) -> None:
    """Guards against clipping that is not applied: a first AdamW step with a huge eps moves by lr * g / eps."""
    optimizer = OptimizerConfig(learning_rate=1.0, weight_decay=0.0, gradient_clipping=0.05, eps=1e4)
    before = transformer().state_dict()
    after = train(transformer(), source(), config(optimizer=optimizer), tmp_path, max_steps=1).transformer.state_dict()
    moved = torch.stack([(after[name] - before[name]).double().norm() for name in before]).norm() * 1e4
    assert read_metrics(tmp_path)[0]["grad_norm"] > 0.05
    assert moved.item() == pytest.approx(0.05, rel=0.05)


def test_only_matrices_decay(tmp_path: Path, transformer, source) -> None:
    """Guards against weight decay on biases: where no gradient counts (eps huge), only matrices shrink."""
    optimizer = OptimizerConfig(learning_rate=0.1, weight_decay=0.5, eps=1e12)
    network = transformer()
    torch.nn.init.ones_(network.patch_embedding.bias)
    before = network.patch_embedding.weight.detach().clone()
    after = train(network, source(), config(optimizer=optimizer), tmp_path, max_steps=1).transformer.patch_embedding
    assert torch.allclose(after.weight, before * 0.95) and torch.equal(after.bias, torch.ones(32))


def test_ema_in_closed_form() -> None:
    """Guards against the average and the weights swapped: decays 1/10, 2/11, then the bound."""
    ema, model = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(ema.weight)
    torch.nn.init.ones_(model.weight)
    values = []
    for num_updates, bound in ((0, 0.9), (1, 0.9), (1000, 0.5)):
        update_ema(ema, model, num_updates, bound)
        values.append(ema.weight.item())
    assert values == pytest.approx([0.9, 1 - 0.1 * 2 / 11, 1 - 0.1 / 11])


def test_time_limit_stops_with_a_checkpoint(tmp_path: Path, transformer, source) -> None:
    """Guards against time that runs out before anything was saved."""
    done = train(transformer(), source(), config(), tmp_path, time_limit=0.0)
    assert (done.step, done.stopped) == (1, "time limit")
    path = checkpoint.newest(tmp_path / "checkpoints")
    assert path is not None and path.name == "00000001"
    assert_equal(checkpoint.load(path).transformer, done.transformer)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_signal_stops_with_a_checkpoint(tmp_path: Path, transformer, source, name: str) -> None:
    """Guards against a scheduler's or a user's stop that loses the run, or leaves our handlers behind."""
    usual = signal.getsignal(signal.Signals[name])
    done = train(
        transformer(),
        source(),
        config(sample_every=3),
        tmp_path,
        on_sample=lambda ema, step, folder: os.kill(os.getpid(), signal.Signals[name]),
    )
    assert (done.step, done.stopped) == (3, name)
    assert (tmp_path / "checkpoints/00000003/state.json").exists()
    assert signal.getsignal(signal.Signals[name]) is usual


def test_nan_stops_before_it_reaches_the_weights(tmp_path: Path, transformer, source) -> None:
    """Guards against a NaN that is trained on, or whose step nobody can find again."""
    settings = config(checkpoint=CheckpointConfig(every=2))
    with pytest.raises(ValueError, match="loss nan.* at step 5 of stage I"):
        train(transformer(), source(nan_at=4), settings, tmp_path)
    assert json.loads((tmp_path / "failure.json").read_text())["step"] == 5
    path = checkpoint.newest(tmp_path / "checkpoints")
    assert path is not None and path.name == "00000004"
    assert all(tensor.isfinite().all() for tensor in checkpoint.load(path).transformer.state_dict().values())


def test_samples_are_drawn_from_the_average(tmp_path: Path, transformer, source) -> None:
    """Guards against samples of the raw weights, with dropout, or at the wrong steps."""
    seen: list[int] = []

    def on_sample(ema, step: int, folder: Path) -> None:
        assert not ema.training and folder == tmp_path / "samples" and folder.is_dir()
        seen.append(step)

    train(transformer(), source(), config(sample_every=4), tmp_path, max_steps=9, on_sample=on_sample)
    assert seen == [4, 8]


def test_another_transformer_is_refused(tmp_path: Path, transformer, source) -> None:
    """Guards against a run folder continued, in silence, with sizes other than those asked for."""
    train(transformer(), source(), config(), tmp_path, max_steps=1)
    with pytest.raises(ValueError, match="has depth 2, the transformer 3"):
        train(transformer(depth=3), source(), config(), tmp_path)


def test_changed_configuration_is_said(tmp_path: Path, transformer, source, capsys) -> None:
    """Guards against a resumed run that differs from the first call in silence; one progress line every log_every."""
    train(transformer(), source(), config(log_every=2), tmp_path, max_steps=3)
    assert len(capsys.readouterr().out.splitlines()) == 2
    train(transformer(), source(), config(log_every=2, seed=1), tmp_path, max_steps=3)
    assert "configuration changed: seed: 0 -> 1" in capsys.readouterr().out
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 1
