"""A run's data, ahead of the training step: made by processes or a thread, and moved to the device beside it."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from video_alchemist.dataset.batch import Batch


class Source(Protocol):
    """A pure function of (its own seed, index), so resuming a run needs no state. Index = step * micro_batches + m.

    Gives a Batch, or what the trainer's `encode` makes one of.
    """

    def batch(self, index: int) -> Any: ...


class Indexed(Dataset[Any]):
    """A source as DataLoader's map-style dataset; what is wrong with the data comes out as it is, not as text."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __getitem__(self, index: int) -> Any:
        try:
            return self.source.batch(index)
        except (ValueError, OSError) as error:
            return error


def prefetched(
    source: Source, indices: Iterable[int], workers: int, ready: Callable[[Any], Any], ahead: int = 2
) -> Iterator[Any]:
    """`ready` of the source's batches, in order, by a thread while earlier ones are trained on; `workers` processes
    make them, or without any the thread."""
    indices = list(indices)
    # A process forked from a training run has its locks and memory but none of its threads, and now and then crashes.
    context = multiprocessing.get_context("forkserver") if workers else None
    if context:
        context.set_forkserver_preload([__name__])  # imported once, not by every worker
    loader = DataLoader(
        Indexed(source), sampler=indices, batch_size=None, num_workers=workers, multiprocessing_context=context
    )
    made = iter(loader)

    def fetch() -> Any:
        batch = next(made)
        if isinstance(batch, Exception):
            raise batch
        return ready(batch)

    pool, waiting = ThreadPoolExecutor(max_workers=1), deque[Future[Any]]()
    try:
        for _ in indices:
            waiting.append(pool.submit(fetch))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def mover(device: torch.device) -> Callable[[Batch], Batch]:
    """Puts batches on a device in float32, on a GPU beside the training step's own stream."""
    if device.type != "cuda":
        return lambda batch: batch.to(device, torch.float32)
    stream = torch.cuda.Stream(device)

    def move(batch: Batch) -> Batch:
        with torch.cuda.stream(stream):
            batch = batch.to(device).to(device, torch.float32)
        stream.synchronize()
        for tensor in vars(batch).values():
            if isinstance(tensor, Tensor):  # its memory may be used again once the step has read it, not before
                tensor.record_stream(torch.cuda.default_stream(device))
        return batch

    return move
