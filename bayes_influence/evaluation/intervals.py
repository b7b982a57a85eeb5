"""Intervals over seeds, and over seeds and points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.stats
from jaxtyping import Float
from numpy.typing import ArrayLike

from bayes_influence.arguments import check_count
from bayes_influence.evaluation.statistics import BLOCK_ELEMENTS, Statistic


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval.

    Attributes:
        estimate: The estimate itself.
        low: Lower end; NaN where too few values are defined.
        high: Upper end; NaN where too few values are defined.
        level: Nominal coverage.
        n: Values used.
        undefined: Values that were NaN and left out.
    """

    estimate: float
    low: float
    high: float
    level: float
    n: int
    undefined: int = 0


def mean_interval(values: ArrayLike, level: float = 0.95, bounds: tuple[float, float] = (-np.inf, np.inf)) -> Interval:
    """Mean over seeds with Student's t interval, mean -/+ t_{n-1} s / sqrt(n), cut at what the statistic can be.

    Values that are NaN are left out and counted. One value has no interval (NaN ends), none has no mean either.

    Args:
        values: Shape (n,), one per seed.
        level: Nominal coverage; the cut leaves it as it is, since the true mean lies within the bounds.
        bounds: The least and the most that a value can be.

    Raises:
        ValueError: If `values` has another number of axes, or the level is not between 0 and 1.
    """
    kept, undefined = _defined(values, level)
    if len(kept) < 2:
        return _without_ends(kept, level, undefined)
    mean, error = float(kept.mean()), float(scipy.stats.sem(kept))
    if np.ptp(kept) == 0:
        return Interval(mean, mean, mean, level, len(kept), undefined)
    low, high = scipy.stats.t.interval(level, len(kept) - 1, loc=mean, scale=error)
    return Interval(mean, max(float(low), bounds[0]), min(float(high), bounds[1]), level, len(kept), undefined)


def two_level_bootstrap(
    estimated: ArrayLike,
    true: ArrayLike,
    statistic: Statistic,
    level: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Mean over runs of a statistic of agreement, with a percentile interval from resampling runs, then points.

    Each resample draws runs with replacement and, in every run drawn, points with replacement: the interval covers
    the choice of seeds and of the examples removed. It is conservative: where runs differ by the noise of their
    points alone, that noise counts twice (a 95 % interval of ten runs of 40 points then covers in 99 %). With one run
    it is the bootstrap over its points. Runs with a number that is not finite are left out and counted; resamples in
    which the statistic is not defined are left out.

    Args:
        estimated: Estimated loss differences, shape (runs, n), or (n,) for one run.
        true: True loss differences, of the same shape.
        statistic: Over the last axis, such as `spearman`; `functools.partial` fixes further arguments.
        level: Nominal coverage.
        n_resamples: How many resamples.
        seed: Of the resampling.

    Returns:
        The interval; `n` counts runs. All NaN if no run is finite.

    Raises:
        TypeError: If the number of resamples is no whole one.
        ValueError: If the shapes differ, the level is not between 0 and 1, or nothing is to be resampled.
    """
    check_level(level)
    check_count(n_resamples=n_resamples)
    estimated, true = (np.atleast_2d(np.asarray(side, dtype=np.float64)) for side in (estimated, true))
    if estimated.shape != true.shape or estimated.ndim != 2:
        raise ValueError(
            f"estimated and true must both be (runs, n) or (n,), got shapes {estimated.shape} and {true.shape}"
        )
    finite = np.isfinite(estimated).all(axis=1) & np.isfinite(true).all(axis=1)
    undefined = int((~finite).sum())
    estimated, true = estimated[finite], true[finite]
    if len(estimated) == 0:
        return _without_ends(np.empty(0), level, undefined)
    estimate = _defined_mean(statistic(estimated, true))
    draws = _resampled_means(estimated, true, statistic, n_resamples, np.random.default_rng(seed))
    draws = draws[~np.isnan(draws)]
    if len(draws) == 0:
        return Interval(float(estimate), np.nan, np.nan, level, len(estimated), undefined)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(estimate), float(low), float(high), level, len(estimated), undefined)


def _resampled_means(
    estimated: Float[np.ndarray, "runs n"],
    true: Float[np.ndarray, "runs n"],
    statistic: Statistic,
    n_resamples: int,
    generator: np.random.Generator,
) -> Float[np.ndarray, " resamples"]:
    """The statistic's mean over runs in every resample, in blocks of bounded memory."""
    runs, n = estimated.shape
    block = max(1, BLOCK_ELEMENTS // (runs * n))
    means = []
    for start in range(0, n_resamples, block):
        size = min(block, n_resamples - start)
        run = generator.integers(runs, size=(size, runs, 1))
        point = generator.integers(n, size=(size, runs, n))
        means.append(_defined_mean(statistic(estimated[run, point], true[run, point])))
    return np.concatenate(means)


def _defined_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is not NaN; NaN where nothing is left."""
    defined = ~np.isnan(values)
    counts = defined.sum(axis=-1)
    total = np.where(defined, values, 0.0).sum(axis=-1)
    return np.divide(total, counts, out=np.full(np.shape(total), np.nan), where=counts > 0)


def _defined(values: ArrayLike, level: float) -> tuple[Float[np.ndarray, " n"], int]:
    """The values that are not NaN, and how many are."""
    check_level(level)
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"an interval over seeds takes one value per seed, shape (n,), got shape {array.shape}")
    kept = array[~np.isnan(array)]
    return kept, len(array) - len(kept)


def check_level(level: float) -> None:
    """Refuses a level that is no probability.

    Raises:
        ValueError: If it is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval lies between 0 and 1, such as 0.95, got {level}")


def _without_ends(kept: np.ndarray, level: float, undefined: int) -> Interval:
    """What none or one value says: no interval."""
    estimate = float(kept[0]) if len(kept) else np.nan
    return Interval(estimate, np.nan, np.nan, level, len(kept), undefined)
