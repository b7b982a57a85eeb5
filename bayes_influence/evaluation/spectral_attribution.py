"""Which directions of the spectrum influence scores come from: outlying, bulk, near-null or negative ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

OUTLYING = 0.1
"""Share of the largest eigenvalue from which a direction is outlying."""

NEAR_NULL = 1e-3
"""Share of the largest eigenvalue below which a direction is near-null where there is no damping to say so."""

ROUNDING = 1e-12
"""Share of the largest eigenvalue within which a negative one is taken for zero."""

BANDS = ("outlying", "bulk", "near-null", "negative")


def spectral_attribution(
    eigenvalues: Float[np.ndarray, " P"],
    tests: Float[np.ndarray, " P"],
    examples: Float[np.ndarray, "k P"],
    delta: float,
    n_train: int,
) -> pd.DataFrame:
    """How much of the removal effects comes from each band of the spectrum.

    A score is a sum over eigenvectors, (1/n) sum_p (g_t.u_p)(u_p.g_i) / (lambda_p + delta), and its bands partial sums.
    The bands: *outlying* from a tenth of lambda_max on; *near-null* where the damping outweighs the curvature,
    0 <= lambda < delta (undamped: below a thousandth of lambda_max); *negative*; and the *bulk* between.

    Args:
        eigenvalues: lambda of shape (P,).
        tests: (P,) gradient of the test loss in the eigenvectors' basis.
        examples: (k, P) gradients of the removed examples' losses, likewise.
        delta: Damping.
        n_train: n.

    Returns:
        One row per band: `directions` in it; `trace_share` of the sum of |lambda|; `score_share`, the covariance of the
        band's partial sums with the scores over the variance of the scores (shares add up to one; a band that works
        against the others has a negative one); `mean_size`, the mean |partial sum|. Shares are NaN where all scores are
        equal.

    Raises:
        ValueError: If H + delta I is not positive definite.
    """
    shares = score_shares(eigenvalues, tests, examples, delta, n_train)
    return trace_shares(eigenvalues, np.ones_like(eigenvalues), delta).merge(shares, on="band")


def trace_shares(eigenvalues: Float[np.ndarray, " m"], counts: Float[np.ndarray, " m"], delta: float) -> pd.DataFrame:
    """How many directions each band has, and how much of the sum of |lambda|.

    Args:
        eigenvalues: lambda, or the nodes of a quadrature of the density.
        counts: How many eigenvalues each of them stands for: 1, or P times the node's weight.
        delta: Damping.

    Returns:
        One row per band: `directions` and `trace_share`.
    """
    sizes = counts * np.abs(eigenvalues)
    return pd.DataFrame(
        [
            {
                "band": band,
                "directions": float(counts[members].sum()),
                "trace_share": float(sizes[members].sum() / sizes.sum()),
            }
            for band, members in _bands(eigenvalues, delta, float(eigenvalues.max())).items()
        ]
    )


def score_shares(
    eigenvalues: Float[np.ndarray, " m"],
    tests: Float[np.ndarray, " m"],
    examples: Float[np.ndarray, "k m"],
    delta: float,
    n_train: int,
    largest: float | None = None,
) -> pd.DataFrame:
    """How much of the removal effects each band accounts for.

    From eigenvectors exactly. From m Lanczos steps that start at the test gradient, A Q = Q T and T = S diag(theta) S':
    with `eigenvalues` the theta, `tests` |g_t| S_1j and `examples` g_i' Q S the partial sums add up to what m steps of
    conjugate gradients give, and Ritz pairs stand for the eigenvectors that matter to this test example.

    Args:
        eigenvalues: lambda, or Ritz values.
        tests: (m,) gradient of the test loss in the basis of their vectors.
        examples: (k, m) gradients of the removed examples' losses, likewise.
        delta: Damping.
        n_train: n.
        largest: lambda_max; the largest value given when not given.

    Returns:
        One row per band: `score_share` and `mean_size`, see `spectral_attribution`.

    Raises:
        ValueError: If H + delta I is not positive definite.
    """
    smallest = float(eigenvalues.min())
    if smallest + delta <= 0:
        raise ValueError(
            f"the damping {delta:.3g} does not outweigh the smallest eigenvalue {smallest:.3g}; raise it above "
            f"{-smallest:.3g}"
        )
    parts = examples * tests / (eigenvalues + delta) / n_train
    scores = parts.sum(axis=1)
    centred = scores - scores.mean()
    spread = (centred**2).sum()
    rows = []
    for band, members in _bands(eigenvalues, delta, largest or float(eigenvalues.max())).items():
        own = parts[:, members].sum(axis=1)
        shared = (own * centred).sum()
        rows.append(
            {
                "band": band,
                "score_share": float(shared / spread) if spread > 0 else np.nan,
                "mean_size": float(np.abs(own).mean()),
            }
        )
    return pd.DataFrame(rows)


def _bands(eigenvalues: Float[np.ndarray, " m"], delta: float, largest: float) -> dict[str, Bool[np.ndarray, " m"]]:
    """Which values lie in which band, the bands in their order."""
    floor = delta if delta > 0 else NEAR_NULL * largest
    members = {
        "outlying": (eigenvalues >= OUTLYING * largest) & (eigenvalues >= floor),
        "near-null": (eigenvalues >= -ROUNDING * largest) & (eigenvalues < floor),
        "negative": eigenvalues < -ROUNDING * largest,
    }
    members["bulk"] = ~np.logical_or.reduce(list(members.values()))
    return {band: members[band] for band in BANDS}
