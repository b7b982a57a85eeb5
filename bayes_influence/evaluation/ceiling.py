"""How well any estimate could agree with a truth that itself varies from one retraining to the next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from bayes_influence.evaluation.statistics import Statistic, pearson

MIN_REPEATS = 2
"""One retraining says nothing about its own repeatability."""


@dataclass(frozen=True)
class Ceiling:
    """The correlation that a perfect estimate is expected to reach.

    Attributes:
        repeats: Number of repeat retrainings.
        repeatability: Mean correlation between two of them.
        single: Ceiling against one retraining.
        average: Ceiling against the mean of all of them.
    """

    repeats: int
    repeatability: float
    single: float
    average: float


def retraining_ceiling(repeats: ArrayLike, correlation: Statistic = pearson) -> Ceiling:
    """The ceiling from true loss differences that were measured several times with different seeds.

    Each measurement is taken as the effect of interest (its mean over seeds) plus noise that is independent between
    seeds. With r the mean correlation of two measurements, the effect itself correlates sqrt(r) with one and, after
    Spearman and Brown, sqrt(R r / (1 + (R - 1) r)) with the mean of R. For rank correlations this is an approximation.
    An estimate for one particular seed can be better than that against the same seed.

    Args:
        repeats: Loss differences of shape (R, n), one row per retraining.
        correlation: Over the last axis, `pearson` or `spearman`.

    Returns:
        The ceiling: 0 where the repeats do not correlate at all, NaN where they are constant or not finite.

    Raises:
        ValueError: If there are fewer than two repeats or three examples.
    """
    array = np.asarray(repeats, dtype=np.float64)
    if array.ndim != 2 or array.shape[0] < MIN_REPEATS or array.shape[1] < 3:
        raise ValueError(f"a ceiling needs shape (R, n), R >= 2 retrainings and n >= 3 examples, got {array.shape}")
    r = _mean_correlation(array, correlation) if np.isfinite(array).all() else np.nan
    count = len(array)
    positive = max(r, 0.0) if not np.isnan(r) else np.nan
    return Ceiling(
        repeats=count,
        repeatability=r,
        single=float(np.sqrt(positive)),
        average=float(np.sqrt(count * positive / (1 + (count - 1) * positive))),
    )


def _mean_correlation(repeats: Float[np.ndarray, "R n"], correlation: Statistic) -> float:
    """Mean over pairs of rows."""
    first, second = np.triu_indices(len(repeats), 1)
    return float(correlation(repeats[first], repeats[second]).mean())
