"""`alchemist train` on shards: a whole run with a tiny model, what it leaves, and how mistakes are answered."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from video_alchemist.cli.main import main
from video_alchemist.cli.train import ShardRun, configured
from video_alchemist.dataset.shards import ShardDataset
from video_alchemist.emojiworld.files import write_world_shards
from video_alchemist.emojiworld.recipes import command
from video_alchemist.emojiworld.recipes.scale import Scale
from video_alchemist.sampling.pipeline import AlchemistPipeline
from video_alchemist.training.checkpoint import trained_transformer
from video_alchemist.training.plot import read_metrics
from video_alchemist.training.state import description

pytestmark = pytest.mark.filterwarnings("ignore:the text encoder reads")
ROOT = Path(__file__).parents[2]


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return int(stopped.value.code or 0)


def stages(*steps: int) -> list[str]:
    """--set options for a run of so many steps in each of emojiworld's stages."""
    names = ("I", "II-new", "II-all", "II-clips")
    settings = [f"stages.{name}.steps={count}" for name, count in zip(names, steps, strict=True)]
    settings += [f"stages.{name}.{key}=0" for name in names for key in ("warmup", "decay")]
    return [word for one in [*settings, "tokens_per_gpu=48"] for word in ("--set", one)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    list(write_world_shards(folder, 6, seed=1, size=(64, 64), num_frames=17, shard_size=3))
    return folder


def test_shards_to_model(tmp_path: Path, shards: Path, pipeline_folder: Path, capsys) -> None:
    """Guards against a verb that trains but shows, exports or resumes nothing, with precomputed columns and without."""
    common = ["train", "emojiworld", "--data", shards, "--model", pipeline_folder]
    settings = [*stages(1, 1, 1, 1), "--set", "sample_every=2"]
    assert run(*common, "-o", tmp_path / "run", "--max-steps", "3", *settings) == 0
    assert run(*common, "--precompute") == 0
    assert ShardDataset(shards).made_by("latents")["revision"]
    capsys.readouterr()
    assert run(*common, "-o", tmp_path / "run", "--export", tmp_path / "model", *settings) == 0
    assert "resuming after step 3" in capsys.readouterr().out
    rows = read_metrics(tmp_path / "run")
    assert [row["stage"] for row in rows] == ["I", "II-new", "II-all", "II-clips"]
    assert {row["bucket"] for row in rows} <= {"64x64x1", "64x64x17"} and all(row["mfu"] > 0 for row in rows)
    made = {path.name for path in (tmp_path / "run").iterdir()}
    assert made >= {"config.json", "metrics.jsonl", "loss.png", "loss_by_bucket.png", "loss_by_time.png", "checkpoints"}
    assert [path.name for path in sorted((tmp_path / "run/samples").iterdir())] == ["00000002.png", "00000004.png"]
    exported = AlchemistPipeline.from_pretrained(tmp_path / "model").transformer.state_dict()
    averaged = trained_transformer(tmp_path / "run").state_dict()
    assert exported.keys() == averaged.keys()
    assert all(torch.equal(exported[name], averaged[name]) for name in averaged)


def test_other_ranks_load_no_transformer(shards: Path, pipeline_folder: Path) -> None:
    """Guards against the whole float32 transformer in the memory of every rank: 50 GB of the paper's."""
    preset = configured("emojiworld", [])
    for model in (str(pipeline_folder), None):
        first = ShardRun.prepare(preset, str(shards), model).transformer()
        other = ShardRun.prepare(preset, str(shards), model, with_weights=False).transformer()
        assert {parameter.device.type for parameter in first.parameters()} == {"cpu"}
        assert {parameter.device.type for parameter in other.parameters()} == {"meta"}
        shapes, expected = (
            {name: (p.shape, p.dtype) for name, p in one.named_parameters()} for one in (other, first)
        )
        assert shapes == expected and description(other) == description(first)


def few_scenes() -> Scale:
    return replace(command.WORLDS["emojiworld"], image_scenes=8, clip_scenes=2, image_batch=4, clip_batch=2)


def test_rendered_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Guards against the first command of the documentation: no shards, the shipped networks, its own little world."""
    monkeypatch.setitem(command.WORLDS, "emojiworld", few_scenes())
    assert run("train", "emojiworld", "-o", tmp_path / "run", *stages(1, 0, 0, 1)) == 0
    shown = capsys.readouterr()
    assert "step 2 (done)" in shown.out and "Loading" not in shown.err
    assert [row["seen"] for row in read_metrics(tmp_path / "run")] == [4, 6]


def test_lora_is_exported_as_its_own_file(tmp_path: Path, shards: Path, pipeline_folder: Path) -> None:
    """Guards against adapters that are lost in the fused weights, or count twice or not where the file is loaded."""
    options = [*stages(0, 0, 0, 2), "--set", "stages.II-clips.trainable=lora", "--set", "lora.alpha=32"]
    words = ["train", "emojiworld", "--data", shards, "--model", pipeline_folder, *options]
    assert run(*words, "-o", tmp_path / "run", "--export", tmp_path / "model") == 0
    fused = AlchemistPipeline.from_pretrained(tmp_path / "model").transformer
    loaded = AlchemistPipeline.from_pretrained(pipeline_folder)
    loaded.load_lora_weights(tmp_path / "model", weight_name="pytorch_lora_weights.safetensors")
    generator = torch.Generator().manual_seed(0)
    z, text = torch.randn(1, 4, 1, 4, 4, generator=generator), torch.randn(1, 3, 16, generator=generator)
    with torch.no_grad():
        ours, theirs = (one(z, torch.tensor([0.5]), text) for one in (fused, loaded.transformer))
        loaded.transformer.disable_adapters()
        plain = loaded.transformer(z, torch.tensor([0.5]), text)
    torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-4)
    assert (plain - ours).abs().max() > 10 * (theirs - ours).abs().max()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["emojiwrld", "-o", "{run}"], "preset 'emojiwrld'; did you mean 'emojiworld'?"),
        (["wan", "-o", "{run}"], "preset 'wan'; "),
        (["emojiworld", "-o", "{run}", "--set", "optimzer.lr=1"], "unknown key 'optimzer.lr'"),
        (["emojiworld", "-o", "{run}", "--set", "optimizer.lr=1"], "nearest: learning_rate"),
        (["emojiworld"], "-o is missing"),
        (["paper", "-o", "{run}"], "--data is missing"),
        (["emojiworld", "--precompute"], "--data is missing"),
        (["emojiworld", "-o", "{run}", "--data", "{run}/none"], "holds no dataset.json"),
        (["emojiworld", "-o", "{run}", "--max-steps", "0"], "max_steps is 0; expected at least 1"),
        (["emojiworld", "-o", "{run}", "--time-limit", "nine"], "for example 9m"),
        (["emojiworld", "-o", "{run}", "--data", "{shards}", "--model", "{run}/none"], "none cannot be loaded"),
        (["wan_1_3b", "-o", "{run}", "--data", "{shards}", "--model", "{shards}"], "{shards}"),
        (["paper", "--dry-run", "--gpu", "a100"], "gpu 'a100'; expected one of"),
        (["paper", "--dry-run", "--mfu", "1.5"], "mfu is 1.5; expected above 0, at most 1"),
        (["paper", "--dry-run", "--mfu", "0"], "mfu is 0.0; expected above 0, at most 1"),
    ],
)
def test_mistakes(tmp_path: Path, shards: Path, arguments: list[str], message: str, capsys) -> None:
    """Guards against tracebacks, and against folders of runs that never began."""
    given = [argument.format(run=tmp_path / "run", shards=shards) for argument in arguments]
    assert run("train", *given) == 2
    error = capsys.readouterr().err
    assert error.startswith("alchemist: ") and error.count("\n") == 1, error
    assert message.format(shards=shards) in error
    assert not (tmp_path / "run").exists()


def test_missing_shard(tmp_path: Path, shards: Path, pipeline_folder: Path, capsys) -> None:
    """Guards against a run that goes on with half of its data, or ends in a traceback."""
    import shutil

    broken = shutil.copytree(shards, tmp_path / "broken")
    (broken / "index-00001.parquet").unlink()
    assert run("train", "emojiworld", "--data", broken, "--model", pipeline_folder, "-o", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "index-00001" in error


def test_token_budget() -> None:
    """Guards against a budget that changes nothing: half of Table 6's tokens is half of its batches."""
    half = configured("paper", ["tokens_per_gpu=27500", "parallel.activation_checkpointing=true"])
    full = configured("paper", [])
    assert half.buckets[0].batch_size == pytest.approx(full.buckets[0].batch_size / 2, abs=1)
    assert half.training.parallel.activation_checkpointing


# ------------------------------------------------------------------------------------------------------------------
# Minutes long


def command_of(shards: Path, model: Path, out: Path, *options: str) -> list[str]:
    return ["train", "emojiworld", "--data", str(shards), "--model", str(model), "-o", str(out), *options]


def start(arguments: list[str], ranks: int = 1) -> subprocess.Popen[bytes]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, "-m", "video_alchemist", *arguments]
    return subprocess.Popen(command, env=environment, start_new_session=True)


