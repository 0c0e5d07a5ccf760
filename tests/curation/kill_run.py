"""A run that `test_kill.py` kills: python kill_run.py OUT local|ray|inline DELAY."""

from __future__ import annotations

import sys
from pathlib import Path

from tiny_stage import annotate, background, finish, sources

from video_alchemist.curation.engine import run
from video_alchemist.curation.executors import Executor, Inline, Processes
from video_alchemist.curation.manifest import freeze
from video_alchemist.curation.ray_executor import RayActors

EXECUTORS: dict[str, Executor] = {"inline": Inline(), "local": Processes(2), "ray": RayActors(2)}

if __name__ == "__main__":
    out, executor, delay = Path(sys.argv[1]), EXECUTORS[sys.argv[2]], float(sys.argv[3])
    manifest = freeze(sources(40), out, 4)
    run(out, manifest, [annotate(delay), background(delay)], executor, finish)
