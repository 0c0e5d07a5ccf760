"""Making the videos that are judged (§4.2): by our pipeline, by another system's command, or from the true clip.

VIDEOS/<id>.mp4          of one seed; of several: VIDEOS/seed-0/<id>.mp4, VIDEOS/seed-1/<id>.mp4, ...
VIDEOS/generation.json   what they were made by, of which samples, and which could not be made
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from video_alchemist.benchmark.modes import VARIANTS, conditioning
from video_alchemist.benchmark.samples import BenchmarkData, Sample
from video_alchemist.dataset.shards import did_you_mean
from video_alchemist.dataset.storage import write_durably
from video_alchemist.records import Reference
from video_alchemist.sampling.request import Request
from video_alchemist.video import read_video, write_video

if TYPE_CHECKING:
    from video_alchemist.sampling.pipeline import AlchemistPipeline

# first_frame: the copy-paste extreme, a still of the first reference frame. ground_truth: the upper bound.
METHODS = ("pipeline", "first_frame", "ground_truth", "external")
CONDITIONED = ("pipeline", "external")  # methods that are given pictures
ROOT = "generation.json"
SETTINGS = ("num_frames", "size", "num_steps", "text_scale", "image_scale", "equation")  # of a Request
PLACEHOLDERS = ("prompt", "references", "output", "seed")


@dataclass(frozen=True)
class Generation:
    """What is to be made. settings: of our pipeline, by SETTINGS' names; None and absent = the model's own.

    command: of method "external": the program and its arguments. {prompt}, {output} and {seed} are filled in; an
    argument {references} becomes one WORD=PICTURE for each picture. No shell reads it. timeout: seconds a video.
    """

    method: str = "pipeline"
    variant: str = "single"
    mode: str = "subject"
    seeds: tuple[int, ...] = (0,)
    settings: dict[str, Any] = field(default_factory=dict)
    command: str | None = None
    timeout: float | None = None

    def check(self) -> None:
        for name, value, known in (("method", self.method, METHODS), ("variant", self.variant, VARIANTS)):
            if value not in known:
                raise ValueError(f"{name} {value!r}; expected one of {', '.join(known)}{did_you_mean(value, known)}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds are {list(self.seeds)}; expected different numbers from 0, at least one")
        unknown = [key for key in self.settings if key not in SETTINGS]
        if unknown:
            near = did_you_mean(unknown[0], SETTINGS)
            raise ValueError(f"unknown setting {unknown[0]!r}; expected one of {', '.join(SETTINGS)}{near}")
        if (self.method == "external") != (self.command is not None):
            raise ValueError(f"method {self.method!r} with command {self.command!r}; only 'external' has a command")
        if self.command is not None:
            _check_command(self.command)


@dataclass(frozen=True)
class Generated:
    """Numbers of videos, and why the others were not made, by their path in VIDEOS. unfit: samples that have not the
    pictures which the variant shows, and so are not asked for."""

    made: int
    kept: int
    failures: dict[str, str]
    unfit: dict[str, str]


@dataclass(frozen=True)
class _Task:
    sample_id: str
    seed: int
    path: Path


def generate(
    data: BenchmarkData,
    method: str,
    output: str | Path,
    pipeline: AlchemistPipeline | None = None,
    *,
    variant: str = "single",
    mode: str = "subject",
    seeds: Sequence[int] = (0,),
    num_samples: int | None = None,
    batch_size: int = 1,
    settings: dict[str, Any] | None = None,
    command: str | None = None,
    timeout: float | None = None,
    on_done: Callable[[int, int], None] | None = None,
) -> Generated:
    """Makes VIDEOS of a mode's samples; the same command resumes. What cannot be made is listed, the rest goes on.

    num_samples: the first so many of the mode. on_done: told how many videos of how many are done.
    """
    output = Path(output)
    wanted = Generation(method, variant, mode, tuple(seeds), dict(settings or {}), command, timeout)
    wanted.check()
    if (method == "pipeline") != (pipeline is not None):
        raise ValueError(f"method {method!r} with pipeline {pipeline!r:.60}; only 'pipeline' has one")
    ids = data.ids(mode)[:num_samples]
    if not ids or (num_samples is not None and num_samples < 1):
        raise ValueError(f"no samples: mode {mode!r} has {len(data.ids(mode))}, num_samples is {num_samples}")
    unfit = _unfit(data, ids, wanted)
    if len(unfit) == len(ids):
        raise ValueError(f"no sample of mode {mode!r} suits variant {variant!r}; the first: {unfit[ids[0]]}")
    ids = [one for one in ids if one not in unfit]
    described = _describe(wanted, data, pipeline)
    asked = _begin(output, described, ids)
    folders = [output / f"seed-{seed}" if len(seeds) > 1 else output for seed in seeds]
    tasks = [
        _Task(one, seed, folder / f"{one}.mp4") for seed, folder in zip(seeds, folders, strict=True) for one in ids
    ]
    for folder in folders:
        folder.mkdir(exist_ok=True)
    left = [task for task in tasks if not task.path.exists()]
    failures: dict[str, str] = {}
    done = len(tasks) - len(left)
    for task, failure in _make(left, wanted, data, pipeline, batch_size):
        if failure is not None:
            failures[task.path.relative_to(output).as_posix()] = failure
        done += 1
        if on_done:
            on_done(done, len(tasks))
    _write(output, described | {"samples": asked, "failures": failures})
    if failures and len(failures) == len(tasks):
        raise ValueError(f"none of {len(tasks)} videos could be made; the first: {next(iter(failures.values()))}")
    return Generated(len(left) - len(failures), len(tasks) - len(left), failures, unfit)


def _unfit(data: BenchmarkData, ids: Sequence[str], wanted: Generation) -> dict[str, str]:
    """Samples without the pictures of the variant, and what they lack."""
    found: dict[str, str] = {}
    if wanted.method in CONDITIONED and wanted.variant != "text":
        for one in ids:
            try:
                conditioning(data[one], wanted.variant, wanted.mode)
            except ValueError as error:
                found[one] = str(error)
    return found


def _make(
    tasks: Sequence[_Task],
    wanted: Generation,
    data: BenchmarkData,
    pipeline: AlchemistPipeline | None,
    batch_size: int,
) -> Iterator[tuple[_Task, str | None]]:
    """Makes every video; each task as it is done, with the reason if it failed."""
    if pipeline is not None:
        for first in range(0, len(tasks), batch_size):
            yield from _sampled(tasks[first : first + batch_size], wanted, data, pipeline)
        return
    for task in tasks:
        failure = None
        try:
            if wanted.method == "external":
                _run_external(task, wanted, data[task.sample_id])
            elif wanted.method == "ground_truth":
                write_durably(task.path, data.member(task.sample_id, "video"))
            else:
                sample = data[task.sample_id]
                write_video(task.path, np.repeat(sample.frames[0][None], sample.num_frames, axis=0), sample.fps)
        except ValueError as error:
            failure = str(error)
        yield task, failure


def _sampled(
    tasks: Sequence[_Task], wanted: Generation, data: BenchmarkData, pipeline: AlchemistPipeline
) -> Iterator[tuple[_Task, str | None]]:
    """A batch by our pipeline. If it is refused, one by one: a sample must not keep others from being made."""
    try:
        requests = [_request(task, wanted, data[task.sample_id]) for task in tasks]
        for _ in pipeline.generate_each(requests, len(requests)):
            pass
    except ValueError as error:
        if len(tasks) == 1:
            yield tasks[0], str(error)
            return
        for task in tasks:
            yield from _sampled([task], wanted, data, pipeline)
    else:
        yield from ((task, None) for task in tasks)


def _request(task: _Task, wanted: Generation, sample: Sample) -> Request:
    references = conditioning(sample, wanted.variant, wanted.mode)
    return Request(sample.prompt, references, task.seed, **wanted.settings, output=task.path)


# ------------------------------------------------------------------------------------------------------------------
# Another system's command


def _check_command(command: str) -> None:
    arguments = shlex.split(command)
    if not arguments or shutil.which(arguments[0]) is None:
        raise ValueError(f"command {command!r}; expected a program that can be run, and its arguments")
    names = re.findall(r"\{(\w+)\}", command)
    unknown = [name for name in names if name not in PLACEHOLDERS]
    if unknown:
        near = did_you_mean(unknown[0], PLACEHOLDERS)
        raise ValueError(f"{{{unknown[0]}}} in the command; expected {{{'}, {'.join(PLACEHOLDERS)}}}{near}")
    if "output" not in names:
        raise ValueError(f"command {command!r} has no {{output}}; expected the place of the video in it")
    if any("{references}" in argument and argument != "{references}" for argument in arguments):
        raise ValueError("{references} within an argument; expected it alone: it becomes several")


def _run_external(task: _Task, wanted: Generation, sample: Sample) -> None:
    """Runs the command for one sample; its video counts when it can be read."""
    with tempfile.TemporaryDirectory(prefix="alchemist-") as folder:
        video = Path(folder, "video.mp4")  # not there yet: some programs will not write over a file
        references = conditioning(sample, wanted.variant, wanted.mode)
        pictures = [_write_picture(Path(folder), i, reference) for i, reference in enumerate(references)]
        values = {"prompt": sample.prompt, "output": str(video), "seed": str(task.seed)}
        arguments = [
            filled
            for argument in shlex.split(str(wanted.command))
            for filled in (pictures if argument == "{references}" else [_filled(argument, values)])
        ]
        try:
            done = subprocess.run(
                arguments, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                timeout=wanted.timeout,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise ValueError(f"took longer than {wanted.timeout} s") from error
        if done.returncode:
            last = (done.stderr or done.stdout).strip().rpartition("\n")[2]
            raise ValueError(f"exit status {done.returncode}: {last:.500}")
        if not video.is_file():
            raise ValueError("wrote nothing to {output}")
        read_video(video)
        write_durably(task.path, video.read_bytes())


def _filled(argument: str, values: dict[str, str]) -> str:
    """In one pass, so that a prompt that holds "{seed}" stays as it is."""
    return re.sub(r"\{(prompt|output|seed)\}", lambda match: values[match[1]], argument)


def _write_picture(folder: Path, number: int, reference: Reference) -> str:
    """WORD=PICTURE; cut-outs are PNG with transparency."""
    path = folder / f"{number}-{re.sub(r'[^A-Za-z0-9]+', '_', reference.word)[:40]}.png"
    Image.fromarray(reference.image).save(path)
    return f"{reference.word}={path}"


# ------------------------------------------------------------------------------------------------------------------
# generation.json


def _describe(wanted: Generation, data: BenchmarkData, pipeline: AlchemistPipeline | None) -> dict[str, Any]:
    described: dict[str, Any] = {
        "method": wanted.method,
        "variant": wanted.variant if wanted.method in CONDITIONED else None,
        "mode": wanted.mode,
        "seeds": list(wanted.seeds),
        "settings": wanted.settings,
        "command": wanted.command,
        "data": data.fingerprint,
        "model": None,
    }
    if pipeline is not None:
        from video_alchemist.sampling.sidecar import weights_revision

        folder = pipeline.model_folder
        described["model"] = {"name": pipeline.model_name, "revision": weights_revision(folder) if folder else None}
    return json.loads(json.dumps(described))  # tuples become lists, as they will be read


def _begin(output: Path, described: dict[str, Any], ids: Sequence[str]) -> list[str]:
    """Notes what the folder will hold, of all samples that were ever asked for; refuses one with something else."""
    path = output / ROOT
    if path.exists():
        found = json.loads(path.read_bytes())
        for key, value in described.items():
            if found.get(key) != value:
                other = f"{key} {found.get(key)!r}, not {value!r}"
                raise ValueError(f"{str(output)!r} holds videos of {other}; expected a new folder, or the same request")
        ids = sorted({*found.get("samples", ()), *ids})
    elif output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{str(output)!r} is not an empty folder and holds no {ROOT}; expected a new folder")
    output.mkdir(parents=True, exist_ok=True)
    _write(output, described | {"samples": list(ids)})
    return list(ids)


def _write(output: Path, described: dict[str, Any]) -> None:
    write_durably(output / ROOT, (json.dumps(described, indent=1, ensure_ascii=False) + "\n").encode())
