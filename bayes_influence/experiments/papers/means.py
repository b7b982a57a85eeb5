"""Means over seeds with their intervals, as every paper's study tabulates and says them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd

from bayes_influence.evaluation.agreement import statistic_interval
from bayes_influence.evaluation.intervals import mean_interval


def mean_table(
    results: pd.DataFrame, keys: Sequence[str], columns: Sequence[str], shares: Collection[str] = ()
) -> pd.DataFrame:
    """One row per group: the means of some columns with their 95 % intervals, `<name>`, `<name>_low`, `<name>_high`.

    Args:
        results: One row per seed.
        keys: What a group is.
        columns: What is averaged; NaN is left out.
        shares: Those of them that are shares, whose intervals stay within 0 and 1; statistics stay within their bounds.
    """
    rows = []
    for names, group in results.groupby(list(keys), sort=False):
        row = dict(zip(keys, names, strict=True)) | {"repeats": len(group)}
        for column in columns:
            values = group[column].to_numpy()
            own = mean_interval(values, bounds=(0.0, 1.0)) if column in shares else statistic_interval(column, values)
            row |= {column: own.estimate, f"{column}_low": own.low, f"{column}_high": own.high}
        rows.append(row)
    return pd.DataFrame(rows)


def with_interval(row: pd.Series, column: str, digits: int = 3) -> str:
    """A mean with its 95 % interval, "0.70 (0.61 … 0.79)".

    Args:
        row: Of a `mean_table`.
        column: Which mean.
        digits: That are shown.
    """
    low, high = row[f"{column}_low"], row[f"{column}_high"]
    shown = f"{row[column]:.{digits}g}"
    return shown if np.isnan(low) else f"{shown} ({low:.{digits}g} … {high:.{digits}g})"
