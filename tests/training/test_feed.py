"""Batches made ahead of the training step."""

from __future__ import annotations

import threading

from video_alchemist.training.feed import prefetched

HELD = threading.Lock()


class Locked:
    """Whether what the training process holds is free where batches are made."""

    def batch(self, index: int) -> bool:
        free = HELD.acquire(timeout=1)
        if free:
            HELD.release()
        return free


def test_workers_are_not_copies_of_a_running_process() -> None:
    """Guards against forked workers: locks of the training process's other threads stay shut there, and now and then
    one ended in a segmentation fault."""
    with HELD:
        assert list(prefetched(Locked(), range(3), workers=1, ready=lambda batch: batch)) == [True, True, True]
