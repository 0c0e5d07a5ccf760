"""What curation costs, side by side in one run: `python benchmarks/curate.py [--num-clips 128] [--rounds 3]`.

stages     clips a second, and the share of each step
decode     our one pass over the frames against PyAV's bare decoding of the same files
processes  two worker processes against one (on a machine with nothing else to do)
naive      the pipeline against one clip, one frame, one word, one model call at a time, with the same models
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import torch

from video_alchemist.curation.clip import FRAME_TIMES, Clip, Source
from video_alchemist.curation.decode import decode_clip
from video_alchemist.curation.executors import Inline, Processes
from video_alchemist.curation.probe import probe_clip
from video_alchemist.curation.profile import CurationProfile, emojiworld
from video_alchemist.curation.roles import Roles
from video_alchemist.curation.run import curate
from video_alchemist.emojiworld.files import write_world
from video_alchemist.video import read_video

BUNDLE = Path(__file__).parent.parent / "src" / "video_alchemist" / "emojiworld" / "bundle" / "curation"
UNIT_SIZE = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-clips", type=int, default=128)
    parser.add_argument("--size", type=int, default=64, help="pixels")
    parser.add_argument("--num-frames", type=int, default=17)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--networks", type=Path, default=BUNDLE, help="of the profile emojiworld")
    parser.add_argument("--videos", type=Path, help="a folder of mp4 files; default: EmojiWorld, rendered")
    parser.add_argument("--only", nargs="*", choices=tuple(MEASUREMENTS), default=tuple(MEASUREMENTS))
    args = parser.parse_args()
    profile = emojiworld(args.networks)
    with tempfile.TemporaryDirectory() as name:
        videos = args.videos or Path(name, "videos")
        size = (args.size, args.size)
        if args.videos is None:
            for _ in write_world(videos, args.num_clips, size=size, num_frames=args.num_frames, undesirable_share=0.2):
                pass
        for measurement in args.only:
            MEASUREMENTS[measurement](videos, Path(name), profile, args.rounds)


def stages(videos: Path, work: Path, profile: CurationProfile, rounds: int) -> None:
    seconds: Counter[str] = Counter()
    clips = 0
    for number in range(rounds):
        receipts = curate(videos, work / f"stages-{number}", profile, executor=Inline(), unit_size=UNIT_SIZE)
        for stage, done in receipts.items():
            for receipt in done:
                seconds.update({f"{stage}: {step}": cost for step, cost in receipt.seconds.items()})
        clips += sum(receipt.sources for receipt in receipts["annotate"])
    total = sum(seconds.values())
    print(f"stages: {clips / total:.1f} clips/s in one process with {torch.get_num_threads()} threads")
    for step, cost in seconds.most_common():
        print(f"  {step:28}{1000 * cost / clips:8.2f} ms/clip {cost / total:6.1%}")


def decode(videos: Path, work: Path, profile: CurationProfile, rounds: int) -> None:
    limits = replace(profile.limits, max_seconds=1e6)
    probed = [probe_clip(Clip(one.stem, Source(one.stem, str(one))), limits) for one in sorted(videos.glob("*.mp4"))]
    clips = [one for one in probed if isinstance(one, Clip) and isinstance(decode_clip(one, limits, 64), Clip)]
    paths = [clip.source.path for clip in clips]

    def ours() -> None:
        for clip in clips:
            decode_clip(clip, limits, 64)

    def bare() -> None:
        for path in paths:
            with av.open(path) as container:
                for _ in container.decode(video=0):
                    pass

    _compare("decode: our pass / PyAV's bare decoding, by speed", bare, ours, rounds)


def processes(videos: Path, work: Path, profile: CurationProfile, rounds: int) -> None:
    """Without the time that processes take to start and to load models, which is the first unit's."""

    def seconds(workers: int, number: int) -> float:
        done: list[float] = []

        def run(paths: list[Path], name: str) -> float:
            folder = work / f"videos-{name}"
            folder.mkdir()
            for path in paths:
                for one in (path, path.with_suffix(".txt")):
                    (folder / one.name).symlink_to(one)
            start = time.perf_counter()
            curate(folder, work / name, profile, executor=Processes(workers), unit_size=UNIT_SIZE // 2)
            return time.perf_counter() - start

        paths = sorted(videos.glob("*.mp4"))
        few = paths[: workers * UNIT_SIZE // 2]
        done = [run(some, f"processes-{workers}-{number}-{len(some)}") for some in (few, paths)]
        return (done[1] - done[0]) / (len(paths) - len(few))

    ratios = [seconds(1, number) / seconds(2, number) for number in range(rounds)]
    print(f"processes: two are {statistics.median(ratios):.2f} times one ({_listed(ratios)})")


def naive(videos: Path, work: Path, profile: CurationProfile, rounds: int) -> None:
    roles = Roles(profile, "cpu")

    def plain() -> None:
        for path in sorted(videos.glob("*.mp4")):
            naive_clip(path, profile, roles)

    numbers = iter(range(rounds + 1))

    def ours() -> None:
        curate(videos, work / f"naive-{next(numbers)}", profile, executor=Inline(), unit_size=UNIT_SIZE)

    _compare("naive: the pipeline / one thing at a time, by speed", plain, ours, rounds)


def naive_clip(path: Path, profile: CurationProfile, roles: Roles) -> None:
    """What one would write first: every model reads the file by itself and sees one frame, one word, one box."""

    def frames() -> np.ndarray:
        return read_video(path)[0]

    tiny = np.stack([cv2.resize(frame, (48, 27), interpolation=cv2.INTER_AREA) for frame in frames()])
    if (roles.shot_detector(tiny)[:-1] > profile.shot_end).any():
        return
    video = frames()
    chosen = [frame for frame in video[np.linspace(0, len(video) - 1, 16).round().astype(int)]]
    side = roles.clip_filter.size
    small = np.stack([cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA) for frame in chosen])
    if (roles.clip_filter(small[None]) > profile.undesirable).any():
        return
    answer = roles.entity_extractor([path.with_suffix(".txt").read_text()])[0]
    assert isinstance(answer, dict)
    masks = []
    for share in FRAME_TIMES:
        video = frames()
        frame = video[int(share * len(video))]
        for word in [*answer["subject"], *answer["object"]]:
            [[found]] = roles.detector([frame], [[word]])
            if not found or found[0].score < profile.grounding.detection_score:
                continue
            [(mask, _)] = roles.segmenter([frame], [np.array([found[0].box], np.float32)])
            roles.face_detector([frame])
            masks.append(mask[0])
    if masks:
        video = frames()
        middle = video[len(video) // 2]
        painted = roles.inpainter(middle, np.any(masks, axis=0), "", 0)
        for word in [*answer["subject"], *answer["object"]]:
            roles.detector([painted], [[word]])


def _compare(name: str, slow: Callable[[], None], fast: Callable[[], None], rounds: int) -> None:
    """Prints how many times as fast `fast` is: the median of rounds in which both run, after one to warm up."""
    ratios = []
    for number in range(rounds + 1):
        times = []
        for function in (slow, fast):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        if number:
            ratios.append(times[0] / times[1])
    print(f"{name}: {statistics.median(ratios):.2f} ({_listed(ratios)})")


def _listed(ratios: list[float]) -> str:
    return ", ".join(f"{ratio:.2f}" for ratio in ratios)


MEASUREMENTS = {"stages": stages, "decode": decode, "processes": processes, "naive": naive}


if __name__ == "__main__":
    main()
