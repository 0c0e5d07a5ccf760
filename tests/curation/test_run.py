"""`alchemist curate` and its sub-verbs as they are typed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from square_roles import PROFILE, Squares

from video_alchemist.cli.main import main
from video_alchemist.curation import engine
from video_alchemist.curation.executors import Inline, Processes
from video_alchemist.curation.manifest import freeze
from video_alchemist.curation.pack import finish
from video_alchemist.curation.profile import emojiworld, override
from video_alchemist.curation.run import curate, make_executor, make_stages
from video_alchemist.curation.sources import list_sources


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return int(stopped.value.code or 0)


def test_verb_and_subverbs_have_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against `curate report` taken for a folder named report, and against a verb that hides its options."""
    for arguments, words in {
        ("curate", "--help"): ("Example: alchemist curate videos -o shards", "--split-shots", "curate takedown"),
        ("curate", "report", "--help"): ("Example: alchemist curate report shards",),
        ("curate", "takedown", "--help"): ("Example: alchemist curate takedown shards",),
    }.items():
        assert run(*arguments) == 0
        text = capsys.readouterr().out
        assert all(word in " ".join(text.split()) for word in words), text


def test_help_imports_nothing_heavy() -> None:
    """Guards against a help that takes seconds."""
    code = (
        "import sys; from video_alchemist.cli.main import main\n"
        "try: main(['curate', '--help'])\nexcept SystemExit: pass\n"
    )
    code += "print(sorted({'torch', 'numpy', 'av', 'cv2', 'pyarrow', 'ray'} & sys.modules.keys()), file=sys.stderr)"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stderr == "[]\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none", "-o", "out"], "no such video, folder or table: 'none'"),
        (["{v}", "-o", "out", "--profile", "papr"], "profile 'papr'; expected one of emojiworld, paper"),
        (["{v}", "-o", "out", "--engine", "spark"], "engine 'spark'; expected local or ray"),
        (["{v}", "-o", "out", "--stage", "x"], "stage 'x'; expected one of annotate, background, all"),
        (["{v}", "-o", "out", "--set", "grounding.mask=1"], "no setting 'grounding.mask'"),
        (["{v}"], "--output"),
        (["report", "{v}"], "holds no dataset.json"),
        (["takedown", "{v}", "a-1"], "dataset.json"),
        (["report"], "Missing argument"),
    ],
)
def test_mistakes(
    arguments: list[str], message: str, tmp_path: Path, videos, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Guards against tracebacks, and against folders of runs that never began."""
    monkeypatch.chdir(tmp_path)
    videos.write(tmp_path / "v" / "a.mp4", videos.numbered(12))
    assert run("curate", *(one.format(v=tmp_path / "v") for one in arguments)) == 2
    error = capsys.readouterr().err
    assert error.startswith("alchemist: ") and error.count("\n") == 1 and message in error, error
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_worker_processes(tmp_path: Path, videos) -> None:
    """Guards against stages that cannot travel to a process."""
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "a b;c.mp4").touch()
    videos.write(tmp_path / "v" / "short.mp4", videos.numbered(4))
    curate(tmp_path / "v", tmp_path / "out", PROFILE, executor=Processes(1), make_roles=Squares)
    funnel = json.loads((tmp_path / "out" / "dataset.json").read_text())["funnel"]
    assert funnel == {"empty_file": 1, "too_short": 1}


def test_missing_models_stop_the_run(tmp_path: Path, videos, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against good videos that are rejected because a model is not there: before the run, and in a worker."""
    videos.write(tmp_path / "v" / "a.mp4", videos.numbered(30))
    assert run("curate", tmp_path / "v", "-o", tmp_path / "out", "--profile", "paper") == 2
    assert "names no clip_filter; expected --set models.clip_filter=" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    profile = override(emojiworld(tmp_path), f"models.clip_filter={tmp_path / 'empty'}")
    with pytest.raises(ValueError, match="clip_filter: '.*empty' is not complete"):
        engine.run(
            tmp_path / "out",
            freeze(list_sources(tmp_path / "v"), tmp_path / "out"),
            make_stages(profile),
            Inline(),
            finish,
        )
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_executors() -> None:
    assert make_executor("local", 3).workers == make_executor("ray", 3).workers == 3
