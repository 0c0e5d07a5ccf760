"""The engine of curation: every work unit through every stage, once, whatever is killed when (§3.1's 86.8M videos).

A unit's result lies under an address that changes with anything it depends on. Workers make it in a temporary folder;
only the run, of which there is one at a time, renames it and writes its receipt. So an uninterrupted run and one that
was killed twenty times give the same bytes. The engine knows clips, steps and units, but no model.

    manifest = freeze(sources, out)
    run(out, manifest, stages, Processes(4), finish)       # again after a kill: goes on where it was
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from video_alchemist.curation.durable import DISK_FULL, locked, write_text
from video_alchemist.curation.executors import Died, Executor, Failed, Lost, Message, Pool
from video_alchemist.curation.journal import CRASHED, TIMED_OUT, Blame, Journal, replay
from video_alchemist.curation.manifest import WORK, Manifest, digest
from video_alchemist.curation.progress import Board, Progress, silent
from video_alchemist.curation.publish import Finish, publish
from video_alchemist.curation.receipts import Receipt, commit, journal_path, read_receipt, receipt_path, unit_name
from video_alchemist.curation.stage import Stage, address, describe
from video_alchemist.curation.unit import FAILURES, Batch, Done, Task

POLL = 0.25  # seconds
MAX_UNEXPLAINED = 3  # deaths of a unit's workers outside of any step
MAX_LOST = 5  # machines that may be lost under a unit


@dataclass(frozen=True)
class Limits:
    """time_limit: seconds that a batch may take in a step. A run stops when crashed and failed clips are more than
    failure_share of the clips settled so far, these taken as failure_floor at least: then it is not the clips' fault.
    """

    time_limit: float = 600.0
    failure_share: float = 0.2
    failure_floor: int = 32

    def __post_init__(self) -> None:
        if self.time_limit <= 0 or not 0 < self.failure_share <= 1 or self.failure_floor < 1:
            raise ValueError(f"{self}; expected a positive time limit, a share in (0, 1] and a floor of at least 1")


def run(
    out: Path,
    manifest: Manifest,
    stages: Sequence[Stage],
    executor: Executor,
    finish: Finish,
    *,
    limits: Limits | None = None,
    only: str | None = None,
    board: Board = silent,
) -> dict[str, list[Receipt]]:
    """Does what receipts do not yet vouch for, and publishes the stages that are complete. Their receipts by name.

    only: the one stage to work on; what it reads must be done. A stage that reads another one adds to its units, so
    that those it has done are published in any case. Rejects that are transient are tried again.
    """
    out = out.resolve()
    descriptions = describe(stages)
    folders = {name: out / WORK / address(description) for name, description in descriptions.items()}
    if only is not None and only not in folders:
        raise ValueError(f"stage {only!r}; expected one of {', '.join(folders)}")
    (out / WORK).mkdir(parents=True, exist_ok=True)
    results: dict[str, list[Receipt]] = {}
    shown: dict[Path, list[Receipt]] = {}
    with locked(out / WORK / "lock"), _full_disk_told(out):
        for stage in stages:
            mine = only in (None, stage.name)
            if stage.upstream is not None and stage.upstream not in results:
                if mine:
                    raise ValueError(
                        f"stage {stage.name!r} reads {stage.upstream!r}, which is not done; run that first"
                    )
                continue
            work = _StageRun(stage, folders, manifest, results.get(stage.upstream or ""), limits or Limits(), board)
            if mine:
                work.prepare(descriptions[stage.name])
                work.run(executor, out / WORK / "logs")
            done = [receipt for receipt in work.receipts if receipt is not None]
            if len(done) == len(manifest.units):
                results[stage.name] = done
            if stage.name in results or stage.upstream is not None:
                shown[folders[stage.name]] = done
        publish(out, shown, finish)
    return results


@contextmanager
def _full_disk_told(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        words = "the disk is full; free some space and run the same again: finished units are kept"
        raise OSError(error.errno, words, str(out)) from error


@dataclass
class Tally:
    """What became of clips so far: of a unit at work, or of all that this run has finished."""

    sources: int = 0
    entered: int = 0
    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)

    @property
    def settled(self) -> int:
        return self.kept + self.rejected.total()

    @property
    def failed(self) -> int:
        return sum(self.rejected[code] for code in FAILURES)

    @property
    def sources_done(self) -> float:
        """Estimated by the share of clips that reached their end."""
        return self.sources * self.settled / self.entered if self.entered else 0.0

    def add(self, entered: int, kept: int, rejected: Mapping[str, int], sources: int = 0) -> None:
        self.sources += sources
        self.entered += entered
        self.kept += kept
        self.rejected.update(rejected)


class _StageRun:
    """A stage's units: which are to be done, what comes back of them, and when to stop."""

    def __init__(
        self,
        stage: Stage,
        folders: Mapping[str, Path],
        manifest: Manifest,
        above: Sequence[Receipt] | None,
        limits: Limits,
        board: Board,
    ) -> None:
        """above: receipts of the stage that this one reads."""
        self.stage, self.manifest, self.limits, self.board = stage, manifest, limits, board
        self.folder = folders[stage.name]
        self.upstream = folders[stage.upstream] if stage.upstream else None
        if above is None:
            self.inputs = [digest(unit) for unit in manifest.units]
        else:
            self.inputs = [receipt.digest for receipt in above]
        self.receipts = [self._valid(unit) for unit in range(len(manifest.units))]
        self.todo = deque(unit for unit, receipt in enumerate(self.receipts) if receipt is None or receipt.transient)
        self.working: dict[int, Tally] = {}
        self.attempts: dict[int, str] = {}  # by unit, the token of the latest
        self.lost: Counter[int] = Counter()  # by unit, machines
        self.finished = Tally()  # by this run
        self.failing: list[int] = []  # units finished by this run in which clips failed
        self.progress = self._progress()

    def _valid(self, unit: int) -> Receipt | None:
        receipt = read_receipt(self.folder, unit)
        return receipt if receipt is not None and receipt.inputs == self.inputs[unit] else None

    def prepare(self, description: Mapping[str, object]) -> None:
        """The stage's folder, without what killed runs left in it."""
        self.folder.mkdir(exist_ok=True)
        for leftover in self.folder.glob("*.tmp-*"):
            shutil.rmtree(leftover, ignore_errors=True)  # an orphan may still be writing there; nobody will read it
        write_text(self.folder / "stage.json", json.dumps(description, indent=1) + "\n")

    def run(self, executor: Executor, logs: Path) -> None:
        if self.todo:
            with executor.open(self.stage, logs) as pool:
                while self.todo or self.working:
                    while self.todo and len(self.working) < executor.workers:
                        self._submit(pool, self.todo.popleft())
                    for unit, message in pool.poll(POLL):
                        self._handle(unit, message)
                    self._show()
        self._show(final=True)

    def _submit(self, pool: Pool, unit: int) -> None:
        blame = self._blame(unit)
        self.attempts[unit] = secrets.token_hex(4)
        journal = Journal(journal_path(self.folder, unit), self.attempts[unit])
        journal.begin()  # here, or a worker that dies before it reads its task would leave no trace
        journal.close()
        self.working[unit] = Tally(len(self.manifest.units[unit]))
        upstream = self.upstream / unit_name(unit) if self.upstream else None
        task = Task(
            unit,
            self.manifest.units[unit],
            self.folder,
            self.inputs[unit],
            self.attempts[unit],
            self.limits.time_limit,
            upstream,
            blame,
        )
        pool.submit(task)

    def _blame(self, unit: int) -> Blame:
        """What this unit's journal says; and the quarantine of its earlier result, if it is done again for others."""
        blame = replay(journal_path(self.folder, unit), self.limits.time_limit)
        earlier = self.receipts[unit]
        for one in earlier.trouble if earlier is not None else ():
            key = (one["step"], one["clip"])
            if one["code"] in (CRASHED, TIMED_OUT) and key not in blame.quarantined:
                blame.quarantined[key] = (one["code"], one["detail"])
                blame.trouble.append(dict(one))
        return blame

    def _handle(self, unit: int, message: Message) -> None:
        if isinstance(message, Batch):
            self.working[unit].add(message.entered, message.kept, message.rejected)
            self._check_failures()
        elif isinstance(message, Done):
            self._commit(unit, message)
        elif isinstance(message, Failed):
            raise message.error
        else:
            del self.working[unit]
            self.todo.appendleft(unit)  # first: the sooner a culprit is found, the less is done twice
            self._mourn(unit, message)

    def _commit(self, unit: int, done: Done) -> None:
        commit(done.receipt, self.folder, done.folder)
        journal_path(self.folder, unit).unlink(missing_ok=True)
        receipt = self.receipts[unit] = done.receipt
        tally = self.working.pop(unit)
        self.finished.add(tally.entered, receipt.kept, receipt.rejected, tally.sources)
        if tally.failed:
            self.failing.append(unit)

    def _mourn(self, unit: int, message: Died | Lost) -> None:
        if isinstance(message, Lost):
            self.lost[unit] += 1
            if self.lost[unit] > MAX_LOST:
                raise ChildProcessError(f"unit {unit} lost its machine {self.lost[unit]} times; last: {message.why}")
            return
        path = journal_path(self.folder, unit)
        journal = Journal(path, self.attempts[unit])
        journal.died(message.how, message.memory, message.words)
        journal.close()
        if replay(path, self.limits.time_limit).unexplained >= MAX_UNEXPLAINED:
            path.unlink()  # the next run counts anew
            raise ChildProcessError(
                f"workers died {MAX_UNEXPLAINED} times outside of any step (loading models, reading, writing) on unit "
                f"{unit}: {message.how}, {message.memory >> 20} MB resident; last words: {message.words.strip()[-300:]}"
            )

    def _check_failures(self) -> None:
        """The breaker: a broken GPU must not quarantine a million clips."""
        tallies = [*self.working.values(), self.finished]
        failed, settled = sum(tally.failed for tally in tallies), sum(tally.settled for tally in tallies)
        if failed <= self.limits.failure_share * max(self.limits.failure_floor, settled):
            return
        for unit in self.working:
            journal_path(self.folder, unit).unlink(missing_ok=True)
        for unit in self.failing:
            receipt_path(self.folder, unit).unlink()
        codes = _total(tally.rejected for tally in tallies)
        named = ", ".join(f"{codes[code]} {code}" for code in sorted(FAILURES & codes.keys()))
        raise ValueError(
            f"stage {self.stage.name!r}: {named} of {settled} clips so far; expected at most "
            f"{self.limits.failure_share:.0%} (of {self.limits.failure_floor} at least), so the machine or the "
            f"model is at fault; none of them is rejected for good; see {str(self.folder.parent / 'logs')!r}"
        )

    def _progress(self) -> Progress:
        waiting = set(self.todo)
        earlier = [receipt for unit, receipt in enumerate(self.receipts) if receipt is not None and unit not in waiting]
        return Progress(
            self.stage.name,
            units=len(self.receipts),
            sources=sum(len(self.manifest.units[unit]) for unit in waiting),
            earlier_kept=sum(receipt.kept for receipt in earlier),
            earlier_rejected=_total(receipt.rejected for receipt in earlier),
        )

    def _show(self, final: bool = False) -> None:
        tallies = [*self.working.values(), self.finished]
        self.progress.units_done = len(self.receipts) - len(self.todo) - len(self.working)
        self.progress.sources_done = sum(tally.sources_done for tally in self.working.values()) + self.finished.sources
        self.progress.clips = sum(tally.settled for tally in tallies)
        self.progress.kept = self.progress.earlier_kept + sum(tally.kept for tally in tallies)
        self.progress.rejected = self.progress.earlier_rejected + _total(tally.rejected for tally in tallies)
        self.board(self.progress, final)


def _total(counts: Iterable[Mapping[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return total
