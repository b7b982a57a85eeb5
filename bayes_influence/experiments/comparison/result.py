"""What a comparison found: its tables, and what the tests between schemes say in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from bayes_influence.experiments.comparison.figures import comparison_figure
from bayes_influence.experiments.comparison.significance import in_words, scheme_tests, size_trends
from bayes_influence.experiments.comparison.summary import how_in_words, shown_summary, summarise_results
from bayes_influence.experiments.store.folder import StudyFolder

TABLES = ("results", "differences", "damping")
"""What every cell stores."""


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """What a comparison of schemes found.

    Attributes:
        folder: Where everything is stored; None where nothing is.
        summary: One row per network, scheme and estimator.
        results: One row per seed as well.
        differences: One row per removed example as well: estimated and true change of the test loss.
        damping: Agreement at each of a range of dampings; without rows where the curvature is too large for that.
        tests: Of the schemes and sizes, by name: `friedman`, `pairs`, `trends`.
        findings: How networks were refitted and spectra computed, and what those tests say in words.
        test_example: Id of the test example.
    """

    folder: Path | None
    summary: pd.DataFrame
    results: pd.DataFrame
    differences: pd.DataFrame
    damping: pd.DataFrame
    tests: Mapping[str, pd.DataFrame]
    findings: tuple[str, ...]
    test_example: int

    def __repr__(self) -> str:
        schemes = ", ".join(self.summary["scheme"].unique())
        sizes = len(self.summary[["depth", "width"]].drop_duplicates())
        where = "" if self.folder is None else f", in {self.folder}"
        return (
            f"Comparison({schemes}; {sizes} network{'s' if sizes > 1 else ''}, test example {self.test_example}{where})"
        )

    def _repr_html_(self) -> str:
        """The summary as a notebook shows it, with the findings below."""
        sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in self.findings)
        return f"{shown_summary(self.summary).to_html(index=False)}<ul>{sentences}</ul>"

    def figure(self, title: str = "") -> Figure:
        """Agreement and spectrum by scheme, and one scatter of estimate against truth per scheme."""
        return comparison_figure(self.summary, self.differences, title)


def gathered(
    tables: Mapping[str, pd.DataFrame], schemes: Sequence[str], test_example: int, folder: StudyFolder | None = None
) -> Comparison:
    """A comparison out of the tables of its cells, written into its folder.

    Args:
        tables: Of all cells together, by the names in `TABLES`.
        schemes: Their order.
        test_example: Id of the test example.
        folder: Where everything goes; None to write nothing.
    """
    tables = {name: _ordered(tables[name], schemes) for name in TABLES}
    summary = summarise_results(tables["results"])
    omnibus, pairs = scheme_tests(tables["results"])
    trends = size_trends(tables["results"])
    tests = {"friedman": omnibus, "pairs": pairs, "trends": trends}
    findings = (*how_in_words(tables["results"]), *in_words(omnibus, pairs, trends))
    if folder is not None:
        for name, frame in {**tables, "summary": summary, **tests}.items():
            if len(frame.columns):
                folder.write_table(name, frame)
        folder.write_file("findings.txt", "\n".join([*findings, ""]).encode())
    where = None if folder is None else folder.path
    return Comparison(where, summary, **tables, tests=tests, findings=findings, test_example=test_example)


def _ordered(frame: pd.DataFrame, schemes: Sequence[str]) -> pd.DataFrame:
    """Rows in the order in which the schemes are named."""
    order = frame["scheme"].map({name: rank for rank, name in enumerate(schemes)})
    return frame.iloc[order.argsort(kind="stable")].sort_values(["depth", "width"], kind="stable", ignore_index=True)
