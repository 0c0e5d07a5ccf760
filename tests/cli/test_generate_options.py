"""Options for little memory and several ranks, as far as a machine without a GPU can take them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from video_alchemist.cli.main import main


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
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