@pytest.mark.slow
def test_rendered_world_under_torchrun(tmp_path: Path) -> None:
    """Guards against ranks that render, encode, sample or export what one has to, or wait for what never comes."""
    script = tmp_path / "few.py"
    script.write_text(
        "from test_train import command, few_scenes, main\n"
        "command.WORLDS['emojiworld'] = few_scenes()\n"
        "main()\n"
    )
    words = ["train", "emojiworld", "-o", str(tmp_path / "run"), "--export", str(tmp_path / "model")]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    path = os.pathsep.join([str(ROOT / "src"), str(Path(__file__).parent)])
    for steps in ("2", "4"):
        options = ["--max-steps", steps, "--set", "sample_every=3", *stages(2, 1, 0, 1)]
        done = subprocess.run(
            [*launcher, *words, *options],
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count(f"step {steps} (") == 1 and "Loading" not in done.stderr
    assert [row["stage"] for row in read_metrics(tmp_path / "run")] == ["I", "I", "II-new", "II-clips"]
    assert [path.name for path in (tmp_path / "run/samples").iterdir()] == ["00000003.png"]
    assert AlchemistPipeline.from_pretrained(tmp_path / "model").transformer.config["personalization"]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_200_steps_with_a_kill_are_200_steps(tmp_path: Path, shards: Path, pipeline_folder: Path, ranks: int) -> None:
    """Guards against a data position, a bucket or a draw that the killed process took with it; latents precomputed.

    On one rank bit for bit; on two within the noise of their sums.
    """
    assert run("train", "emojiworld", "--data", shards, "--model", pipeline_folder, "--precompute") == 0
    options = [*stages(80, 40, 60, 20), "--set", "checkpoint.every=20", "--set", "micro_batches=2"]
    options += ["--set", "optimizer.learning_rate=1e-4"]
    whole, killed = (command_of(shards, pipeline_folder, tmp_path / name, *options) for name in ("whole", "killed"))
    steps = random.Random(time.time_ns()).randint(25, 190)
    process = start(killed, ranks)
    while process.poll() is None and len(read_metrics(tmp_path / "killed")) < steps:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() != 0
    assert start(killed, ranks).wait() == 0
    assert start(whole).wait() == 0
    expected, found = read_metrics(tmp_path / "whole"), read_metrics(tmp_path / "killed")
    assert len(expected) == len(found) == 200
    weights = [trained_transformer(tmp_path / name).state_dict() for name in ("whole", "killed")]
    if ranks == 1:
        assert [row["loss"] for row in found] == [row["loss"] for row in expected]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    else:
        assert [row["loss"] for row in found] == pytest.approx([row["loss"] for row in expected], rel=1e-4)
    assert json.loads((tmp_path / "killed/config.json").read_text())["micro_batches"] == 2
