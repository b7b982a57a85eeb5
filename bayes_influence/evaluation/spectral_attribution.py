"""Which directions of the spectrum influence scores come from: outlying, bulk, near-null or negative ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float

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
    smallest, largest = float(eigenvalues.min()), float(eigenvalues.max())
    if smallest + delta <= 0:
        raise ValueError(
            f"the damping {delta:.3g} does not outweigh the smallest eigenvalue {smallest:.3g}; raise it above "
            f"{-smallest:.3g}"
        )
    parts = examples * tests / (eigenvalues + delta) / n_train
    scores = parts.sum(axis=1)
    spread = ((scores - scores.mean()) ** 2).sum()
    floor = delta if delta > 0 else NEAR_NULL * largest
    members = {
        "outlying": (eigenvalues >= OUTLYING * largest) & (eigenvalues >= floor),
        "near-null": (eigenvalues >= -ROUNDING * largest) & (eigenvalues < floor),
        "negative": eigenvalues < -ROUNDING * largest,
    }
    members["bulk"] = ~np.logical_or.reduce(list(members.values()))
    rows = []
    for band in BANDS:
        own = parts[:, members[band]].sum(axis=1)
        shared = ((own - own.mean()) * (scores - scores.mean())).sum()
        rows.append(
            {
                "band": band,
                "directions": int(members[band].sum()),
                "trace_share": float(np.abs(eigenvalues[members[band]]).sum() / np.abs(eigenvalues).sum()),
                "score_share": float(shared / spread) if spread > 0 else np.nan,
                "mean_size": float(np.abs(own).mean()),
            }
        )
    return pd.DataFrame(rows)
