"""Runs that other processes make: python tiny_run.py OUT NAME=STEPS ... (`test_parallel.py`, `test_resume.py`).

With DIE_WRITING=00000006 the process is killed just before that checkpoint would stand.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from tiny_training import run_variant

rename = os.rename


def rename_or_die(source: Path, target: Path) -> None:
    if Path(target).name == os.environ.get("DIE_WRITING"):
        os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target)


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.rename = rename_or_die  # type: ignore[assignment]
    if "RANK" in os.environ:  # one group for all runs
        dist.init_process_group("gloo")
    for argument in sys.argv[2:]:
        name, steps = argument.split("=")
        run_variant(Path(sys.argv[1]), name, int(steps))
    if dist.is_initialized():
        dist.destroy_process_group()
