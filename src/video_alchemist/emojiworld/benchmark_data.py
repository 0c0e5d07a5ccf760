"""The benchmark on EmojiWorld (§4.1 without MSR-VTT): held-out clips, annotated by curation, or by what is known."""

from __future__ import annotations

from pathlib import Path

from video_alchemist.benchmark.prepare import prepare_shards
from video_alchemist.benchmark.samples import BenchmarkData
from video_alchemist.curation.progress import Board, silent
from video_alchemist.curation.run import curate
from video_alchemist.emojiworld.files import write_world, write_world_shards
from video_alchemist.emojiworld.scenes import Split

SPLIT: Split = "test_concept"
SEED = 7_000_000  # that no recipe trains on
SPARE = 1.6  # clips for a sample: curation rejects some
ROUNDS = 4


def prepare_world(
    out: Path,
    num_samples: int,
    *,
    networks: Path | None,
    seed: int = 0,
    workers: int = 1,
    board: Board = silent,
) -> BenchmarkData:
    """Renders clips of concepts that the model never saw and prepares a benchmark of `num_samples` of them in `out`.

    networks: folder of curation's networks, which annotate plain mp4 files; None = the world's truth. The same call
    goes on where it was stopped.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; expected at least 1")
    if networks is None:
        for _ in write_world_shards(out / "shards", num_samples, seed=SEED + seed, split=SPLIT):
            pass
        return prepare_shards(out / "shards", out, source="world")
    from video_alchemist.curation.executors import Processes
    from video_alchemist.curation.profile import emojiworld

    count = round(SPARE * num_samples)
    for last in (False,) * (ROUNDS - 1) + (True,):
        for _ in write_world(out / "videos", count, seed=SEED + seed, split=SPLIT):
            pass
        curate(out / "videos", out / "shards", emojiworld(networks), executor=Processes(workers), board=board)
        try:
            return prepare_shards(out / "shards", out, num_samples, seed, source="world")
        except ValueError:
            if last:
                raise
            count = round(1.5 * count)
    raise AssertionError
