"""Tables of the fragility study: what its rows are one of, and what the authors published."""

from __future__ import annotations

from importlib.resources import files

import pandas as pd

SIZE_KEYS = ("depth", "width", "scheme", "estimator")
"""What a row of the summary over sizes is one of."""


def published_iris() -> pd.DataFrame:
    """What the authors' stored outputs of figures 1 and 3 come to, one row per scheme and size, 50 seeds each.

    Means and standard deviations of the signed Spearman correlation, of its absolute value, which the figure shows, and
    of the top eigenvalue (with the median), computed from the `.npy` files of github.com/jrepifano/xai_is_fragile.
    """
    with (files(__package__) / "published_iris.csv").open("rb") as stream:
        return pd.read_csv(stream)
