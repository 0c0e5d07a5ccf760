"""Who works: this process, local processes, or Ray actors. All of them map whole units and give the same shards.

A pool takes tasks and returns messages: any number of `Batch`, then one of `Done`, `Failed`, `Died`, `Lost`.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import signal
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Protocol

from video_alchemist.curation.stage import Stage
from video_alchemist.curation.unit import Batch, Done, Task, Worker

TALK = 0.2  # seconds between a worker's messages
GRACE = 5.0  # seconds
TAIL = 4000  # characters of a dead worker's stderr


@dataclass(frozen=True)
class Failed:
    """Message: a worker raised outside of any step, so that no clip is to blame."""

    error: BaseException


@dataclass(frozen=True)
class Died:
    """Message: the process that worked on the unit is gone. memory: bytes resident when last seen."""

    how: str
    memory: int
    words: str


@dataclass(frozen=True)
class Lost:
    """Message: the machine that worked on the unit is gone, or its actor was evicted; nobody is to blame."""

    why: str


Message = Batch | Done | Failed | Died | Lost
LAST = (Done, Failed, Died, Lost)


class Pool(Protocol):
    def submit(self, task: Task) -> None:
        """Hands a unit to a free worker; at most `workers` units at a time."""

    def poll(self, seconds: float) -> list[tuple[int, Message]]:
        """(unit, message) that have come; waits some seconds for a first one."""


class Executor(Protocol):
    @property
    def workers(self) -> int: ...

    def open(self, stage: Stage, logs: Path) -> AbstractContextManager[Pool]:
        """Context manager of a `Pool`; whatever is still at work when it closes is killed."""


# ------------------------------------------------------------------------------------------------------------------
# in process


@dataclass(frozen=True)
class Inline:
    """In this process, to debug in: a step that crashes or hangs takes the run with it."""

    workers: int = 1

    @contextmanager
    def open(self, stage: Stage, logs: Path) -> Iterator[Pool]:
        yield _InlinePool(Worker(stage, watchdog=False))


class _InlinePool:
    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._unit = 0
        self._messages: Iterator[Message] = iter(())

    def submit(self, task: Task) -> None:
        self._unit, self._messages = task.unit, self._worker.run(task)

    def poll(self, seconds: float) -> list[tuple[int, Message]]:
        return [(self._unit, message) for message in (next(self._messages, None),) if message is not None]


# ------------------------------------------------------------------------------------------------------------------
# local processes


@dataclass(frozen=True)
class Processes:
    """Local processes. gpus: how many of the visible GPUs they share, each process seeing one of them."""

    workers: int = 1
    gpus: int = 0

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"{self.workers} workers; expected at least 1")

    @contextmanager
    def open(self, stage: Stage, logs: Path) -> Iterator[Pool]:
        with open_processes(pickle.dumps(stage), self.workers, self.gpus, logs) as pool:
            yield pool


@contextmanager
def open_processes(stage: bytes, workers: int, gpus: int, logs: Path, name: str = "worker") -> Iterator[Pool]:
    """stage: pickled. name: of the log files, one a process."""
    pool = _ProcessPool(stage, workers, gpus, logs / name)
    try:
        yield pool
        pool.dismiss()
    finally:
        pool.kill()


class _Slot:
    """A process's place: it may be empty, at work on a unit, or waiting with its models loaded."""

    def __init__(self, log: Path, environment: Mapping[str, str]) -> None:
        self.log, self.environment = log, environment
        self.process: SpawnProcess | None = None
        self.pipe: Connection
        self.unit: int | None = None
        self.memory = 0

    def start(self, stage: bytes) -> None:
        context = get_context("spawn")  # forked CUDA contexts and thread pools do not work
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(stage, theirs, str(self.log)), name="alchemist-curate")
        with environment(self.environment):
            self.process.start()
        theirs.close()
        self.memory = 0

    def dismiss(self) -> None:
        """Lets a process that waits end by itself: one that is killed leaves locks behind, which Python warns of."""
        if self.process is not None and self.unit is None:
            self.pipe.close()
            self.process.join(GRACE)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.pipe.close()
            self.process = None

    def death(self) -> Died:
        """Buries the process."""
        assert self.process is not None
        self.process.join(5)  # its end of the pipe may close a moment before it is gone
        code = self.process.exitcode
        self.kill()
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        words = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        return Died(how, self.memory, words[-TAIL:])


