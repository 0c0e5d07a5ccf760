"""How sure a benchmark's means are (§4.1 gives means alone): intervals over samples, and paired tests between methods.

The unit is the sample (an id): frames, words and seeds of one sample are no independent evidence, so they are averaged
first (`mean_by_id`). Everything is deterministic: the same values in the same order give the same digits.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

EXACT_PAIRS = 12  # up to 2 ** 12 patterns of signs are all gone through
TIE = 1e-12  # differences of means closer than this are equal, whatever the order of addition


@dataclass(frozen=True)
class Estimate:
    """A mean over samples with its interval. low and high are NaN for a single sample, which says nothing of spread."""

    mean: float
    low: float
    high: float
    num_ids: int


@dataclass(frozen=True)
class PairedTest:
    """difference: mean of a - b over the common ids. p_value: two-sided, in (0, 1]. exact: every sign pattern was
    counted, none drawn."""

    difference: float
    p_value: float
    num_ids: int
    exact: bool


def mean_by_id(pairs: Iterable[tuple[str, float | None]]) -> dict[str, float]:
    """(id, value) of several seeds, words or runs => one mean an id, sorted by id. None (not defined for this video)
    is left out; so is an id that has nothing else."""
    values: dict[str, list[float]] = defaultdict(list)
    for name, value in pairs:
        if value is not None:
            values[name].append(value)
    return {name: math.fsum(values[name]) / len(values[name]) for name in sorted(values)}


def summarise(pairs: Iterable[tuple[str, float | None]], level: float = 0.95) -> Estimate | None:
    """(id, value) of all seeds => the mean over ids with its interval; None where no id has a value."""
    means = list(mean_by_id(pairs).values())
    if not means:
        return None
    return Estimate(math.fsum(means) / len(means), *bootstrap_interval(means, level), num_ids=len(means))


def between_seeds(means: Sequence[Mapping[str, float]]) -> float | None:
    """By seed, by id => standard deviation of the seeds' means over the ids that all have; None where there is none."""
    if len(means) < 2 or not (common := set.intersection(*map(set, means))):
        return None
    return float(np.std([math.fsum(row[name] for name in sorted(common)) / len(common) for row in means], ddof=1))


def bootstrap_interval(
    values: Sequence[float] | np.ndarray, level: float = 0.95, num_resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Values (n,), one an id => low, high of their mean: percentiles of the means of resamples (Efron 1979).

    A single value gives (NaN, NaN). Percentile intervals are somewhat too narrow below some 20 values."""
    values = _finite(values)
    if not 0 < level < 1:
        raise ValueError(f"level {level}; expected a number between 0 and 1, such as 0.95")
    if len(values) == 1:
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), size=(num_resamples, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_test(
    a: Mapping[str, float], b: Mapping[str, float], num_resamples: int = 10_000, seed: int = 0
) -> PairedTest:
    """Two methods' values by id => is a - b different from 0? Sign-flip permutation test on the ids that both have.

    If the methods were alike, each difference could as well have the other sign. Exact up to EXACT_PAIRS ids; beyond,
    of drawn signs, where the observed pattern counts as one draw, so that p is never 0."""
    common = sorted(a.keys() & b.keys())
    if not common:
        raise ValueError(f"no common id among {len(a)} and {len(b)}; expected two methods scored on the same samples")
    differences = _finite([a[name] - b[name] for name in common])
    n = len(common)
    exact = n <= EXACT_PAIRS
    if exact:
        signs = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
        sums = np.abs(signs @ differences)
    else:
        rng = np.random.default_rng(seed)
        drawn = [np.abs((1 - 2 * rng.integers(0, 2, size=(500, n))) @ differences) for _ in range(num_resamples // 500)]
        sums = np.concatenate([*drawn, [np.inf]])
    p_value = np.mean(sums >= abs(differences.sum()) - TIE * n)
    return PairedTest(float(differences.mean()), float(p_value), n, exact)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p values of a family of tests => adjusted for their number (Holm 1979), in the given order.

    With 15 metrics and no true difference, one in two comparisons shows some p < 0.05: judge single metrics of a table
    by these, or name beforehand the one metric that decides."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def _finite(values: Sequence[float] | np.ndarray) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ValueError(f"values of shape {array.shape}, not all finite or none at all; expected numbers, one an id")
    return array
