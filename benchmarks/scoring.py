"""Scoring a video by all of §4.2's metrics at once, against one metric at a time as the released code does it:
`python benchmarks/scoring.py --data DATA VIDEOS [--rounds 3]`. Same networks, same rows."""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from video_alchemist.benchmark.analysis import Analysis, Video
from video_alchemist.benchmark.metrics import METRICS, ROLES
from video_alchemist.benchmark.models import EvaluationModels
from video_alchemist.benchmark.protocol import Protocol
from video_alchemist.benchmark.rows import Row
from video_alchemist.benchmark.samples import BenchmarkData
from video_alchemist.cli.bench import emojiworld_models, protocol_of
from video_alchemist.video import read_video

PAPER = ("text_similarity", "video_similarity", "subject_similarity", "face_similarity", "dynamic_degree")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--mode", default="subject")
    parser.add_argument("--num-videos", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--all", action="store_true", help="all metrics, not the paper's five alone")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    data, protocol = BenchmarkData(args.data), protocol_of("paper")
    names = tuple(METRICS) if args.all else PAPER
    models = EvaluationModels(emojiworld_models(), args.device).load(sorted({r for n in names for r in ROLES[n]}))
    ids = [one for one in data.ids(args.mode) if (args.videos / f"{one}.mp4").exists()][: args.num_videos]
    ratios = []
    for number in range(args.rounds + 1):
        seconds, found = [], []
        for function in (one_at_a_time, together):
            start = time.perf_counter()
            found.append(function(args.videos, ids, data, models, protocol, names))
            seconds.append(time.perf_counter() - start)
        assert found[0] == found[1], "the rows differ"
        if number:  # the first round warms up
            ratios.append(seconds[0] / seconds[1])
    shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"{len(names)} metrics, {len(ids)} videos: together {statistics.median(ratios):.2f} times as fast ({shown})")


def together(
    videos: Path,
    ids: list[str],
    data: BenchmarkData,
    models: EvaluationModels,
    protocol: Protocol,
    names: tuple[str, ...],
) -> list[Row]:
    rows = []
    for one in ids:
        analysis = Analysis(Video(*read_video(videos / f"{one}.mp4")), data[one], models, protocol)
        rows += [row for name in names for row in METRICS[name](analysis)]
    return sorted(rows, key=_order)


def one_at_a_time(
    videos: Path,
    ids: list[str],
    data: BenchmarkData,
    models: EvaluationModels,
    protocol: Protocol,
    names: tuple[str, ...],
) -> list[Row]:
    """A pass over all videos for each metric: decoded anew, nothing shared."""
    rows = [row for name in names for row in together(videos, ids, data, models, protocol, (name,))]
    return sorted(rows, key=_order)


def _order(row: Row) -> tuple[str, str, str]:
    return row.id, row.metric, row.word


if __name__ == "__main__":
    main()
