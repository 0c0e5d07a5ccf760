"""Intervals and tests: against scipy where it has the same, else against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from video_alchemist.benchmark.statistics import (
    between_seeds,
    bootstrap_interval,
    holm,
    mean_by_id,
    paired_test,
    summarise,
)

VALUES = np.random.default_rng(5).beta(2, 3, size=40)


def test_interval_is_scipys_percentile_bootstrap() -> None:
    """Guards the resampling and the two percentiles: same draws, same digits."""
    theirs = stats.bootstrap(
        (VALUES,), np.mean, method="percentile", n_resamples=2000, confidence_level=0.9, rng=np.random.default_rng(3)
    ).confidence_interval
    assert bootstrap_interval(VALUES, 0.9, seed=3) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    """Guards against intervals of single values instead of means, or of half the level."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        low, high = bootstrap_interval(rng.normal(0.5, 0.2, size=50), num_resamples=500)
        hits += low < 0.5 < high
    assert 180 <= hits <= 198


def test_one_value_has_no_interval_and_none_is_an_error() -> None:
    """Guards against a zero-width interval that reads as certainty."""
    assert all(map(math.isnan, bootstrap_interval([0.3])))
    with pytest.raises(ValueError, match="expected numbers"):
        bootstrap_interval([])
    with pytest.raises(ValueError, match="level 95"):
        bootstrap_interval([0.1, 0.2], level=95)


def test_seeds_of_an_id_count_once() -> None:
    """Guards against treating 3 seeds of one sample as 3 samples: id a (mean 0.5) and b (0.1) weigh the same."""
    pairs = [("b", 0.1), ("a", 0.4), ("a", 0.5), ("a", 0.6), ("c", None)]
    assert mean_by_id(pairs) == pytest.approx({"a": 0.5, "b": 0.1})
    estimate = summarise(pairs)
    assert estimate is not None
    assert estimate.mean == pytest.approx(0.3) and estimate.num_ids == 2
    assert (estimate.low, estimate.high) == pytest.approx((0.1, 0.5))
    assert summarise([("c", None)]) is None


def test_spread_between_seeds_is_of_common_samples() -> None:
    """Guards against a seed that looks different because a hard sample of it is missing."""
    seeds = [{"a": 0.1, "b": 0.5}, {"a": 0.3, "b": 0.7}, {"a": 0.2, "b": 0.6, "c": 9.0}]
    assert between_seeds(seeds) == pytest.approx(0.1)
    assert between_seeds(seeds[:1]) is None and between_seeds([{"a": 1.0}, {"b": 1.0}]) is None


@pytest.mark.parametrize("n", [3, 8, 12])
def test_small_paired_test_is_scipys_exact_one(n: int) -> None:
    """Guards the enumeration of signs and the two-sided count, ties included (values rounded to tenths)."""
    rng = np.random.default_rng(n)
    a, b = rng.normal(0.3, 0.4, size=n).round(1), np.zeros(n)
    theirs = stats.permutation_test((a, b), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples",
                                    n_resamples=np.inf, vectorized=True)  # fmt: skip
    ours = paired_test(dict(zip(map(str, range(n)), a, strict=True)), dict(zip(map(str, range(n)), b, strict=True)))
    assert ours.exact and ours.num_ids == n
    assert ours.p_value == pytest.approx(theirs.pvalue) and ours.difference == pytest.approx(a.mean())


def test_large_paired_test_agrees_with_the_t_test() -> None:
    """Guards the drawn variant: on 60 normal differences both tests must tell nearly the same p."""
    rng = np.random.default_rng(1)
    shared = rng.normal(size=60)
    a = {f"{i:02}": x for i, x in enumerate(shared + rng.normal(0.07, 0.3, size=60))}
    b = {f"{i:02}": x for i, x in enumerate(shared)}
    ours = paired_test(a, b)
    assert not ours.exact
    assert ours.p_value == pytest.approx(stats.ttest_rel(list(a.values()), list(b.values())).pvalue, abs=0.02)
    assert paired_test(a, b) == ours and paired_test(b, a).difference == -ours.difference


def test_pairs_are_matched_by_id_alone() -> None:
    """Guards against pairing by position: orders differ, and one id of each is the other's none."""
    a, b = {"x": 0.9, "y": 0.1, "only a": 7.0}, {"y": 0.2, "only b": -7.0, "x": 0.8}
    test = paired_test(a, b)
    assert test.num_ids == 2 and test.difference == pytest.approx(0.0) and test.p_value == 1.0
    with pytest.raises(ValueError, match="no common id"):
        paired_test({"x": 1.0}, {"y": 1.0})


def test_holm_by_hand() -> None:
    """Guards the order, the factors 3, 2, 1, monotony and the cap at 1."""
    assert holm({"c": 0.03, "a": 0.01, "b": 0.04}) == pytest.approx({"c": 0.06, "a": 0.03, "b": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
