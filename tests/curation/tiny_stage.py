"""Stages of cheap steps for tests of the engine. A source's caption says how it misbehaves, e.g. "segfault@measure"."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from video_alchemist.curation.clip import Clip, Outcome, Rejected, Source, Step
from video_alchemist.curation.durable import write_text
from video_alchemist.curation.receipts import Receipt
from video_alchemist.curation.stage import Stage

VERSIONS = {"look": 1, "cut": 1, "measure": 1}


def sources(count: int, **captions: str) -> list[Source]:
    """s000, s001, ...; captions: how some misbehave. The path is where a misbehaviour may leave a mark."""
    return [Source(f"s{n:03d}", f"/videos/{n}; a b.mp4", captions.get(f"s{n:03d}")) for n in range(count)]


def misbehave(step: str, clips: Sequence[Clip]) -> None:
    for clip in clips:
        deed, _, where = clip.caption.partition("@")
        if where != step:
            continue
        mark = Path(clip.source.path)
        if deed == "segfault" or (deed == "segfault_in_company" and len(clips) > 1):
            print("last words", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)
        elif deed == "exit":
            sys.exit(3)
        elif deed == "hang":
            time.sleep(1000)
        elif deed == "raise":
            raise KeyError(f"cannot\n{clip.id}")
        elif deed == "unplugged" and not mark.exists():
            raise ConnectionError("no route to host")
        elif deed == "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        elif deed == "lose_machine_once" and not mark.exists():
            mark.touch()
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(1000)
        elif deed == "segfault_once" and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGSEGV)


def run_step(step: str, delay: float, clips: Sequence[Clip]) -> list[Outcome]:
    time.sleep(delay)
    misbehave(step, clips)
    return [OUTCOMES[step](clip) for clip in clips]


def look(clip: Clip) -> Outcome:
    return Rejected(clip, "too_short", 'a "quoted" 🦊') if int(clip.id[1:]) % 7 == 3 else clip


def cut(clip: Clip) -> Outcome:
    """One to three clips of a source."""
    if clip.caption == "nothing":
        return ()
    return tuple(replace(clip, id=f"{clip.id}-{k}000-{k + 1}000") for k in range(1 + int(clip.id[1:]) % 3))


def measure(clip: Clip) -> Outcome:
    return replace(clip, measures={"letters": float(len(clip.id) + int(clip.id[1:4]))})


def paint(clip: Clip) -> Outcome:
    return Rejected(clip, "background_not_clean") if clip.id.startswith("s005") else clip


OUTCOMES = {"look": look, "cut": cut, "measure": measure, "paint": paint}


def make_steps(delay: float = 0.0, loads: Path | None = None, names: Sequence[str] = tuple(VERSIONS)) -> list[Step]:
    """loads: a file that gets a line whenever models would be loaded."""
    if loads is not None:
        with loads.open("a") as file:
            file.write(f"{os.getpid()}\n")
    batches = {"look": 4, "cut": 1, "measure": 5, "paint": 2}
    return [Step(name, partial(run_step, name, delay), batch=batches[name]) for name in names]


def write(
    folder: Path, unit: int, kept: Sequence[Clip], rejected: Sequence[Rejected], name: str = "examples"
) -> dict[str, Path]:
    paths = {"clips": folder / f"{name}-{unit:05d}.txt", "rejects": folder / f"{name}-rejects-{unit:05d}.jsonl"}
    lines = [json.dumps([clip.id, clip.caption, dict(clip.measures)]) for clip in kept]
    paths["clips"].write_text("".join(line + "\n" for line in lines))
    lines = [json.dumps([one.clip.id, one.code, one.detail]) for one in rejected]
    paths["rejects"].write_text("".join(line + "\n" for line in lines))
    return paths


def write_unless_full(folder: Path, unit: int, kept: Sequence[Clip], rejected: Sequence[Rejected], room: Path) -> dict:
    """A disk that is full, after some bytes of unit 1, until `room` exists."""
    if unit == 1 and not room.exists():
        (folder / "half").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    return write(folder, unit, kept, rejected)


def read(folder: Path, unit: int) -> list[Clip]:
    rows = [json.loads(line) for line in (folder / f"examples-{unit:05d}.txt").read_text().splitlines()]
    return [Clip(id, Source(id.split("-")[0], ""), caption=caption) for id, caption, _ in rows]


def finish(out: Path, receipts: Sequence[Receipt]) -> None:
    funnel: Counter[str] = Counter()
    for receipt in receipts:
        funnel.update(receipt.rejected)
    shards = [[part.file, part.size, part.sha256] for receipt in receipts for part in receipt.parts.values()]
    kept = sum(receipt.kept for receipt in receipts)
    write_text(
        out / "dataset.json", json.dumps({"kept": kept, "funnel": dict(sorted(funnel.items())), "shards": shards})
    )


def annotate(delay: float = 0.0, loads: Path | None = None, **changes: object) -> Stage:
    stage = Stage("annotate", partial(make_steps, delay, loads), write, VERSIONS, {"threshold": 0.4})
    return replace(stage, **changes)  # type: ignore[arg-type]


def background(delay: float = 0.0, loads: Path | None = None) -> Stage:
    steps = partial(make_steps, delay, loads, ("paint",))
    return Stage("background", steps, partial(write, name="background"), {"paint": 1}, upstream="annotate", read=read)


def published(out: Path) -> dict[str, bytes]:
    """What readers see of an output folder."""
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.is_file()}


def clips_of(out: Path, name: str = "examples") -> tuple[list[str], dict[str, str]]:
    """Ids of the kept clips, and codes of the rejected ones, over all shards in order."""
    files = [path for path in sorted(out.glob(f"{name}-*")) if path.suffix == ".txt"]
    kept = [json.loads(line)[0] for path in files for line in path.read_text().splitlines()]
    rows = [
        json.loads(line) for path in sorted(out.glob(f"{name}-rejects-*")) for line in path.read_text().splitlines()
    ]
    return kept, {row[0]: row[1] for row in rows}


def expected(count: int) -> list[str]:
    """Ids of the clips that `count` well-behaved sources leave."""
    return [
        f"s{n:03d}-{k}000-{k + 1}000" for n in range(count) if n % 7 != 3 for k in range(1 + n % 3)
    ]  # what `look` and `cut` do
