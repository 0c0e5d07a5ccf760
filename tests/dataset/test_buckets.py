"""Table 6's buckets: their sizes, who belongs to them, and which of them and of their clips a step takes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from video_alchemist.dataset.buckets import (
    Bucket,
    BucketSchedule,
    assign,
    bucket_tokens,
    derived,
    endless,
    shuffled,
    table_6,
)

SMALL = Bucket((64, 64), 9, 4, 1.0)


def test_table_6() -> None:
    """Guards against a slip in the table: its printed batch sizes, and weights that sum to 100."""
    rows = {bucket.name: (bucket.batch_size * 16, round(bucket.weight, 1)) for bucket in table_6()}
    assert len(rows) == 18 and sum(bucket.weight for bucket in table_6()) == pytest.approx(100)
    assert rows["256x144x17"] == (1216, 10.0) and rows["256x144x289"] == (80, 3.3)
    assert rows["512x288x49"] == (112, 5.8) and rows["1024x576x121"] == (16, 5.8)
    # B.2: "up to 12 seconds ... at 256px x 144px", "up to 5 seconds" at the others, at 24 frames a second
    assert max(b.num_frames for b in table_6() if b.size == (256, 144)) // 24 == 12
    assert {max(b.num_frames for b in table_6() if b.size[0] == width) // 24 for width in (512, 1024)} == {5}


def test_one_token_budget_gives_all_of_table_6() -> None:
    """The paper's 18 batch sizes are one number: about 55,000 tokens a GPU, rounded to whole clips."""
    assert bucket_tokens(table_6()[0]) == 5 * 9 * 16
    for budget in (54_400, 55_000):
        assert derived(table_6(), budget) == table_6()
    assert derived(table_6(), 54_000) != table_6() != derived(table_6(), 55_300)
    half = derived(table_6(), 27_500)
    assert half[0].batch_size == 38 and half[-1].batch_size == 1  # one clip at least, however long
    tokens = [bucket.batch_size * bucket_tokens(bucket) for bucket in table_6()]
    assert min(tokens) == 43_776 and max(tokens) == 71_424


def test_samples_seen() -> None:
    """Table 6 says 234M in stage I on 256 GPUs and 39M in stage II on 64: batch sizes are per 16 GPUs."""
    mean = sum(bucket.weight * bucket.batch_size for bucket in table_6()) / 100
    assert 60_000 * 256 * mean == pytest.approx(234e6, rel=0.04)
    assert 40_000 * 64 * mean == pytest.approx(39e6, rel=0.04)


def test_weights_over_steps() -> None:
    """Over 20k draws every bucket comes as often as the table says, within four standard deviations."""
    schedule, steps = BucketSchedule(table_6(), seed=0), 20_000
    counts = Counter(schedule.at(step)[0].name for step in range(steps))
    for bucket in table_6():
        share = bucket.weight / 100
        assert abs(counts[bucket.name] - steps * share) < 4 * np.sqrt(steps * share * (1 - share)), bucket.name


def test_uses_before_count_a_buckets_earlier_steps() -> None:
    """Guards against a count that restarts at a block's border, or that depends on what was asked before."""
    schedule, seen = BucketSchedule(table_6(), seed=1), Counter()
    answers = []
    for step in range(9000):
        bucket, before = schedule.at(step)
        assert before == seen[bucket.name]
        seen[bucket.name] += 1
        answers.append((bucket, before))
    fresh = BucketSchedule(table_6(), seed=1)
    assert [fresh.at(step) for step in (8999, 5, 4096)] == [answers[step] for step in (8999, 5, 4096)]
    other = BucketSchedule(table_6(), seed=2)
    assert [other.at(step)[0] for step in range(20)] != [bucket for bucket, _ in answers[:20]]
    with pytest.raises(ValueError, match="each once"):
        BucketSchedule((SMALL, SMALL), seed=0)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 1000])
def test_every_clip_once_before_any_twice(count: int) -> None:
    """Guards against repetition within a lap, and over its end within half a lap: a step's clips must differ."""
    order = endless(np.arange(3 * count), count, seed=0, name="a")
    for lap in order.reshape(3, count):
        assert sorted(lap) == list(range(count))
    for start in range(2 * count):
        assert len(set(order[start : start + count // 2])) == count // 2
    assert endless(np.array([2 * count]), count, 0, "a") == order[2 * count]
    if count > 50:
        assert list(order[:count]) != list(order[count : 2 * count])  # every lap in its own order
        assert list(order[:count]) != list(endless(np.arange(count), count, 1, "a"))


def test_shuffling_mixes() -> None:
    """Guards against a permutation that keeps neighbours together, so that steps would see one shard."""
    order = shuffled(np.arange(10_000), 10_000, (0,))
    assert abs(np.corrcoef(order, np.arange(10_000))[0, 1]) < 0.05
    assert np.mean(np.abs(np.diff(order)) < 100) == pytest.approx(0.02, abs=0.01)
    assert 0 <= shuffled(np.array([37_799_999]), 37_800_000, (0,))[0] < 37_800_000


def test_who_belongs_where() -> None:
    """A clip is in every bucket of its aspect that it has pixels and frames for; the rest is told by reason."""
    buckets = (SMALL, Bucket((128, 128), 9, 1, 1.0), Bucket((64, 64), 49, 1, 1.0), Bucket((128, 72), 9, 1, 1.0))
    clips = {
        "square": ((128, 128), 50, 24.0),
        "half the rate": ((64, 64), 25, 12.0),  # 25 frames at 12 are 50 at 24
        "wide": ((200, 100), 24, 24.0),  # nearest to 16:9
        "tall": ((72, 128), 24, 24.0),  # nearest to 1:1, cut off above and below
        "slightly small": ((60, 60), 9, 24.0),
        "tiny": ((40, 40), 50, 24.0),
        "short": ((64, 64), 5, 24.0),
        "slow": ((64, 64), 50, 6.0),
        "film": ((64, 64), 49, 23.976),
    }
    names = list(clips)
    sizes, frames, rates = zip(*clips.values(), strict=True)
    found = assign(buckets, np.array(sizes), np.array(frames), np.array(rates))
    members = {name: [names[row] for row in rows] for name, rows in found.members.items()}
    assert members == {
        "64x64x9": ["square", "half the rate", "tall", "slightly small", "film"],
        "128x128x9": ["square"],
        "64x64x49": ["square", "half the rate", "film"],
        "128x72x9": ["wide"],
    }
    left_out = {reason: [names[row] for row in rows] for reason, rows in found.left_out.items()}
    assert left_out == {"too few pixels": ["tiny"], "too few frames": ["short"], "frame rate too low": ["slow"]}


def test_nearly_equal_aspects_are_one() -> None:
    """832x480 and 1280x720 are both 16:9: a 16:9 clip that only went to the nearest would never be seen small."""
    buckets = (Bucket((832, 480), 17, 1, 1.0), Bucket((1280, 720), 17, 1, 1.0), Bucket((480, 832), 17, 1, 1.0))
    found = assign(buckets, np.array([[1920, 1080], [1080, 1920]]), np.array([48, 48]), np.array([24.0, 24.0]))
    assert [rows.tolist() for rows in found.members.values()] == [[0], [0], [1]]
