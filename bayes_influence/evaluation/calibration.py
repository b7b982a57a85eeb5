"""Whether predictive probabilities mean what they say, and whether uncertainty knows where the errors are."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from scipy.special import entr

SUM_TOLERANCE = 1e-4
"""How far probabilities may be from adding to one: float32's softmax over a thousand classes stays well inside."""

N_BINS = 15
"""Bins of the reliability curve and of the calibration error, as in Guo et al. 2017."""


@dataclass(frozen=True)
class Calibration:
    """Quality of predictive probabilities on n test examples.

    Attributes:
        n: Number of examples.
        accuracy: Share whose most probable class is right.
        nll: Mean negative log-probability of the right class, in nats; infinite where one was given probability zero.
        brier: Mean over examples of sum_c (p_c - y_c)^2, y one-hot: between 0 and 2.
        ece: Expected calibration error, sum over bins of share x |accuracy - mean confidence|, equal-width bins.
        n_bins: Number of those bins.
        misclassification_auroc: Probability that a wrong prediction is more uncertain than a right one; NaN if all
            are right or all are wrong.
    """

    n: int
    accuracy: float
    nll: float
    brier: float
    ece: float
    n_bins: int
    misclassification_auroc: float

    def to_row(self) -> dict[str, float | int]:
        """The fields by name, as a row of a table."""
        return asdict(self)


def calibration(
    probabilities: ArrayLike, targets: ArrayLike, uncertainty: ArrayLike | None = None, n_bins: int = N_BINS
) -> Calibration:
    """Accuracy, proper scores, calibration error, and how well uncertainty separates right from wrong.

    Args:
        probabilities: Predictive probabilities of shape (n, C).
        targets: Class indices of shape (n,).
        uncertainty: What should be larger where the prediction is wrong, such as a predictive variance, shape (n,);
            the entropy of the probabilities when not given.
        n_bins: Bins of the calibration error.

    Raises:
        ValueError: If the shapes do not fit, probabilities are negative, not finite or do not add to one, a target is
            not a class, or there are no bins.
    """
    p, y = _checked(probabilities, targets)
    correct = p.argmax(axis=1) == y
    with np.errstate(divide="ignore"):
        nll = -np.log(p[np.arange(len(y)), y]).mean()
    curve = reliability(p, y, n_bins)
    return Calibration(
        n=len(y),
        accuracy=float(correct.mean()),
        nll=float(nll),
        brier=float(((p - np.eye(p.shape[1])[y]) ** 2).sum(axis=1).mean()),
        ece=float((curve["share"] * (curve["accuracy"] - curve["confidence"]).abs()).sum()),
        n_bins=n_bins,
        misclassification_auroc=misclassification_auroc(
            entr(p).sum(axis=1) if uncertainty is None else uncertainty, correct
        ),
    )


def reliability(probabilities: ArrayLike, targets: ArrayLike, n_bins: int = N_BINS) -> pd.DataFrame:
    """The reliability curve: accuracy against confidence, the probability of the predicted class, in equal bins.

    Args:
        probabilities: Predictive probabilities of shape (n, C).
        targets: Class indices of shape (n,).
        n_bins: Bins of equal width, open below and closed above.

    Returns:
        One row per bin that has examples: `low`, `high`, `count`, `share` of all examples, mean `confidence` and
        `accuracy`.

    Raises:
        ValueError: As `calibration` does.
    """
    p, y = _checked(probabilities, targets)
    if n_bins < 1:
        raise ValueError(f"a reliability curve needs at least one bin, got n_bins={n_bins}")
    confidence, correct = p.max(axis=1), p.argmax(axis=1) == y
    bins = np.clip(np.ceil(confidence * n_bins).astype(np.int64) - 1, 0, n_bins - 1)
    counts = np.bincount(bins, minlength=n_bins)
    filled = counts > 0
    edges = np.linspace(0, 1, n_bins + 1)
    return pd.DataFrame(
        {
            "low": edges[:-1][filled],
            "high": edges[1:][filled],
            "count": counts[filled],
            "share": counts[filled] / len(y),
            "confidence": np.bincount(bins, confidence, n_bins)[filled] / counts[filled],
            "accuracy": np.bincount(bins, correct, n_bins)[filled] / counts[filled],
        }
    )


def misclassification_auroc(uncertainty: ArrayLike, correct: ArrayLike) -> float:
    """Probability that a wrong prediction is more uncertain than a right one, ties counting half.

    Args:
        uncertainty: Shape (n,), larger where less certain.
        correct: Shape (n,), whether the prediction was right.

    Returns:
        The area under the receiver operating characteristic; .5 is no information, NaN if all are right or wrong.

    Raises:
        ValueError: If the lengths differ or an uncertainty is not finite.
    """
    right = np.asarray(correct, dtype=np.bool_)
    values = np.asarray(uncertainty, dtype=np.float64)
    if values.shape != right.shape or values.ndim != 1:
        raise ValueError(f"uncertainty and correct must both have shape (n,), got {values.shape} and {right.shape}")
    return _auroc(values[right], values[~right])


def out_of_distribution_auroc(inside: ArrayLike, outside: ArrayLike) -> float:
    """Probability that an example from elsewhere is more uncertain than one like the training data.

    Args:
        inside: Uncertainties of in-distribution examples, shape (n,).
        outside: Uncertainties of out-of-distribution examples, shape (k,).

    Returns:
        The area under the receiver operating characteristic, .5 is no information; NaN if one side is empty.

    Raises:
        ValueError: If a side is not a vector or an uncertainty is not finite.
    """
    return _auroc(np.asarray(inside, dtype=np.float64), np.asarray(outside, dtype=np.float64))


def _auroc(low: np.ndarray, high: np.ndarray) -> float:
    """P(high > low) + P(equal) / 2 over all pairs."""
    if low.ndim != 1 or high.ndim != 1 or not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ValueError(f"uncertainties must be finite vectors, got shapes {low.shape} and {high.shape}")
    if len(low) == 0 or len(high) == 0:
        return np.nan
    labels = np.repeat([0, 1], [len(low), len(high)])
    from sklearn.metrics import roc_auc_score  # takes longer to import than most of what is done with it

    return float(roc_auc_score(labels, np.concatenate([low, high])))


def _checked(probabilities: ArrayLike, targets: ArrayLike) -> tuple[Float[np.ndarray, "n C"], Int[np.ndarray, " n"]]:
    """Probabilities and targets as arrays that fit each other."""
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(targets)
    if p.ndim != 2 or y.shape != p.shape[:1] or len(y) == 0 or y.dtype.kind not in "iu":
        raise ValueError(
            f"expected probabilities (n, C) and integer targets (n,), n >= 1, got {p.shape} and {y.shape} of {y.dtype}"
        )
    if not (p >= 0).all() or not (np.abs(p.sum(axis=1) - 1) <= SUM_TOLERANCE).all():
        raise ValueError("probabilities must be finite, at least 0 and add to 1 in every row; pass them after softmax")
    if y.min() < 0 or y.max() >= p.shape[1]:
        raise ValueError(f"targets must lie in 0..{p.shape[1] - 1}, got {y.min()}..{y.max()}")
    return p, y
