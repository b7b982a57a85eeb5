"""What agrees with the paper and what does not, in sentences made of the tables: number and interval in each."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.stats

from bayes_influence.experiments.comparison.summary import series_name
from bayes_influence.experiments.papers.fragility.tables import published_iris
from bayes_influence.experiments.papers.means import with_interval

PUBLISHED_COLUMNS = {"spearman": "signed", "absolute_spearman": "absolute", "power_iteration": "eigenvalue"}
"""What the columns of a summary are called in the table of published numbers."""

NAMES = {
    "spearman": "signed Spearman",
    "absolute_spearman": "|Spearman|",
    "power_iteration": "largest eigenvalue of the loss",
}

ALPHA = 0.05
"""p-value below which groups are said to differ, as the paper has it."""


def corrected_findings(summary: pd.DataFrame, column: str, anova: pd.DataFrame) -> list[str]:
    """Per scheme the least and the largest mean over sizes, and what the analysis of variance says beside the paper's.

    Args:
        summary: One row per size, scheme and estimator.
        column: Of the summary.
        anova: Tests between schemes at each size, and between sizes within each scheme.
    """
    sentences = [_range(summary, name, column) for name in _series_of(summary)]
    return [*sentences, *anova_findings(anova, column)]


def published_findings(summary: pd.DataFrame, column: str, anova: pd.DataFrame) -> list[str]:
    """Per scheme how many sizes agree with the authors' stored outputs, and where they do not.

    Agreement: the 95 % interval (Welch) of the difference of the two means covers zero.

    Args:
        summary: One row per size and scheme.
        column: Of the summary.
        anova: Tests between schemes at each size, and between sizes within each scheme.
    """
    compared = against_published(summary, column)
    sentences = [] if len(compared) else ["Nothing to hold against the published: it has none of these sizes."]
    for scheme, rows in compared.groupby("scheme", sort=False):
        apart = rows[~rows["agrees"]]
        text = (
            f"{scheme}: {NAMES[column]} agrees with the published at {int(rows['agrees'].sum())} of {len(rows)} sizes; "
            f"means over sizes {rows['ours'].mean():.3g} here and {rows['published'].mean():.3g} there"
        )
        listed = [
            f"depth {row.depth}, width {row.width}: {row.ours:.3g} against {row.published:.3g}"
            for row in apart.itertuples()
        ]
        sentences.append(f"{text}. Apart: {'; '.join(listed)}." if listed else f"{text}.")
    return [*sentences, *anova_findings(anova, column)]


def against_published(summary: pd.DataFrame, column: str) -> pd.DataFrame:
    """Our means beside the published ones, and whether the interval of their difference covers zero.

    Args:
        summary: With means, intervals and `repeats` per depth, width and scheme.
        column: A key of `PUBLISHED_COLUMNS`.

    Returns:
        One row per size and scheme that both have: `ours`, `published`, `difference`, `low`, `high`, `agrees`.
    """
    theirs = PUBLISHED_COLUMNS[column]
    merged = summary.merge(published_iris(), on=["depth", "width", "scheme"])
    rows = []
    for _, row in merged.iterrows():
        own_error = _standard_error(row, column)
        other_error = row[f"{theirs}_sd"] / row["seeds"] ** 0.5
        error = float(np.hypot(own_error, other_error))
        freedom = _welch_freedom(own_error, row["repeats"], other_error, row["seeds"])
        half = scipy.stats.t.ppf(0.975, freedom) * error
        difference = row[column] - row[theirs]
        rows.append(
            {name: row[name] for name in ("depth", "width", "scheme")}
            | {"ours": row[column], "published": row[theirs], "difference": difference}
            | {"low": difference - half, "high": difference + half, "agrees": bool(abs(difference) <= half)}
        )
    return pd.DataFrame(
        rows, columns=["depth", "width", "scheme", "ours", "published", "difference", "low", "high", "agrees"]
    )


def anova_findings(anova: pd.DataFrame, column: str) -> list[str]:
    """Which analyses of variance find a difference, beside what the paper says of its own."""
    if anova.empty:
        return ["No analysis of variance: one size of one scheme leaves nothing to compare."]
    sentences = []
    for between, rows in anova.groupby("between", sort=False):
        found = rows[rows["p_value"] < ALPHA]
        smallest = rows["p_value"].min()
        sentences.append(
            f"One-way ANOVA of the {NAMES[column]} between {between}: p < {ALPHA} in {len(found)} of {len(rows)} tests "
            f"(smallest p {smallest:.1e}); {_paper_says(column, str(between))}."
        )
    return sentences


def _paper_says(column: str, between: str) -> str:
    if column != "power_iteration":
        return "the paper finds no significant difference"
    return "its text has the eigenvalue grow with size, its caption finds no difference"


def _series_of(summary: pd.DataFrame) -> list[tuple[str, str]]:
    return list(summary[["scheme", "estimator"]].drop_duplicates().itertuples(index=False, name=None))


def _range(summary: pd.DataFrame, name: tuple[str, str], column: str) -> str:
    rows = summary[(summary["scheme"] == name[0]) & (summary["estimator"] == name[1])]
    ordered = rows.sort_values(column, kind="stable")
    ends = [ordered.iloc[0], ordered.iloc[-1]]
    low, high = (f"{with_interval(row, column)} at depth {row['depth']}, width {row['width']}" for row in ends)
    return f"{series_name(*name)}: mean {NAMES[column]} from {low}, to {high}, {int(rows['repeats'].min())} seeds."


def _standard_error(row: pd.Series, column: str) -> float:
    """Of our mean, out of its interval; NaN for a single seed."""
    return float((row[f"{column}_high"] - row[column]) / scipy.stats.t.ppf(0.975, max(row["repeats"] - 1, 1)))


def _welch_freedom(one: float, n: float, other: float, m: float) -> float:
    """Welch and Satterthwaite's degrees of freedom of a difference of two means."""
    below = one**4 / max(n - 1, 1) + other**4 / max(m - 1, 1)
    return float((one**2 + other**2) ** 2 / below) if below > 0 else float("inf")