class _ProcessPool:
    def __init__(self, stage: bytes, workers: int, gpus: int, log: Path) -> None:
        self._stage = stage
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = str(max(1, cores // workers))  # or each takes all cores
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices = (visible.split(",") if visible else [str(number) for number in range(gpus)])[:gpus]
        log.parent.mkdir(parents=True, exist_ok=True)
        self._slots = []
        for number in range(workers):
            environment = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": threads}
            environment |= {"CUDA_VISIBLE_DEVICES": devices[number % len(devices)]} if devices else {}
            self._slots.append(_Slot(log.with_name(f"{log.name}-{number}.log"), environment))

    def submit(self, task: Task) -> None:
        slot = next(slot for slot in self._slots if slot.unit is None)
        if slot.process is None or not slot.process.is_alive():
            slot.kill()
            slot.start(self._stage)
        slot.unit = task.unit
        with suppress(OSError):  # it died while it started; `poll` will find it
            slot.pipe.send(task)

    def poll(self, seconds: float) -> list[tuple[int, Message]]:
        busy = [slot for slot in self._slots if slot.unit is not None]
        owners: dict[Any, _Slot] = {}
        for slot in busy:
            assert slot.process is not None
            owners |= {slot.pipe: slot, slot.process.sentinel: slot}
            slot.memory = max(slot.memory, _resident(slot.process.pid))
        ready = {id(owners[one]): owners[one] for one in connection.wait(list(owners), seconds)}
        return [message for slot in ready.values() for message in self._received(slot)]

    def _received(self, slot: _Slot) -> Iterator[tuple[int, Message]]:
        assert slot.unit is not None and slot.process is not None
        unit, alive = slot.unit, slot.process.is_alive()  # asked first: what it sent before it died is then all there
        message: Message
        try:
            while slot.pipe.poll():
                message = slot.pipe.recv()
                yield unit, message
                if isinstance(message, LAST):
                    slot.unit = None
                    return
        except (EOFError, OSError):  # closed, perhaps in the middle of a message
            alive = False
        if not alive:
            slot.unit = None
            yield unit, slot.death()

    def dismiss(self) -> None:
        for slot in self._slots:
            slot.dismiss()

    def kill(self) -> None:
        for slot in self._slots:
            slot.kill()


def _serve(stage: bytes, pipe: Connection, log: str) -> None:
    """A worker process's life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which then kills us
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(file, 1)
    os.dup2(file, 2)
    faulthandler.enable(file=2, all_threads=False)
    threading.Thread(target=_follow_parent, daemon=True).start()
    try:
        worker = Worker(pickle.loads(stage), watchdog=True)
        while True:
            for message in _sparse(worker.run(pipe.recv())):
                pipe.send(message)
    except (EOFError, BrokenPipeError):  # the run is over
        return
    except Exception as error:  # not swallowed: it is raised again in the run
        pipe.send(Failed(_portable(error)))


def _sparse(messages: Iterator[Batch | Done]) -> Iterator[Batch | Done]:
    """The same, with batches added up: steps that take a clip at a time would talk more than they work."""
    waiting, last = Batch(0, 0, Counter()), time.monotonic()
    for message in messages:
        if isinstance(message, Batch):
            waiting += message
        if isinstance(message, Done) or time.monotonic() - last >= TALK:
            yield waiting
            waiting, last = Batch(0, 0, Counter()), time.monotonic()
        if isinstance(message, Done):
            yield message


def _follow_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _portable(error: Exception) -> Exception:
    """The error with where it came from, in a form that survives the way to another process."""
    traceback.print_exc()  # into the log
    if isinstance(error, OSError) and error.errno is not None:
        return OSError(error.errno, error.strerror, error.filename)
    if isinstance(error, (ValueError, OSError)):  # for users; others are ours, and want their traceback
        return ValueError(str(error))
    return RuntimeError(f"in a worker process:\n{traceback.format_exc()}")


def _resident(pid: int | None) -> int:
    """The most bytes that a process has held in memory so far; 0 where the system does not tell."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """What a child inherits: read when it starts, before libraries look."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
