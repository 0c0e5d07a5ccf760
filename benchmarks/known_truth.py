"""Does every metric of the benchmark see the fault that it is for? Videos with known faults, scored like any others:
`python benchmarks/known_truth.py WORK [--num-samples 40] [--all]`. Goes on where it was stopped."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from video_alchemist.benchmark.metrics import METRICS
from video_alchemist.benchmark.results import Result
from video_alchemist.benchmark.score import score
from video_alchemist.benchmark.statistics import bootstrap_interval, mean_by_id, summarise
from video_alchemist.cli.bench import emojiworld_models, protocol_of
from video_alchemist.emojiworld.benchmark_data import prepare_world
from video_alchemist.emojiworld.faults import FAULTS, write_faults

# By fault, the metrics that have to change, and whether up or down.
EXPECTED: dict[str, dict[str, int]] = {
    "sibling": {"subject_similarity": -1, "subject_similarity_assigned": -1, "face_similarity": -1},
    "stranger": {
        "text_similarity": -1, "video_similarity": -1, "subject_similarity": -1, "subject_similarity_assigned": -1,
        "face_similarity": -1, "face_similarity_assigned": -1,
    },
    "half_missing": {"subject_similarity": -1, "face_similarity": -1, "missing_share": 1},
    "missing": {
        "text_similarity": -1, "video_similarity": -1, "subject_similarity": -1, "subject_similarity_assigned": -1,
        "face_similarity": -1, "face_similarity_assigned": -1, "missing_share": 1,
    },
    "doubled": {"duplication": 1},
    "exchanged": {"video_similarity": -1, "identity_mixing": 1, "identity_margin": -1},
    "recoloured": {"subject_similarity": -1, "identity_mixing": 1, "identity_margin": -1},
    "mixed": {
        "subject_similarity": -1, "subject_similarity_assigned": -1, "identity_mixing": 1, "identity_margin": -1
    },
    "elsewhere": {"text_similarity": -1, "video_similarity": -1, "background_similarity": -1},
    "still": {"dynamic_degree": -1, "flow_magnitude": -1, "copy_paste": 1, "copy_paste_excess": 1},
    "running": {"dynamic_degree": 1, "flow_magnitude": 1},
    "noisy": {
        "text_similarity": -1, "video_similarity": -1, "subject_similarity": -1, "motion_smoothness": -1,
        "learned_quality": -1,
    },
    "blurred": {"sharpness": -1, "text_similarity": -1, "video_similarity": -1, "learned_quality": -1},
    "flickering": {"flicker": 1},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--num-samples", type=int, default=40)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--all", action="store_true", help="every metric of every fault")
    args = parser.parse_args()
    start = time.process_time()
    data = prepare_world(args.work / "data", args.num_samples, networks=None)
    for _ in write_faults(data, args.work / "videos"):
        pass
    results = {}
    for fault in FAULTS:
        metrics = list(METRICS if args.all or fault == "true" else EXPECTED[fault])
        results[fault] = score(
            args.work / "videos" / fault, data, args.work / "results" / fault, protocol_of("paper"),
            emojiworld_models(), metrics, mode="all", workers=args.workers, device=args.device, progress=True,
        )  # fmt: skip
    print(f"{time.process_time() - start:.0f} seconds of a core")
    print("| fault | metric | true clips | with the fault | margin | samples | |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for fault, result in results.items():
        for metric in result.metrics if args.all else EXPECTED.get(fault, ()):
            print(line(fault, metric, results["true"], result))


def line(fault: str, metric: str, true: Result, result: Result) -> str:
    """Both means over the samples that can have the fault; the margin is of pairs. Told: its interval excludes 0."""
    before, after = mean_by_id(true.pairs(metric)), mean_by_id(result.pairs(metric))
    common = sorted(before.keys() & after.keys())
    if not common:
        return f"| {fault} | {metric} | | | | 0 | no value |"
    differences = np.array([after[one] - before[one] for one in common])
    low, high = bootstrap_interval(differences)
    sign = EXPECTED.get(fault, {}).get(metric, 0)
    verdict = "" if not sign else "told" if min(sign * low, sign * high) > 0 else "**not told**"
    cells = [fault, metric, *(interval({one: side[one] for one in common}) for side in (before, after))]
    margin = f"{differences.mean():+.3f} ({low:+.3f} to {high:+.3f})"
    return f"| {' | '.join([*cells, margin, str(len(common)), verdict])} |"


def interval(values: dict[str, float]) -> str:
    estimate = summarise(values.items())
    assert estimate is not None
    return f"{estimate.mean:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


if __name__ == "__main__":
    main()
