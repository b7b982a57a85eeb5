"""The linear datamodelling score: do attributions predict what models trained on random subsets say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from bayes_influence.evaluation.intervals import Interval, check_level
from bayes_influence.evaluation.statistics import spearman

MIN_SUBSETS = 3
"""Two subsets correlate perfectly by construction."""


@dataclass(frozen=True, eq=False)
class LDS:
    """A linear datamodelling score.

    Attributes:
        score: Mean over test points, with the interval from resampling subsets and test points; `undefined` counts
            test points whose score is not defined.
        per_test: (t,) Spearman over subsets; NaN where attributions or outputs of a test point are constant.
        n_subsets: Number of subsets.
        n_seeds: Trainings averaged per subset.
    """

    score: Interval
    per_test: Float[np.ndarray, " t"]
    n_subsets: int
    n_seeds: int


def lds(
    masks: ArrayLike,
    attributions: ArrayLike,
    outputs: ArrayLike,
    level: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> LDS:
    """The linear datamodelling score (Park et al. 2023): Spearman over subsets S, averaged over test points t.

        LDS_t = Spearman_S( sum_{i in S} tau_ti, mean over seeds of f_t(S) )

    tau_ti is what having example i in the training set adds to the output f_t. Where f_t is the test loss that is
    minus the removal effect: pass `-removal`. Subsets are shared by all test points, so the interval resamples both,
    crossed, and takes percentiles.

    Args:
        masks: (m, n) booleans, row S true where the training example was in the subset.
        attributions: (t, n) tau.
        outputs: (m, t), or (seeds, m, t) from several trainings per subset, which are averaged.
        level: Nominal coverage.
        n_resamples: Of the bootstrap.
        seed: Of the resampling.

    Raises:
        ValueError: If the shapes do not fit, the masks are not boolean, there are fewer than three subsets, a number
            is not finite, or the level is not between 0 and 1.
    """
    check_level(level)
    inside, tau, seeds_outputs = _checked(masks, attributions, outputs)
    mean_outputs = seeds_outputs.mean(axis=0).T
    predicted = tau @ inside.T.astype(np.float64)
    per_test = spearman(predicted, mean_outputs)
    low, high = _ends(predicted, mean_outputs, level, n_resamples, np.random.default_rng(seed))
    defined = per_test[~np.isnan(per_test)]
    return LDS(
        score=Interval(
            estimate=float(defined.mean()) if len(defined) else np.nan,
            low=low,
            high=high,
            level=level,
            n=len(defined),
            undefined=len(per_test) - len(defined),
        ),
        per_test=per_test,
        n_subsets=len(inside),
        n_seeds=len(seeds_outputs),
    )


def _ends(
    predicted: Float[np.ndarray, "t m"],
    outputs: Float[np.ndarray, "t m"],
    level: float,
    n_resamples: int,
    generator: np.random.Generator,
) -> tuple[float, float]:
    """Percentiles of the mean score when subsets and test points are drawn with replacement."""
    n_test, n_subsets = predicted.shape
    means = np.full(n_resamples, np.nan)
    for index in range(n_resamples):
        rows = generator.integers(n_test, size=(n_test, 1))
        columns = generator.integers(n_subsets, size=n_subsets)
        scores = spearman(predicted[rows, columns], outputs[rows, columns])
        if not np.isnan(scores).all():
            means[index] = np.nanmean(scores)
    means = means[~np.isnan(means)]
    if len(means) == 0:
        return np.nan, np.nan
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _checked(
    masks: ArrayLike, attributions: ArrayLike, outputs: ArrayLike
) -> tuple[Bool[np.ndarray, "m n"], Float[np.ndarray, "t n"], Float[np.ndarray, "seeds m t"]]:
    """The inputs as arrays that fit each other."""
    inside, tau = np.asarray(masks), np.asarray(attributions, dtype=np.float64)
    values = np.asarray(outputs, dtype=np.float64)
    values = values[None] if values.ndim == 2 else values
    if inside.dtype != np.bool_:
        raise ValueError(f"masks must be boolean, true where an example was trained on, got {inside.dtype}")
    fits = inside.ndim == tau.ndim == 2 and values.ndim == 3 and inside.shape[1] == tau.shape[1]
    if not fits or values.shape[1:] != (inside.shape[0], tau.shape[0]):
        raise ValueError(
            "lds needs masks (m, n), attributions (t, n) and outputs (m, t) or (seeds, m, t), got shapes "
            f"{inside.shape}, {tau.shape} and {np.shape(outputs)}"
        )
    if len(inside) < MIN_SUBSETS:
        raise ValueError(f"lds needs at least {MIN_SUBSETS} subsets, got {len(inside)}; a hundred is usual")
    if not np.isfinite(tau).all():
        raise ValueError(f"{int((~np.isfinite(tau)).any(axis=1).sum())} test points have attributions not finite")
    broken = np.unique(np.nonzero(~np.isfinite(values))[1])
    if len(broken):
        raise ValueError(f"outputs of subsets {broken[:10].tolist()} are not finite; leave them out or train again")
    return inside, tau, values
