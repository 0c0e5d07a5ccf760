"""A work unit on its way through a stage's steps, inside a worker: clips in, files and their receipt out (§3.1).

Nothing here decides what becomes of the result: the run that asked for it commits it (`engine.py`).
"""

from __future__ import annotations

import faulthandler
import hashlib
import os
import platform
import secrets
import shutil
import time
import traceback
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from video_alchemist.curation.clip import Clip, Outcome, Rejected, Source, Step
from video_alchemist.curation.durable import DISK_FULL, sync
from video_alchemist.curation.journal import CRASHED, TIMED_OUT, Blame, Journal
from video_alchemist.curation.receipts import Part, Receipt, journal_path, unit_name
from video_alchemist.curation.stage import Stage

FAILED, IO_ERROR = "failed", "io_error"  # a step raised; it raised an OSError, so that the next run tries again
FAILURES = frozenset({FAILED, IO_ERROR, CRASHED, TIMED_OUT})
DETAIL = 500  # characters


@dataclass(frozen=True)
class Task:
    """folder: where the stage's results go. inputs: digest of what the unit is made from. attempt: a unique token.

    upstream: folder of the unit's result in the stage that this one reads, None where the sources are read.
    """

    unit: int
    sources: tuple[Source, ...]
    folder: Path
    inputs: str
    attempt: str
    time_limit: float
    upstream: Path | None = None
    blame: Blame = field(default_factory=Blame)


@dataclass(frozen=True)
class Batch:
    """Message of a worker: clips went on. entered: those that are new, roots and what steps made more of them."""

    entered: int
    kept: int
    rejected: Counter[str]

    def __add__(self, other: Batch) -> Batch:
        return Batch(self.entered + other.entered, self.kept + other.kept, self.rejected + other.rejected)


@dataclass(frozen=True)
class Done:
    """Message of a worker: the unit's files lie, synced, in `folder`, to be committed."""

    receipt: Receipt
    folder: Path


class Walk:
    """Clips going through the steps. The deepest step with a full batch goes first, so that few frames wait in memory.

    What goes into a batch depends on the clips alone, never on timing: a repeated unit gives the same bytes.
    """

    def __init__(
        self,
        stage: Stage,
        steps: Sequence[Step],
        roots: Sequence[Clip],
        blame: Blame,
        journal: Journal,
        time_limit: float | None = None,
    ) -> None:
        """time_limit: seconds after which a batch ends this process; None = never."""
        self.stage, self.steps, self.blame, self.journal, self.time_limit = stage, steps, blame, journal, time_limit
        self.queues: list[deque[tuple[str, Clip]]] = [deque() for _ in steps]
        self.queues[0].extend((clip.id, clip) for clip in roots)
        self.kept: list[Clip] = []
        self.rejected: list[Rejected] = []
        self.seconds = {step.name: 0.0 for step in steps}
        self.trouble = list(blame.trouble)

    def __iter__(self) -> Iterator[Batch]:
        while (number := self._next()) is not None:
            yield self._advance(number)

    def _next(self) -> int | None:
        full = [n for n, queue in enumerate(self.queues) if len(queue) >= self.steps[n].batch]
        waiting = [n for n, queue in enumerate(self.queues) if queue]
        return full[-1] if full else waiting[0] if waiting else None

    def _advance(self, number: int) -> Batch:
        step, queue = self.steps[number], self.queues[number]
        items = [queue.popleft() for _ in range(min(len(queue), step.batch))]
        began = time.perf_counter()
        outcomes = self._judged(step, items)
        self.seconds[step.name] += time.perf_counter() - began
        last = number + 1 == len(self.steps)
        entered, kept, rejected = len(items) if number == 0 else 0, 0, Counter[str]()
        for (root, _), outcome in zip(items, outcomes, strict=True):
            if isinstance(outcome, Rejected):
                self.rejected.append(self.stage.shrink(replace(outcome, step=step.name)))
                rejected[outcome.code] += 1
                continue
            clips = outcome if isinstance(outcome, tuple) else (outcome,)
            entered += len(clips) - 1
            if last:
                self.kept.extend(clips)
                kept += len(clips)
            else:
                self.queues[number + 1].extend((root, clip) for clip in clips)
        return Batch(entered, kept, rejected)

    def _judged(self, step: Step, items: Sequence[tuple[str, Clip]]) -> list[Outcome]:
        """Outcomes of a batch, without the clips that are known to kill, and apart from those that do so in company."""
        known: dict[str, Outcome] = {}
        for item in items:
            key = (step.name, item[1].id)
            if key in self.blame.quarantined:
                known[item[1].id] = Rejected(item[1], *self.blame.quarantined[key])
            elif key in self.blame.singly:
                known[item[1].id] = self._call(step, [item])[0]
        rest = [item for item in items if item[1].id not in known]
        others = iter(self._call(step, rest) if rest else ())
        return [known[clip.id] if clip.id in known else next(others) for _, clip in items]

    def _call(self, step: Step, items: Sequence[tuple[str, Clip]]) -> list[Outcome]:
        clips = [clip for _, clip in items]
        self.journal.start(step.name, [(root, clip.id) for root, clip in items])
        if self.time_limit is not None:
            faulthandler.dump_traceback_later(self.time_limit, exit=True, file=2)
        try:
            outcomes = list(step.run(clips))
            if len(outcomes) != len(clips) or () in outcomes:
                raise ValueError(f"{len(outcomes)} outcomes of {len(clips)} clips; expected one each, none empty")
            return outcomes
        except (Exception, SystemExit) as error:  # whatever goes wrong in a step, one clip must not take others along
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise
            if len(clips) == 1:
                return [self._failure(step, clips[0], error)]
        finally:
            faulthandler.cancel_dump_traceback_later()
            self.journal.end()
        return [self._call(step, [item])[0] for item in items]

    def _failure(self, step: Step, clip: Clip, error: BaseException) -> Rejected:
        code = IO_ERROR if isinstance(error, OSError) else FAILED
        detail = " ".join(f"{type(error).__name__}: {error}".split())[:DETAIL]
        words = traceback.format_exc()
        self.trouble.append({"clip": clip.id, "step": step.name, "code": code, "detail": detail, "traceback": words})
        return Rejected(clip, code, detail, transient=code == IO_ERROR)


