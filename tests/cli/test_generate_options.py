"""Options for little memory and several ranks, as far as a machine without a GPU can take them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from video_alchemist.cli.main import main
from video_alchemist.sampling.pipeline import AlchemistPipeline


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return int(stopped.value.code or 0)


def test_options_arrive(tmp_path: Path, pictures: dict[str, Path], pipeline_folder: Path) -> None:
    """Guards against options that are read but not handed on."""
    out = tmp_path / "a.mp4"
    assert run(
        "generate", "A dog", "--ref", f"dog={pictures['dog']}", "--negative-prompt", "A cat",
        "--branches", "sequential", "--fp8", "--tiling",
        "--model", pipeline_folder, "--num-frames", "1", "--num-steps", "1", "--device", "cpu", "-o", out,
    ) == 0  # fmt: skip
    assert json.loads(out.with_suffix(".json").read_text())["negative_prompt"] == "A cat"


def test_lora(tmp_path: Path, pictures: dict[str, Path], pipeline_folder: Path) -> None:
    """Guards against LoRA files that change nothing, a weight that is not heeded, and videos that no sidecar can make
    again."""
    layers = {
        "blocks.0.ffn.up.lora_A.weight": torch.ones(2, 32),
        "blocks.0.ffn.up.lora_B.weight": torch.ones(128, 2),
    }
    for name, scale in (("one", 1.0), ("two", 0.5)):
        weights = {key: scale * tensor for key, tensor in layers.items()}
        AlchemistPipeline.save_lora_weights(tmp_path / name, transformer_lora_layers=weights)
    made = {}
    for number, options in enumerate(
        ((), ("--lora", tmp_path / "one"), ("--lora", f"{tmp_path / 'one'}=0"), ("--lora", f"{tmp_path / 'two'}=4.0"))
    ):
        out = tmp_path / f"{number}.mp4"
        assert run(
            "generate", "A dog", "--ref", f"dog={pictures['dog']}", "--model", pipeline_folder, "--num-frames", "1",
            "--num-steps", "1", "--device", "cpu", "-o", out, *options,
        ) == 0  # fmt: skip
        made[number] = (out.read_bytes(), json.loads(out.with_suffix(".json").read_text())["model"]["lora"])
    (plain, none), (one, [worn]), (silent, [muted]), (fourfold, [other]) = made.values()
    assert plain == silent != one == fourfold  # half of A and half of B, four times
    assert none == [] and (worn["weight"], muted["weight"], other["weight"]) == (1, 0, 4)
    assert worn["sha256"] == muted["sha256"] != other["sha256"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--lora", "style.safetensors"), "no such LoRA: 'style.safetensors'; expected a file, a folder, or a hub id"),
        (("--lora", "style=nan"), "--lora 'style=nan'; expected FILE or FILE=WEIGHT"),
        (("--offload", "disk"), "offload 'disk'; expected none, model or group"),
        (("--offload", "model"), "offload 'model' from the cpu to the cpu; expected none, or another --device"),
        (("--branches", "serial"), "branches 'serial'; expected one of batched, sequential, parallel"),
        (("--branches", "parallel"), "--branches parallel; expected torchrun --nproc-per-node 3"),
    ],
)
def test_wrong_options(
    tmp_path: Path, pipeline_folder: Path, options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against tracebacks, and against options that are ignored where they cannot work."""
    command = ("generate", "A dog", "--model", pipeline_folder, "--device", "cpu", "-o", tmp_path / "a.mp4")
    assert run(*command, *options) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "a.mp4").exists()
