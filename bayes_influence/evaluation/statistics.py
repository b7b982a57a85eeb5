"""The statistics of agreement, each over the last axis: estimates and truths (..., n) give (...).

They are defined on rows so that a bootstrap can take thousands of resamples at once. Signs are kept everywhere: no
absolute value of a correlation, whose mean under independence is .16 at 25 points.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.stats
from jaxtyping import Bool, Float

Rows = Float[np.ndarray, "*runs n"]
PerRun = Float[np.ndarray, "*runs"]
Sums = Float[np.ndarray | np.float64, "*runs"]
Defined = Bool[np.ndarray | np.bool_, "*runs"]
Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]

PAIRWISE_LENGTH = 100
"""Longest rows whose pairs of points are compared one by one, many rows at once.

Measured on one core: a resample of 40 points takes 11 microseconds so and 200 in scipy, one of 200 points 1200 and
320. A two-level bootstrap of ten runs of 40 takes a quarter of a second instead of ten.
"""

BLOCK_ELEMENTS = 2**20
"""Numbers held at once per array, 8 MiB, whatever the number of rows."""


def pearson(estimated: Rows, true: Rows) -> PerRun:
    """Pearson's correlation; NaN where either side is constant."""
    estimated, true = np.broadcast_arrays(estimated, true)
    x = estimated - estimated.mean(axis=-1, keepdims=True)
    y = true - true.mean(axis=-1, keepdims=True)
    norms = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    return _ratio((x * y).sum(axis=-1), norms, ~(_constant(estimated) | _constant(true)))


def spearman(estimated: Rows, true: Rows) -> PerRun:
    """Spearman's rank correlation, ties at their mean rank; NaN where either side is constant."""
    return pearson(scipy.stats.rankdata(estimated, axis=-1), scipy.stats.rankdata(true, axis=-1))


def kendall(estimated: Rows, true: Rows) -> PerRun:
    """Kendall's tau-b; NaN where either side is constant."""
    if true.shape[-1] > PAIRWISE_LENGTH:
        return _by_row(lambda x, y: scipy.stats.kendalltau(x, y).statistic, estimated, true)
    return _tau_by_pairs(estimated, true, np.ones_like(true))


def weighted_kendall(estimated: Rows, true: Rows) -> PerRun:
    """Kendall's tau with additive hyperbolic weights (Vigna 2015) by the size of the true effect.

    A pair of points ranked r and s by |true|, the largest ranked 0, counts 1/(r+1) + 1/(s+1): the order of the points
    that matter decides. NaN where either side is constant.
    """
    estimated, true = np.broadcast_arrays(estimated, true)
    # Equal sizes are ranked by truth, then estimate, not by position: the order of the points must not matter.
    rank = np.argsort(np.lexsort((-estimated, -true, -np.abs(true)), axis=-1), axis=-1)
    if true.shape[-1] > PAIRWISE_LENGTH:
        return _by_row(lambda x, y, r: scipy.stats.weightedtau(x, y, rank=r).statistic, estimated, true, rank)
    return _tau_by_pairs(estimated, true, 1 / (rank + 1.0))


def slope(estimated: Rows, true: Rows) -> PerRun:
    """Least-squares slope through zero of true on estimated, sum(e t) / sum(e^2).

    1 when the estimates have the right size, 2 when they are half the truth; NaN where all estimates are zero.
    """
    squares = (estimated * estimated).sum(axis=-1)
    return _ratio((estimated * true).sum(axis=-1), squares, squares > 0)


def r2(estimated: Rows, true: Rows) -> PerRun:
    """Coefficient of determination of the estimates at face value, 1 - sum (t - e)^2 / sum (t - mean t)^2.

    Nothing is refitted: 1 is exact, 0 as good as the mean of the truths, and there is no lower end. NaN where the
    truths are constant.
    """
    unexplained = ((true - estimated) ** 2).sum(axis=-1)
    total = ((true - true.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1)
    return np.asarray(1 - _ratio(unexplained, total, ~_constant(true)))


def sign_agreement(estimated: Rows, true: Rows) -> PerRun:
    """Share of the points whose estimate has the sign of the truth; zero agrees with zero only."""
    return np.asarray((np.sign(estimated) == np.sign(true)).mean(axis=-1))


def top_k_overlap(estimated: Rows, true: Rows, top_k: int) -> PerRun:
    """Share of the `top_k` points of largest |true| that are among the `top_k` of largest |estimated|.

    Where points tie for the last places this is the expectation under breaking the ties at random, so a constant
    score has exactly the overlap of chance, k/n, whatever the order of the points.
    """
    return np.asarray((_membership(estimated, top_k) * _membership(true, top_k)).sum(axis=-1) / top_k)


def _membership(values: Rows, top_k: int) -> Rows:
    """Probability of each point to be among the `top_k` largest in absolute value, ties broken at random."""
    sizes = np.abs(values)
    last = np.sort(sizes, axis=-1)[..., -top_k, None]
    above, tied = sizes > last, sizes == last
    places = top_k - above.sum(axis=-1, keepdims=True)
    return above + tied * (places / tied.sum(axis=-1, keepdims=True))


def _constant(values: Rows) -> Defined:
    return values.max(axis=-1) == values.min(axis=-1)


def _ratio(above: Sums, below: Sums, defined: Defined) -> PerRun:
    """Above / below, NaN where it is not defined."""
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=defined & (below > 0))


def _by_row(one: Callable[..., float], *sides: np.ndarray) -> np.ndarray:
    """Applies a statistic of vectors to every row."""
    sides = np.broadcast_arrays(*sides)
    rows = zip(*(side.reshape(-1, side.shape[-1]) for side in sides), strict=True)
    return np.array([one(*row) for row in rows], dtype=np.float64).reshape(sides[0].shape[:-1])


def _tau_by_pairs(estimated: Rows, true: Rows, weights: Rows) -> np.ndarray:
    """Sum W s_e s_t / sqrt(sum W s_e^2 sum W s_t^2) over pairs i < j: s the signs of x_i - x_j, W = w_i + w_j."""
    sides = np.broadcast_arrays(estimated, true, weights)
    first, second = np.triu_indices(true.shape[-1], 1)
    e, t, w = (side.reshape(-1, side.shape[-1]) for side in sides)
    tau = np.empty(len(e))
    block = max(1, BLOCK_ELEMENTS // max(1, len(first)))
    for start in range(0, len(e), block):
        rows = slice(start, start + block)
        signs_e = np.sign(e[rows, first] - e[rows, second])
        signs_t = np.sign(t[rows, first] - t[rows, second])
        weight = w[rows, first] + w[rows, second]
        above = (weight * signs_e * signs_t).sum(axis=-1)
        norms = np.sqrt((weight * signs_e**2).sum(axis=-1) * (weight * signs_t**2).sum(axis=-1))
        tau[rows] = _ratio(above, norms, norms > 0)
    return tau.reshape(sides[0].shape[:-1])
