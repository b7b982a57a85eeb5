"""What a comparison found: its tables, and what the tests between schemes say in words."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

import pandas as pd

from bayes_influence.experiments.comparison.significance import in_words, scheme_tests, size_trends
from bayes_influence.experiments.comparison.study import Study
from bayes_influence.experiments.comparison.summary import shown_summary, summarise_results
from bayes_influence.experiments.store.folder import StudyFolder


@dataclass(frozen=True, eq=False, repr=False)
class StudyResult:
    """What a study found.

    Attributes:
        folder: Where everything is stored.
        summary: One row per network, scheme and estimator.
        results: One row per seed as well.
        differences: One row per removed example as well: estimated and true change of the test loss.
        damping: Agreement at each of a range of dampings.
        findings: What the tests between schemes, and over depth and width, say in words.
        test_example: Id of the test example.
    """

    folder: Path
    summary: pd.DataFrame
    results: pd.DataFrame
    differences: pd.DataFrame
    damping: pd.DataFrame
    findings: tuple[str, ...]
    test_example: int

    def __repr__(self) -> str:
        schemes = ", ".join(self.summary["scheme"].unique())
        sizes = len(self.summary[["depth", "width"]].drop_duplicates())
        return (
            f"StudyResult({schemes}; {sizes} network{'s' if sizes > 1 else ''}, test example {self.test_example}, "
            f"in {self.folder})"
        )

    def _repr_html_(self) -> str:
        """The summary as a notebook shows it, with the findings below."""
        sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in self.findings)
        return f"{shown_summary(self.summary).to_html(index=False)}<ul>{sentences}</ul>"


def gathered(study: Study, cells: list[str], folder: StudyFolder) -> StudyResult:
    """The tables of a study whose cells are all stored, written into its folder.

    Args:
        study: With its test example resolved.
        cells: Keys of the cells.
        folder: That holds them.
    """
    tables = {name: _ordered(study, folder.table(name, cells)) for name in ("results", "differences", "damping")}
    summary = summarise_results(tables["results"])
    omnibus, pairs = scheme_tests(tables["results"])
    trends = size_trends(tables["results"])
    tests = {"friedman": omnibus, "pairs": pairs, "trends": trends}
    for name, frame in {**tables, "summary": summary, **tests}.items():
        if len(frame.columns):
            folder.write_table(name, frame)
    findings = tuple(in_words(omnibus, pairs, trends))
    folder.write_file("findings.txt", "\n".join([*findings, ""]).encode())
    example = int(study.split().test.ids[0])
    return StudyResult(folder.path, summary, **tables, findings=findings, test_example=example)


def _ordered(study: Study, frame: pd.DataFrame) -> pd.DataFrame:
    """Rows in the order in which the study names its schemes."""
    order = frame["scheme"].map({name: rank for rank, name in enumerate(study.schemes)})
    return frame.iloc[order.argsort(kind="stable")].sort_values(["depth", "width"], kind="stable", ignore_index=True)
