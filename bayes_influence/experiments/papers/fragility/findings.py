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


def published_findings(results: pd.DataFrame, column: str, anova: pd.DataFrame) -> list[str]:
    """Per scheme how many sizes agree with the authors' stored outputs, and where they do not.

    Agreement: Welch's test does not find the two means to differ. Of fewer than two values it cannot be told.

    Args:
        results: One row per size, scheme and seed.
        column: Of the results.
        anova: Tests between schemes at each size, and between sizes within each scheme.
    """
    compared = against_published(results, column)
    sentences = [] if len(compared) else ["Nothing to hold against the published: it has none of these sizes."]
    for scheme, rows in compared.groupby("scheme", sort=False):
        told = rows[rows["p_value"].notna()]
        apart = told[told["p_value"] < ALPHA]
        parts = []
        if len(told):
            count = f"{len(told) - len(apart)} of {len(told)} sizes"
            parts.append(f"{NAMES[column]} agrees with the published at {count}")
        if len(told) < len(rows):
            count = f"{len(rows) - len(told)} of {len(rows)} sizes"
            parts.append(f"whether {NAMES[column]} agrees with the published cannot be told at {count}: too few seeds")
        parts.append(f"means over sizes {rows['ours'].mean():.3g} here and {rows['published'].mean():.3g} there")
        text = f"{scheme}: {'; '.join(parts)}"
        listed = [
            f"depth {row.depth}, width {row.width}: {row.ours:.3g} against {row.published:.3g}"
            for row in apart.itertuples()
        ]
        sentences.append(f"{text}. Apart: {'; '.join(listed)}." if listed else f"{text}.")
    return [*sentences, *anova_findings(anova, column)]


def against_published(results: pd.DataFrame, column: str) -> pd.DataFrame:
    """Our means beside the published ones, and whether they differ.

    Args:
        results: One row per depth, width, scheme and seed; NaN is left out.
        column: A key of `PUBLISHED_COLUMNS`.

    Returns:
        One row per size and scheme that both have: `ours`, `published`, and the `p_value` of Welch's test; NaN where
        fewer than two values are ours.
    """
    keys, theirs = ["depth", "width", "scheme"], PUBLISHED_COLUMNS[column]
    own = results.groupby(keys, sort=False)[column].agg(["mean", "std", "count"]).reset_index()
    merged = own.merge(published_iris(), on=keys)
    told = merged[merged["count"] >= 2]
    test = scipy.stats.ttest_ind_from_stats(
        told["mean"].to_numpy(),
        told["std"].to_numpy(),
        told["count"].to_numpy(),
        told[theirs].to_numpy(),
        told[f"{theirs}_sd"].to_numpy(),
        told["seeds"].to_numpy(),
        equal_var=False,
    )
    compared = merged[[*keys, "mean", theirs]].set_axis([*keys, "ours", "published"], axis=1)
    return compared.assign(p_value=pd.Series(test.pvalue, told.index, dtype=np.float64))


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
