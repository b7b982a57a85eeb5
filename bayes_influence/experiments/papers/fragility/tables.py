"""Tables of the fragility study: means over seeds with their intervals, in the form that the figures take."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

import pandas as pd

from bayes_influence.evaluation.agreement import statistic_interval

SIZE_KEYS = ("depth", "width", "scheme", "estimator")
"""What a row of the summary over sizes is one of."""


def mean_table(results: pd.DataFrame, keys: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """One row per group: the means of some columns with their 95 % intervals, `<name>`, `<name>_low`, `<name>_high`.

    Args:
        results: One row per seed.
        keys: What a group is.
        columns: What is averaged; NaN is left out.
    """
    rows = []
    for names, group in results.groupby(list(keys), sort=False):
        row = dict(zip(keys, names, strict=True)) | {"repeats": len(group)}
        for column in columns:
            interval = statistic_interval(column, group[column].to_numpy())
            row |= {column: interval.estimate, f"{column}_low": interval.low, f"{column}_high": interval.high}
        rows.append(row)
    return pd.DataFrame(rows)


def published_iris() -> pd.DataFrame:
    """What the authors' stored outputs of figures 1 and 3 come to, one row per scheme and size, 50 seeds each.

    Means and standard deviations of the signed Spearman correlation, of its absolute value, which the figure shows, and
    of the top eigenvalue (with the median), computed from the `.npy` files of github.com/jrepifano/xai_is_fragile.
    """
    with (files(__package__) / "published_iris.csv").open("rb") as stream:
        return pd.read_csv(stream)