class Worker:
    """Takes units through a stage, whose models it loads once. watchdog: the time limit ends the process."""

    def __init__(self, stage: Stage, watchdog: bool) -> None:
        self.stage, self.watchdog = stage, watchdog
        self._steps: list[Step] = []

    def run(self, task: Task) -> Iterator[Batch | Done]:
        """Messages about a unit; `Done` is the last."""
        journal = Journal(journal_path(task.folder, task.unit), task.attempt)
        try:
            self._steps = self._steps or self.stage.load()
            began = time.perf_counter()
            roots = self._roots(task)
            reading = time.perf_counter() - began
            self._try_suspects(task, roots, journal)
            walk = self._walk(task, self._steps, roots, journal)
            yield from walk
            yield self._pack(task, walk, len(roots), reading)
        finally:
            journal.close()

    def _roots(self, task: Task) -> list[Clip]:
        if task.upstream is None:
            clips = [Clip(id=source.id, source=source, caption=source.caption or "") for source in task.sources]
        else:
            assert self.stage.read is not None
            clips = list(self.stage.read(task.upstream, task.unit))
        return sorted(clips, key=lambda clip: clip.id)

    def _walk(self, task: Task, steps: Sequence[Step], roots: Sequence[Clip], journal: Journal) -> Walk:
        return Walk(self.stage, steps, roots, task.blame, journal, task.time_limit if self.watchdog else None)

    def _try_suspects(self, task: Task, roots: Sequence[Clip], journal: Journal) -> None:
        """Who was open when a process died goes first and alone: if it is to die again, then before any other work."""
        names = [step.name for step in self._steps]
        for root in roots:
            if root.id in task.blame.suspects:
                until = names.index(task.blame.suspects[root.id]) + 1
                alone = [replace(step, batch=1) for step in self._steps[:until]]
                for _ in self._walk(task, alone, [root], journal):
                    pass
                journal.clear(root.id)

    def _pack(self, task: Task, walk: Walk, num_roots: int, reading: float) -> Done:
        kept = sorted(walk.kept, key=lambda clip: clip.id)
        rejected = sorted(walk.rejected, key=lambda one: (one.clip.id, one.code))
        twins = [id for id, count in Counter(clip.id for clip in kept).items() if count > 1]
        if twins:
            raise RuntimeError(f"a step of stage {self.stage.name!r} gave the id {twins[0]!r} to two clips")
        folder = task.folder / f"{unit_name(task.unit)}.tmp-{secrets.token_hex(4)}"
        folder.mkdir()
        began = time.perf_counter()
        try:
            files = self.stage.write(folder, task.unit, kept, rejected)
            parts = {name: _part(folder, path) for name, path in sorted(files.items())}
            sync(folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)  # above all where the disk is full
            raise
        receipt = Receipt(
            stage=self.stage.name,
            unit=task.unit,
            inputs=task.inputs,
            sources=num_roots,
            clips=len(kept) + len(rejected),
            kept=len(kept),
            rejected=dict(sorted(Counter(one.code for one in rejected).items())),
            transient=sum(one.transient for one in rejected),
            seconds={"read": reading, **walk.seconds, "write": time.perf_counter() - began},
            parts=parts,
            trouble=walk.trouble,
            versions={"steps": dict(self.stage.versions), "python": platform.python_version()},
        )
        return Done(receipt, folder)


def _part(folder: Path, path: Path) -> Part:
    if path.parent != folder:
        raise RuntimeError(f"a stage wrote {str(path)!r}; expected a file in {str(folder)!r}")
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
        return Part(path.name, os.fstat(file.fileno()).st_size, checksum)
