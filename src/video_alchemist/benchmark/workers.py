"""Who scores: this process, local processes, or Ray actors (extra `ray`). All map whole videos and give the same rows.

Workers only compute; the run alone writes, so that one that outlives it does no harm.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import get_context, parent_process
from multiprocessing.queues import SimpleQueue
from typing import Any

from video_alchemist.benchmark.measure import Job, Outcome, Scorer, Task
from video_alchemist.curation.executors import environment
from video_alchemist.curation.ray_executor import NICENESS, OBJECT_STORE
from video_alchemist.dataset.shards import did_you_mean

ENGINES = ("local", "ray")


def outcomes(job: Job, tasks: Sequence[Task], workers: int = 1, engine: str = "local") -> Iterator[Outcome]:
    """Of every task, as they come."""
    if engine not in ENGINES:
        raise ValueError(f"engine {engine!r}; expected one of {', '.join(ENGINES)}{did_you_mean(engine, ENGINES)}")
    if workers < 1:
        raise ValueError(f"{workers} workers; expected at least 1")
    if engine == "ray":
        return _by_ray(job, tasks, workers)
    return _by_processes(job, tasks, workers) if workers > 1 else map(Scorer(job).score, tasks)


# ------------------------------------------------------------------------------------------------------------------
# Local processes

_scorer: Scorer  # of a worker process


def _by_processes(job: Job, tasks: Sequence[Task], workers: int) -> Iterator[Outcome]:
    context = get_context("spawn")  # forked CUDA contexts and thread pools do not work
    devices: SimpleQueue[str] = context.SimpleQueue()
    for device in _devices(job.device, workers):
        devices.put(device)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(job, devices))
    try:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = os.environ.get("OMP_NUM_THREADS", str(max(1, cores // workers)))  # or each takes all cores
        with environment({"OMP_NUM_THREADS": threads}):
            futures = [pool.submit(_score, task) for task in tasks]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise OSError(
            "a worker process died, most often for want of memory; what is scored stays: run it again, "
            f"with less than {workers} workers or a smaller batch"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _devices(device: str, workers: int) -> list[str]:
    """Of each worker: "cuda" is shared out over all GPUs."""
    if device != "cuda":
        return [device] * workers
    import torch

    return [f"cuda:{number % max(torch.cuda.device_count(), 1)}" for number in range(workers)]


def _start(job: Job, devices: SimpleQueue[str]) -> None:
    global _scorer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which then lets us go
    threading.Thread(target=_follow_parent, daemon=True).start()
    _scorer = Scorer(replace(job, device=devices.get()))


def _score(task: Task) -> Outcome:
    return _scorer.score(task)


def _follow_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


# ------------------------------------------------------------------------------------------------------------------
# Ray


def _by_ray(job: Job, tasks: Sequence[Task], workers: int) -> Iterator[Outcome]:
    try:
        import ray
        from ray.util import ActorPool
    except ImportError as error:
        raise ValueError(f"Ray does not import ({error}); run `pip install 'video-alchemist[ray]'`") from error
    started = not ray.is_initialized()
    if started:
        _start_ray(ray, workers)
    try:
        gpus = min(ray.cluster_resources().get("GPU", 0) / workers, 1) if job.device.startswith("cuda") else 0
        actor = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0)(Scorer)
        pool: Any = ActorPool([actor.remote(job) for _ in range(workers)])
        yield from pool.map_unordered(lambda one, task: one.score.remote(task), tasks)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayActorError as error:
        raise OSError(f"a worker is gone ({error}); what is scored stays: run it again") from error
    finally:
        if started:
            ray.shutdown()


def _start_ray(ray: Any, workers: int) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address := os.environ.get("RAY_ADDRESS"):
        ray.init(address=address, **options)
        return
    with environment({NICENESS: os.environ.get(NICENESS, "0")}):
        ray.init(num_cpus=workers + 1, include_dashboard=False, object_store_memory=OBJECT_STORE, **options)
