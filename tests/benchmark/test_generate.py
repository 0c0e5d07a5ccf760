"""Making the videos that are judged: each method, resuming, and what fails."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from video_alchemist.benchmark.generate import generate
from video_alchemist.video import read_video

WRITER = """
import shutil, sys
ready, output, prompt, seed, *references = sys.argv[1:]
if "cat" in prompt:
    sys.exit("no cats")
word, _, path = references[0].partition("=")
print(open(path, "rb").read(4), file=open(f"{ready}.{word}.{seed}.txt", "a"))
shutil.copy(ready, output)
"""


def described(folder: Path) -> dict:
    return json.loads((folder / "generation.json").read_text())


def test_the_extremes(tiny_data, tmp_path):
    """The copy-paste extreme is a still of the first reference frame; the upper bound the clip itself, bit for bit."""
    generate(tiny_data, "first_frame", tmp_path / "still", mode="all")
    frames, fps = read_video(tmp_path / "still/pair.mp4")
    assert frames.shape == (5, 32, 64, 3) and fps == 12.0
    assert np.abs(frames.astype(int) - tiny_data["pair"].frames[0]).mean() < 4
    made = generate(tiny_data, "ground_truth", tmp_path / "truth", mode="all")
    assert (made.made, made.kept, made.failures) == (3, 0, {})
    assert (tmp_path / "truth/one.mp4").read_bytes() == tiny_data.member("one", "video")
    assert described(tmp_path / "truth")["data"] == tiny_data.fingerprint


def test_our_pipeline(tiny_data, pipeline, tmp_path):
    """Variants give other videos, a batch the same as one by one, and a sample that cannot be shown stops no other."""
    options = {"mode": "all", "settings": {"num_frames": 1}}
    generate(tiny_data, "pipeline", tmp_path / "a", pipeline, variant="single", seeds=(1, 2), batch_size=2, **options)
    generate(tiny_data, "pipeline", tmp_path / "b", pipeline, variant="single", seeds=(1,), **options)
    made = generate(tiny_data, "pipeline", tmp_path / "c", pipeline, variant="background", batch_size=3, **options)
    batched, alone, other = (
        read_video(tmp_path / name)[0].astype(int) for name in ("a/seed-1/one.mp4", "b/one.mp4", "a/seed-2/one.mp4")
    )
    assert np.abs(batched - alone).max() <= 2 < np.abs(other - alone).max()
    assert made.made == 1 and set(made.unfit) == {"pair", "trio-plain"}
    sidecar = json.loads((tmp_path / "c/one.json").read_text())
    assert [one["kind"] for one in sidecar["references"]] == ["subject"] * 3 + ["background"]


def test_resuming(tiny_data, pipeline, tmp_path):
    """What is there is kept, what was lost is made again, and other settings are not mixed in."""
    options = {"mode": "all", "variant": "text", "settings": {"num_frames": 1, "size": (32, 16)}}
    generate(tiny_data, "pipeline", tmp_path / "v", pipeline, **options, num_samples=2)
    (tmp_path / "v/one.mp4").unlink()
    stamp = (tmp_path / "v/pair.mp4").stat().st_mtime_ns
    seen: list[tuple[int, int]] = []
    made = generate(tiny_data, "pipeline", tmp_path / "v", pipeline, **options, on_done=lambda *n: seen.append(n))
    assert (made.made, made.kept) == (2, 1) and seen == [(2, 3), (3, 3)]
    assert (tmp_path / "v/pair.mp4").stat().st_mtime_ns == stamp
    with pytest.raises(ValueError, match=r"holds videos of variant 'text', not 'single'; expected a new folder"):
        generate(tiny_data, "pipeline", tmp_path / "v", pipeline, **{**options, "variant": "single"})
    (tmp_path / "v/generation.json").unlink()
    with pytest.raises(ValueError, match="holds no generation.json"):
        generate(tiny_data, "pipeline", tmp_path / "v", pipeline, **options)


def test_an_external_command(tiny_data, tmp_path):
    """Prompt, pictures, seed and output reach the program as they are, without a shell; its failures are listed."""
    (tmp_path / "writer.py").write_text(WRITER)
    ready = tmp_path / "a ready.mp4"
    ready.write_bytes(tiny_data.member("one", "video"))
    command = f"{sys.executable} -IS {tmp_path}/writer.py '{ready}' {{output}} {{prompt}} {{seed}} {{references}}"
    made = generate(tiny_data, "external", tmp_path / "videos", mode="all", seeds=(7, 8), command=command)
    assert made.failures == {f"seed-{seed}/trio-plain.mp4": "exit status 1: no cats" for seed in (7, 8)}
    for seed in (7, 8):
        assert {path.name for path in (tmp_path / f"videos/seed-{seed}").iterdir()} == {"one.mp4", "pair.mp4"}
        assert Path(f"{ready}.dog.{seed}.txt").read_text() == "b'\\x89PNG'\n" * 2
    assert (tmp_path / "videos/seed-8/pair.mp4").read_bytes() == ready.read_bytes()


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("pass", "wrote nothing to {output}"),
        ("open(sys.argv[1], 'w').write('x')", "is not a video"),
        ("import time; time.sleep(9)", "took longer than"),
    ],
)
def test_what_external_programs_do_wrong(tiny_data, tmp_path, program, message):
    """Guards against scoring files that are no videos, and against waiting for ever."""
    command = f'{sys.executable} -ISc "import sys; {program}" {{output}}'
    with pytest.raises(ValueError, match="none of 1 videos could be made.*" + message.replace("{", r"\{")):
        generate(tiny_data, "external", tmp_path / "v", mode="face", command=command, timeout=1.0)
    assert {path.name for path in (tmp_path / "v").iterdir()} == {"generation.json"}


def test_samples_without_the_pictures_are_not_asked_for(tiny_data, tmp_path):
    """Guards against samples that nobody could make and that later count as missing; what is asked for is noted."""
    (tmp_path / "clip.mp4").write_bytes(tiny_data.member("one", "video"))
    copy = f"cp {tmp_path / 'clip.mp4'} {{output}}"
    made = generate(tiny_data, "external", tmp_path / "v", command=copy, mode="all", variant="background")
    assert made.made == 1 and not made.failures and list(made.unfit) == ["pair", "trio-plain"]
    assert "no background picture" in made.unfit["pair"]
    assert described(tmp_path / "v")["samples"] == ["one"]
    with pytest.raises(ValueError, match="no sample of mode 'multi' suits variant 'face'; the first: pair has no face"):
        generate(tiny_data, "external", tmp_path / "w", command=copy, variant="face", mode="multi", num_samples=1)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("pipelin", {}, "did you mean 'pipeline'"),
        ("pipeline", {}, "method 'pipeline' with pipeline None"),
        ("external", {}, "only 'external' has a command"),
        ("external", {"command": "no-such-program {output}"}, "a program that can be run"),
        ("external", {"command": "true {promt} {output}"}, "did you mean 'prompt'"),
        ("external", {"command": "true {prompt}"}, "has no {output}"),
        ("external", {"command": "true --ref={references} {output}"}, "expected it alone"),
        ("first_frame", {"seeds": (1, 1)}, "expected different numbers"),
        ("first_frame", {"num_samples": 0}, "no samples"),
        ("first_frame", {"settings": {"frames": 1}}, "unknown setting 'frames'"),
    ],
)
def test_requests_that_cannot_be_met(tiny_data, tmp_path, method, options, message):
    """Told before anything is made."""
    with pytest.raises(ValueError, match=message.replace("{", r"\{")):
        generate(tiny_data, method, tmp_path / "v", **options)
    assert not (tmp_path / "v").exists()
