"""Means over seeds with their intervals, as every paper's study tabulates and says them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from bayes_influence.evaluation.agreement import statistic_interval


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
