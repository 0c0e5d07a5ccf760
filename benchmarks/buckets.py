"""Table 6 against what is drawn: `python benchmarks/buckets.py [--data SHARDS] [--plot docs/images/buckets.png]`.

A histogram of drawn buckets, the tokens of a GPU's step in each, and how much of the conditions is padding.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from video_alchemist.dataset.buckets import Bucket, BucketSchedule, bucket_tokens, derived, table_6
from video_alchemist.dataset.references import select_pictures
from video_alchemist.dataset.shards import ShardDataset
from video_alchemist.emojiworld.files import write_world_shards
from video_alchemist.records import MAX_IMAGES
from video_alchemist.sampling.pipeline import AlchemistPipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="shards that captions and references are of; EmojiWorld if none")
    parser.add_argument("--draws", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=400, help="steps of every bucket whose padding is measured")
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    buckets = table_6()
    start = time.perf_counter()
    schedule = BucketSchedule(buckets, seed=0)
    drawn = Counter(schedule.at(step)[0].name for step in range(args.draws))
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        if args.data is None:
            list(write_world_shards(Path(folder), 96))
        texts, pictures = lengths(ShardDataset(args.data or folder))
    rng = np.random.default_rng(0)
    waste = {
        bucket: (padding(texts, bucket, args.steps, rng), padding(pictures, bucket, args.steps, rng))
        for bucket in buckets
    }
    print("| bucket | weight | drawn | clips a GPU | tokens a clip | tokens a GPU | padded text | padded references |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for bucket in buckets:
        tokens, (text, reference) = bucket_tokens(bucket), waste[bucket]
        print(
            f"| {bucket.name} | {bucket.weight:.2f} % | {100 * drawn[bucket.name] / args.draws:.2f} % | "
            f"{bucket.batch_size} | {tokens:,} | {tokens * bucket.batch_size:,} | {text:.0%} | {reference:.0%} |"
        )
    share = {bucket: bucket.weight / 100 for bucket in buckets}
    tokens = sum(share[bucket] * bucket_tokens(bucket) * bucket.batch_size for bucket in buckets)
    most = max(abs(drawn[b.name] - args.draws * share[b]) / deviation(args.draws, share[b]) for b in buckets)
    text, reference = (sum(share[bucket] * waste[bucket][i] for bucket in buckets) for i in (0, 1))
    print(f"\n{args.draws:,} draws in {seconds:.2f} s; the one farthest off is {most:.1f} standard deviations away")
    print(f"mean: {tokens:,.0f} tokens a GPU; padding: {text:.0%} of text, {reference:.0%} of references, 0 % of video")
    budgets = [budget for budget in range(50_000, 60_000, 20) if derived(buckets, budget) == buckets]
    print(f"budgets that give Table 6's batch sizes exactly: {min(budgets):,} to {max(budgets):,} tokens a GPU")
    if args.plot:
        plot(buckets, drawn, args.draws, waste, args.plot)


def deviation(draws: int, share: float) -> float:
    return float(np.sqrt(draws * share * (1 - share)))


def lengths(dataset: ShardDataset) -> tuple[np.ndarray, np.ndarray]:
    """Text tokens of every clip, and numbers of pictures that App. A.3 selects, some draws a clip."""
    text_encoder = AlchemistPipeline.from_pretrained("emojiworld").roles.text_encoder
    texts = text_encoder(dataset.index["caption"].to_pylist()).mask.sum(dim=1).cpu().numpy()
    rng = np.random.default_rng(0)
    positions = np.repeat(np.arange(len(dataset)), 8).tolist()
    return texts, np.array([len(select_pictures(dataset, one, rng, 16, MAX_IMAGES)) for one in positions])


def padding(lengths: np.ndarray, bucket: Bucket, steps: int, rng: np.random.Generator) -> float:
    """The share of places that is padding where a micro-batch is as wide as its widest clip."""
    rows = rng.choice(lengths, size=(steps, bucket.batch_size))
    return float(1 - rows.sum() / (rows.max(axis=1) * bucket.batch_size).sum())


def plot(
    buckets: tuple[Bucket, ...], drawn: Counter[str], draws: int, waste: dict[Bucket, tuple[float, float]], path: Path
) -> None:
    import matplotlib.pyplot as plt

    rows = np.arange(len(buckets))
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 4.6), sharey=True, layout="constrained")
    shares = [100 * drawn[bucket.name] / draws for bucket in buckets]
    left.barh(rows, shares, color="#4c78a8", label=f"{draws:,} draws")
    weights = [bucket.weight for bucket in buckets]
    left.scatter(weights, rows, color="black", marker="|", s=90, label="Table 6", zorder=3)
    left.set(xlabel="share of the steps, %", yticks=rows, yticklabels=[bucket.name for bucket in buckets])
    left.legend(loc=(0.5, 0.66), frameon=False)
    middle.barh(rows, [bucket_tokens(bucket) * bucket.batch_size / 1000 for bucket in buckets], color="#4c78a8")
    middle.axvline(55, color="black", linewidth=1)
    middle.set(xlabel="thousand video tokens a GPU and step; line: 55")
    for column, (name, color) in enumerate((("text", "#f58518"), ("references", "#54a24b"))):
        shares = [100 * waste[bucket][column] for bucket in buckets]
        right.barh(rows + 0.2 - 0.4 * column, shares, height=0.4, color=color, label=name)
    right.set(xlabel="padding, % (video: none)")
    right.legend(loc="lower right", frameon=False)
    left.invert_yaxis()
    for axis in (left, middle, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    print(path)


if __name__ == "__main__":
    main()
