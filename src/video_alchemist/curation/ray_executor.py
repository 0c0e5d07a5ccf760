"""Ray as executor (extra `ray`): one actor a worker, which hosts a local worker process and passes its messages on.

Ray only places actors and moves tasks; what was done is known by receipts alone. Ray Data is not used: its checkpoint
considers a video done as soon as one of its clips is. The host survives what its process does, so that a crash is told
from a lost machine. The output folder must be shared by all machines. CPUs are Ray's logical ones; the run itself
takes none, and a Ray that is started here gets one more than the actors take.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from video_alchemist.curation.executors import LAST, Lost, Message, Pool, environment, open_processes
from video_alchemist.curation.stage import Stage
from video_alchemist.curation.unit import Task

OBJECT_STORE = 100 * 2**20  # bytes; only messages travel
NICENESS = "RAY_worker_niceness"  # 15 by default: beside any other work, next to standing still


@dataclass(frozen=True)
class RayActors:
    """cpus, gpus: of one worker, fractions allowed. address: of a running Ray; None = $RAY_ADDRESS, or start one."""

    workers: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    address: str | None = None

    def __post_init__(self) -> None:
        if self.workers < 1 or self.cpus <= 0 or self.gpus < 0:
            raise ValueError(
                f"{self.workers} workers of {self.cpus:g} CPUs, {self.gpus:g} GPUs; expected positive ones"
            )

    @contextmanager
    def open(self, stage: Stage, logs: Path) -> Iterator[Pool]:
        try:
            import ray
        except ImportError as error:
            raise ValueError(f"Ray does not import ({error}); run `pip install 'video-alchemist[ray]'`") from error
        started = not ray.is_initialized()
        if started:
            self._start(ray)
        try:
            pool = _RayPool(ray, self, ray.cloudpickle.dumps(stage), str(logs.resolve()))
            yield pool
            pool.kill()
        finally:
            if started:
                ray.shutdown()

    def _start(self, ray: Any) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
        address = self.address or os.environ.get("RAY_ADDRESS")
        if address:
            ray.init(address=address, **options)
            return
        cpus = math.ceil(self.workers * self.cpus) + 1
        with environment({NICENESS: os.environ.get(NICENESS, "0")}):
            ray.init(num_cpus=cpus, include_dashboard=False, object_store_memory=OBJECT_STORE, **options)
        gpus, wanted = ray.cluster_resources().get("GPU", 0), self.workers * self.gpus
        if wanted > gpus:
            ray.shutdown()
            raise ValueError(
                f"{self.workers} workers want {wanted:g} GPUs of this machine's {gpus:g}; lower either number"
            )


class _Host:
    """The actor."""

    def __init__(self, stage: bytes, logs: str, number: int) -> None:
        name = f"{socket.gethostname()}-{number}"
        self._context = open_processes(stage, 1, 0, Path(logs), name)
        self._pool = self._context.__enter__()

    def run(self, task: Task) -> Iterator[Message]:
        self._pool.submit(task)
        while True:
            for _, message in self._pool.poll(1.0):
                yield message
                if isinstance(message, LAST):
                    return


class _Slot:
    def __init__(self) -> None:
        self.actor: Any = None
        self.unit: int | None = None
        self.messages: Any = None


class _RayPool:
    def __init__(self, ray: Any, executor: RayActors, stage: bytes, logs: str) -> None:
        self._ray, self._stage, self._logs = ray, stage, logs
        self._host = ray.remote(num_cpus=executor.cpus, num_gpus=executor.gpus, max_restarts=0)(_Host)
        self._slots = [_Slot() for _ in range(executor.workers)]

    def submit(self, task: Task) -> None:
        number, slot = next((n, slot) for n, slot in enumerate(self._slots) if slot.unit is None)
        if slot.actor is None:
            slot.actor = self._host.remote(self._stage, self._logs, number)
        slot.unit = task.unit
        slot.messages = slot.actor.run.options(num_returns="streaming").remote(task)

    def poll(self, seconds: float) -> list[tuple[int, Message]]:
        streams = {slot.messages: slot for slot in self._slots if slot.unit is not None}
        self._ray.wait(list(streams), num_returns=1, timeout=seconds)
        ready, _ = self._ray.wait(list(streams), num_returns=len(streams), timeout=0)
        return [message for stream in ready for message in self._received(streams[stream])]

    def _received(self, slot: _Slot) -> Iterator[tuple[int, Message]]:
        assert slot.unit is not None
        unit = slot.unit
        message: Message
        try:
            message = self._ray.get(next(slot.messages))
        except self._ray.exceptions.RayActorError as error:
            slot.actor, slot.unit = None, None
            message = Lost(str(error))
        if isinstance(message, LAST):
            slot.unit = None
        yield unit, message

    def kill(self) -> None:
        for slot in self._slots:
            if slot.actor is not None:
                self._ray.kill(slot.actor)
