"""The command line: what works, and how mistakes are answered (one line, exit code 2, nothing left behind)."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from video_alchemist.cli.main import main
from video_alchemist.video import read_video


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return int(stopped.value.code or 0)


@pytest.fixture
def quick(pipeline_folder: Path) -> tuple[str, ...]:
    return ("--model", str(pipeline_folder), "--num-steps", "1", "--num-frames", "1", "--device", "cpu")


def test_generate(tmp_path: Path, pictures: dict[str, Path], quick: tuple[str, ...]) -> None:
    """Guards against options that get lost on their way to the model: the sidecar tells what arrived."""
    mask = np.zeros((20, 24), dtype=np.uint8)
    mask[5:15, 5:15] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    out = tmp_path / "out" / "a.mp4"
    assert run(
        "generate", "A dog and a dog beside a robot on the beach",
        "--ref", f"dog={pictures['dog']}", "--ref", f"dog#2={pictures['cat']}",
        "--mask", f"dog={tmp_path / 'mask.png'}", "--face", f"robot={pictures['robot']}",
        "--background", f"beach={pictures['beach']}",
        "--size", "32x32", "--seed", "3", "--equation", "1", "--fps", "6", "-o", out, "--sheet", tmp_path / "sheet.png",
        *quick,
    ) == 0  # fmt: skip
    frames, fps = read_video(out)
    assert (frames.shape, fps) == ((1, 32, 32, 3), 6)
    sidecar = json.loads(out.with_suffix(".json").read_text())
    assert {key: sidecar[key] for key in ("seed", "equation", "fps", "num_steps", "size")} == {
        "seed": 3, "equation": 1, "fps": 6.0, "num_steps": 1, "size": [32, 32],
    }  # fmt: skip
    described = [tuple(row[key] for key in ("word", "kind", "view", "occurrence")) for row in sidecar["references"]]
    assert described == [
        ("dog", "subject", "whole", 0),
        ("dog", "subject", "whole", 1),
        ("robot", "subject", "face", 0),
        ("beach", "background", "whole", 0),
    ]
    assert ["mask" in row for row in sidecar["references"]] == [True, False, False, False]
    assert Image.open(tmp_path / "sheet.png").width > 5 * 128


def test_batch(tmp_path: Path, pictures: dict[str, Path], quick: tuple[str, ...], capsys) -> None:
    rows = [
        {"prompt": "A dog", "references": [{"word": "dog", "image": "pictures/dog.png"}], "output": "a.mp4"},
        {"prompt": "A cat", "seed": 1, "output": "sub/b.mp4"},
    ]
    rows = [{**row, "num_steps": 1, "num_frames": 1} for row in rows]
    (tmp_path / "jobs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert run("generate", "--batch", tmp_path / "jobs.jsonl", "-o", tmp_path / "out", *quick[:2]) == 0
    made = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert made == ["a.json", "a.mp4", "sub/b.json", "sub/b.mp4"]
    assert "2/2" in capsys.readouterr().out


def check_refused(folder: Path, capsys: pytest.CaptureFixture[str], message: str, *arguments: str | Path) -> None:
    before = sorted(folder.rglob("*"))
    capsys.readouterr()
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("alchemist: ") and error.count("\n") == 1 and message in error, error
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["A dog", "--ref", "cat={dog}"], "'cat' is not in the prompt 'A dog'; nearest words in it: "),
        (["A dog", *["--ref", "dog={dog}"] * 7], "7 reference images; expected at most 6"),
        (["A dog", "--ref", "dog={text}"], "is not an image"),
        (["A dog", "--ref", "dog={folder}/dgo.png"], "no such picture"),
        (["A dog", "--ref", "dog"], "--ref 'dog'; expected WORD=IMAGE"),
        (["A dog", "--ref", "dog#0={dog}"], "expected WORD=IMAGE, or WORD#2=IMAGE"),
        (["A dog", "--ref", "dog#2={dog}"], "occurrence 1 of 'dog'"),
        (["A dog", "--mask", "dog={dog}"], "--mask dog=... has no picture left"),
        (["A dog", "--size", "70x50"], "size 70x50; expected multiples of 16x16, nearest: 64x48"),
        (["A dog", "--size", "big"], "size 'big'; expected WIDTHxHEIGHT"),
        (["A dog", "--num-frames", "6"], "nearest: 5"),
        (["A dog", "--text-scale", "nan"], "text_scale is nan"),
        (["A dog", "--fps", "0"], "fps is 0.0"),
        (["A dog", "--seed", "x"], "Invalid value for '--seed'"),
        (["A dog", "--device", "tpu"], "device 'tpu'; this machine has cpu"),
        (["A dog", "--sise", "64x64"], "No such option: --sise"),
        ([""], "the prompt is ''"),
        ([], "expected a prompt and -o OUT.mp4"),
        (["A dog", "--batch", "{folder}/none.jsonl"], "--batch reads prompts"),
        (["A dog", "--sheet", "sheet"], "sheet 'sheet'; expected a name that ends in"),
        (["A dog", "--model", "emojiwrld"], "model 'emojiwrld'; expected 'emojiworld'"),
    ],
)
def test_mistakes(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    pictures: dict[str, Path],
    quick: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Guards against tracebacks, and against outputs of runs that failed."""
    (tmp_path / "text.png").write_text("not a picture")
    places = {"dog": pictures["dog"], "text": tmp_path / "text.png", "folder": tmp_path}
    given = [argument.format(**places) for argument in arguments]
    model = () if "--model" in given else quick[:2]
    check_refused(tmp_path, capsys, message, "generate", *given, "-o", tmp_path / "out" / "a.mp4", *model)


def test_wrong_output(tmp_path: Path, quick: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    check_refused(tmp_path, capsys, "ends in .mp4", "generate", "A dog", "-o", tmp_path / "a.gif", *quick)


def test_stderr_is_one_line(tmp_path: Path, quick: tuple[str, ...]) -> None:
    """Guards against warnings and progress bars of the libraries around the one line that matters."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    command = [sys.executable, "-m", "video_alchemist", "generate", "A dog", "--size", "70x50"]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "a.mp4"), *quick], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 2
    assert done.stderr == "alchemist: size 70x50; expected multiples of 16x16, nearest: 64x48\n"


def test_full_disk(
    tmp_path: Path, quick: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a truncated video that looks like a finished one."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert run("generate", "A dog", "-o", tmp_path / "a.mp4", *quick) == 2
    expected = f"alchemist: [Errno 28] No space left on device: '{tmp_path / 'a.mp4'}'"
    assert capsys.readouterr().err.splitlines()[-1] == expected
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", [(), ("generate",), ("world",), ("world", "render"), ("doctor",)])
def test_help_has_an_example(verb: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*verb, "--help") == 0
    text = capsys.readouterr().out
    assert "Usage:" in text
    if verb not in ((), ("world",)):
        assert f"Example: alchemist {' '.join(verb)}" in text


def test_batch_refuses_settings_it_would_ignore(tmp_path, capsys):
    """A seed or size beside --batch was read and dropped: the user got other videos than were asked for."""
    manifest = tmp_path / "requests.jsonl"
    manifest.write_text('{"prompt": "A dog", "output": "a.mp4"}\n')
    for option in (["--seed", "3"], ["--size", "64x64"], ["--num-steps", "4"]):
        with pytest.raises(SystemExit) as stopped:
            main(["generate", "--batch", str(manifest), "-o", str(tmp_path), *option])
        assert stopped.value.code == 2
        assert "expected none beside it" in capsys.readouterr().err
