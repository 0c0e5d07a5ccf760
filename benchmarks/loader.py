"""How fast clips come out of shards, against how fast a training step eats them: `python benchmarks/loader.py`.

EmojiWorld's buckets, networks and transformer. The loader alone by number of worker processes, from videos and from
precomputed latents and texts; the step with the frozen networks, or without what was precomputed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from video_alchemist.dataset.buckets import Bucket
from video_alchemist.dataset.loader import ClipBatch, ClipSource
from video_alchemist.dataset.shards import ShardDataset
from video_alchemist.emojiworld.files import write_world_shards
from video_alchemist.emojiworld.recipes.image_encoder import SMALL_AUGMENTATION
from video_alchemist.emojiworld.recipes.scale import SMALL
from video_alchemist.sampling.pipeline import AlchemistPipeline
from video_alchemist.training import objective
from video_alchemist.training.encode import encode_batch
from video_alchemist.training.precompute import precompute

WIDTH, HEIGHT = SMALL.size[1], SMALL.size[0]
BUCKETS = (
    Bucket((WIDTH, HEIGHT), 1, SMALL.image_batch, 1.0),
    Bucket((WIDTH, HEIGHT), SMALL.num_frames, SMALL.clip_batch, 1.0),
)


class Batches(Dataset[ClipBatch]):
    def __init__(self, source: ClipSource) -> None:
        self.source = source

    def __getitem__(self, index: int) -> ClipBatch:
        return self.source.batch(index)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="shards of EmojiWorld that columns may be added to; rendered if none")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--batches", type=int, default=6)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipeline = AlchemistPipeline.from_pretrained("emojiworld").to(device)
    transformer, roles = pipeline.transformer.train(), pipeline.roles
    optimizer = torch.optim.AdamW(transformer.parameters())

    def seconds_a_step(clips: ClipBatch) -> float:
        def step() -> None:
            batch = encode_batch(clips, roles, transformer.config["word_length"], device)
            losses, *_ = objective.loss(transformer, batch, torch.Generator(device).manual_seed(0))
            losses.mean().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return seconds(step, args.batches, device)

    with tempfile.TemporaryDirectory() as temporary:
        folder = args.data or Path(temporary)
        if args.data is None:
            list(write_world_shards(folder, 192))
        made = precompute(folder, BUCKETS, roles, device, fps=SMALL.fps)
        dataset = ShardDataset(folder)
        print("| bucket | clips are | workers | loader, clips/s | step, clips/s | loader / step |")
        print("| --- | --- | ---: | ---: | ---: | ---: |")
        for bucket in BUCKETS:
            for name, columns in (("videos", {}), ("precomputed", {"latents": made.latents, "text": made.text})):
                source = ClipSource(
                    dataset,
                    (bucket,),
                    seed=0,
                    picture_size=SMALL.reference_size,
                    augmentation=SMALL_AUGMENTATION,
                    fps=SMALL.fps,
                    **columns,
                )
                eaten = bucket.batch_size / seconds_a_step(source.batch(0))
                for workers in args.workers:
                    made_alone = bucket.batch_size * loaded(source, workers, args.batches)
                    print(
                        f"| {bucket.name} | {name} | {workers} | {made_alone:.0f} | {eaten:.0f} | "
                        f"{made_alone / eaten:.1f} |",
                        flush=True,
                    )


def seconds(run: Callable[[], None], times: int, device: str) -> float:
    """Of one run, after one to warm up."""
    run()
    start = time.perf_counter()
    for _ in range(times):
        run()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / times


def loaded(source: ClipSource, workers: int, batches: int) -> float:
    """Batches a second, once the workers run and what they make ahead is used up."""
    ahead = 1 + 2 * workers
    loader = DataLoader(Batches(source), sampler=range(ahead + batches), batch_size=None, num_workers=workers)
    made = iter(loader)
    for _ in range(ahead):
        next(made)
    start = time.perf_counter()
    for _ in range(batches):
        next(made)
    return batches / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
