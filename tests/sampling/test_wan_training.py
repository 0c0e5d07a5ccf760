"""From open weights to a personalised video: Wan's classes tiny, EmojiWorld's shards, the trainer and the sampler."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from video_alchemist.cli.train import ShardRun
from video_alchemist.dataset.buckets import Bucket
from video_alchemist.emojiworld.files import write_world_shards
from video_alchemist.presets import Preset
from video_alchemist.records import Reference
from video_alchemist.sampling.pipeline import AlchemistPipeline
from video_alchemist.training.config import TrainConfig
from video_alchemist.training.stages import Stage


def test_stage_two_on_open_weights(wan_preset: Preset, pictures: dict[str, Path], tmp_path: Path) -> None:
    """Guards against any seam between Wan's weights, the trainer and the sampler: 30 steps of stage II, an export, and
    videos that depend on the reference, as they did not before."""
    for _ in write_world_shards(tmp_path / "shards", 8, size=(32, 32), num_frames=9):
        pass
    stages = (
        Stage("II-new", personalization=True, trainable="personalization", steps=15, warmup=2, learning_rate=1e-2),
        Stage("II-all", personalization=True, trainable="all", steps=15, warmup=0, learning_rate=1e-3),
    )
    training: TrainConfig = replace(wan_preset.training, stages=stages, ema_decay=0.5, tracker="none")
    preset = replace(wan_preset, training=training, buckets=(Bucket((32, 32), 5, 2, 1.0),))

    run = ShardRun.prepare(preset, str(tmp_path / "shards"), None)
    before = {name: value.clone() for name, value in run.pipeline.transformer.state_dict().items()}
    run.train(tmp_path / "run", {"max_steps": 15, "time_limit": None}, tmp_path / "new")
    new = AlchemistPipeline.from_pretrained(tmp_path / "new")
    after = new.transformer.state_dict()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, atol=0, rtol=0)  # II-new leaves the open weights alone
    ShardRun.prepare(preset, str(tmp_path / "shards"), None).train(
        tmp_path / "run", {"max_steps": None, "time_limit": None}, tmp_path / "model"
    )
    model = AlchemistPipeline.from_pretrained(tmp_path / "model")
    assert (model.config["pad_text"], model.config["time_shift"]["832x480"]) == (True, 3.0)
    assert any((model.transformer.state_dict()[name] != value).any() for name, value in before.items())
    for pipeline in (new, model):
        pipeline.set_progress_bar_config(disable=True)
        dog, cat = (
            pipeline("A dog", [Reference("dog", pictures[name])], output_type="latent").frames[0]
            for name in ("dog", "cat")
        )
        assert dog.isfinite().all() and not torch.allclose(dog, cat, atol=1e-4)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process of its own: no ranks, whatever started the tests."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
