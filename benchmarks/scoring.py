"""Scoring a video by all of §4.2's metrics at once, against one metric at a time as the released code does it:
`python benchmarks/scoring.py --data DATA VIDEOS [--all] [--rounds 3]`. Same networks, same rows."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from video_alchemist.benchmark.analysis import Analysis, Video
from video_alchemist.benchmark.metrics import METRICS, ROLES
from video_alchemist.benchmark.models import EvaluationModels
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
    # On a CPU the seconds that it worked, which other programs do not change.
    clock = time.process_time if args.device == "cpu" else time.perf_counter

    def scored(chosen: Sequence[str]) -> tuple[list[Row], float]:
        """One pass over all videos, each decoded once; and its seconds."""
        start, rows = clock(), []
        for one in ids:
            analysis = Analysis(Video(*read_video(args.videos / f"{one}.mp4")), data[one], models, protocol)
            rows += [row for name in chosen for row in METRICS[name](analysis)]
        return sorted(rows, key=lambda row: (row.id, row.metric, row.word)), clock() - start

    scored(names)  # warms up
    ratios, apart = [], dict.fromkeys(names, 0.0)
    for _ in range(args.rounds):
        rows, seconds = scored(names)
        singles = {name: scored((name,)) for name in names}
        assert all([row for row in rows if row.metric == name] == singles[name][0] for name in names), "the rows differ"
        apart = {name: apart[name] + took for name, (_, took) in singles.items()}
        ratios.append(sum(took for _, took in singles.values()) / seconds)
    shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    ordered = sorted(apart.items(), key=lambda pair: -pair[1])
    print("one at a time: " + ", ".join(f"{name} {took / sum(apart.values()):.0%}" for name, took in ordered))
    print(f"{len(names)} metrics, {len(ids)} videos: together {statistics.median(ratios):.2f} times as fast ({shown})")


if __name__ == "__main__":
    main()
