"""From open weights to a personalised video and its scores: Wan's classes tiny, EmojiWorld's shards, trainer, sampler,
benchmark."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from video_alchemist.benchmark.results import read_result
from video_alchemist.cli.main import main
from video_alchemist.cli.train import ShardRun
from video_alchemist.dataset.buckets import Bucket
from video_alchemist.emojiworld.files import write_world_shards
from video_alchemist.presets import Preset, build_pipeline
from video_alchemist.records import Reference
from video_alchemist.sampling.pipeline import AlchemistPipeline
from video_alchemist.training.config import TrainConfig
from video_alchemist.training.stages import Stage
from video_alchemist.training.state import description


def train(preset: Preset, steps: int, folder: Path) -> dict[str, torch.Tensor]:
    """So many steps of II-new, exported to "new", and as many of II-all, to "model". The open weights."""
    for _ in write_world_shards(folder / "shards", 8, size=(32, 32), num_frames=9):
        pass
    stages = (
        Stage("II-new", personalization=True, trainable="personalization", steps=steps, warmup=0, learning_rate=1e-2),
        Stage("II-all", personalization=True, trainable="all", steps=steps, warmup=0, learning_rate=1e-3),
    )
    training: TrainConfig = replace(preset.training, stages=stages, ema_decay=0.5, tracker="none")
    preset = replace(preset, training=training, buckets=(Bucket((32, 32), 5, 2, 1.0),))
    run = ShardRun.prepare(preset, str(folder / "shards"), None)
    before = {name: value.clone() for name, value in run.pipeline.transformer.state_dict().items()}
    run.train(folder / "run", {"max_steps": steps, "time_limit": None}, folder / "new")
    run = ShardRun.prepare(preset, str(folder / "shards"), None)
    run.train(folder / "run", {"max_steps": None, "time_limit": None}, folder / "model")
    return before


def test_stage_two_on_open_weights(
    wan_preset: Preset, pictures: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against any seam between Wan's weights, the trainer and the sampler: both parts of stage II, exports, and
    videos that depend on the reference, as they did not before."""
    monkeypatch.setattr("video_alchemist.training.plot.curves", lambda folder: [])  # half of the time, drawn below
    before = train(wan_preset, 2, tmp_path)
    new, model = (AlchemistPipeline.from_pretrained(tmp_path / name) for name in ("new", "model"))
    after = new.transformer.state_dict()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, atol=0, rtol=0)  # II-new leaves the open weights alone
    assert (model.config["pad_text"], model.config["time_shift"]["832x480"]) == (True, 3.0)
    assert any((model.transformer.state_dict()[name] != value).any() for name, value in before.items())
    for pipeline in (new, model):
        pipeline.set_progress_bar_config(disable=True)
        dog, cat = (
            pipeline("A dog", [Reference("dog", pictures[name])], output_type="latent").frames[0]
            for name in ("dog", "cat")
        )
        assert dog.isfinite().all() and not torch.allclose(dog, cat, atol=1e-4)


@pytest.mark.slow
def test_trained_sampled_and_scored(wan_preset: Preset, tmp_path: Path) -> None:
    """Guards against a model on open weights that the benchmark cannot sample from, or whose videos it cannot judge:
    30 steps of stage II, and what `alchemist bench` makes of them with the networks that ship."""
    train(wan_preset, 15, tmp_path)
    data, videos, result = (tmp_path / name for name in ("data", "videos", "result"))
    for command in (
        ["prepare", "--world", "--truth", "--num-samples", 4, "-o", data],
        ["generate", "--data", data, "--model", tmp_path / "model", "--mode", "all", "-o", videos],
        ["score", videos, "--data", data, "--mode", "all", "-o", result],
    ):
        with pytest.raises(SystemExit, match="0"):
            main(["bench", *map(str, command)])
    scored = read_result(result)
    assert scored.summary["counts"]["found"] == 4 and not scored.summary["failed"]
    for metric in ("text_similarity", "video_similarity", "subject_similarity", "dynamic_degree"):
        assert any(value is not None for value in scored.values[metric].values()), metric


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process of its own: no ranks, whatever started the tests."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def test_other_ranks_load_shapes_alone(wan_preset: Preset) -> None:
    """Guards against open weights that every rank reads whole, or shapes that are not those that the first rank has."""
    whole = build_pipeline(wan_preset).transformer
    shapes = build_pipeline(wan_preset, with_weights=False).transformer
    assert all(parameter.is_meta for parameter in shapes.parameters())
    assert description(shapes) == description(whole)
    expected = {name: (parameter.shape, parameter.dtype) for name, parameter in whole.named_parameters()}
    assert {name: (parameter.shape, parameter.dtype) for name, parameter in shapes.named_parameters()} == expected
