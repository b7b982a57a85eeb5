"""The main job: compare regularisation schemes on influence accuracy and Hessian spectrum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from os import cpu_count
from pathlib import Path
from typing import Any

import pandas as pd

from bayes_influence.experiments.comparison.cell import measure
from bayes_influence.experiments.comparison.figures import comparison_figure, damping_figure, save_figure
from bayes_influence.experiments.comparison.significance import in_words, scheme_tests, size_trends
from bayes_influence.experiments.comparison.study import REFERENCE_SCHEDULE, Study
from bayes_influence.experiments.comparison.summary import summarise_results
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.store.runner import run_cells
from bayes_influence.retraining.held_out import hardest_example
from bayes_influence.training.schemes import SCHEMES

TEST_EXAMPLE = "test-example"
"""Cell under which the resolved test example is stored."""


@dataclass(frozen=True, eq=False)
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


def resolve_test_example(study: Study, folder: StudyFolder, *, progress: bool = True) -> int:
    """The study's test example: as given, as stored, or by leave-one-out training, which is then stored."""
    if study.test_example is not None:
        return study.test_example
    if not folder.cell_done(TEST_EXAMPLE):
        example = hardest_example(
            study.raw_data(),
            study.reference_network,
            SCHEMES["weight-decay"],
            REFERENCE_SCHEDULE,
            progress=progress,
        )
        folder.save_cell(TEST_EXAMPLE, {"test_example": pd.DataFrame({"id": [example]})})
    return int(folder.load_cell(TEST_EXAMPLE).tables["test_example"]["id"].iloc[0])


def run_study(
    study: Study,
    cells: Mapping[str, Study],
    out: str | Path,
    config: Mapping[str, Any],
    *,
    n_jobs: int | None = None,
    progress: bool = True,
) -> tuple[StudyFolder, StudyResult]:
    """Measures every cell of a study in a folder of its own and gathers the tables; finished cells are kept.

    Args:
        study: The settings that all cells share.
        cells: The cells by key, with the test example not resolved.
        out: The folder.
        config: What identifies the study; a folder of another configuration is refused.
        n_jobs: Cells at once; as many as there are cores, when not given.
        progress: Whether to show progress bars.
    """
    folder = StudyFolder(out, config)
    example = resolve_test_example(study, folder, progress=progress)
    resolved = {key: replace(cell, test_example=example) for key, cell in cells.items()}
    jobs = n_jobs or min(cpu_count() or 1, len(cells))
    # Bars of cells that run beside one another would overwrite each other.
    run_cells(resolved, partial(measure, progress=progress and jobs == 1), folder, n_jobs=jobs, progress=progress)
    tables = {name: _ordered(study, folder.table(name, list(cells))) for name in ("results", "differences", "damping")}
    summary = summarise_results(tables["results"])
    omnibus, pairs = scheme_tests(tables["results"])
    trends = size_trends(tables["results"])
    tests = {"friedman": omnibus, "pairs": pairs, "trends": trends}
    for name, frame in {**tables, "summary": summary, **tests}.items():
        if len(frame.columns):
            folder.write_table(name, frame)
    findings = tuple(in_words(omnibus, pairs, trends))
    folder.write_file("findings.txt", "\n".join([*findings, ""]).encode())
    return folder, StudyResult(folder.path, summary, **tables, findings=findings, test_example=example)


def _ordered(study: Study, frame: pd.DataFrame) -> pd.DataFrame:
    """Rows in the order in which the study names its schemes."""
    order = frame["scheme"].map({name: rank for rank, name in enumerate(study.schemes)})
    return frame.iloc[order.argsort(kind="stable")].sort_values(["depth", "width"], kind="stable", ignore_index=True)


def compare_regularisers(
    study: Study, out: str | Path, *, n_jobs: int | None = None, progress: bool = True
) -> StudyResult:
    """Compares regularisation schemes on one network: influence estimates against retraining, and the spectrum.

    Writes `results.csv`, `differences.csv`, `damping.csv`, `summary.csv`, the tests between schemes (`friedman.csv`,
    `pairs.csv`; `trends.csv` where depth or width vary) with `findings.txt` that puts them in words, the figures
    `figure` and `damping` as `.png` and `.pdf`, and `config.json`. Cells are stored as they finish: the same call on
    the same folder continues where it was killed.

    Args:
        study: What to compare.
        out: The result folder; created, or continued if it holds the same study.
        n_jobs: Cells at once; as many as there are cores, when not given.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If the folder belongs to another study.
        OSError: If it cannot be written.
        FailedCellsError: If a cell failed (after all others were stored), naming scheme, seed and step where a
            training became non-finite.
    """
    config = {"study": "compare", **study.to_config()}
    folder, result = run_study(study, study.cells(), out, config, n_jobs=n_jobs, progress=progress)
    network = f"{study.depth} x {study.width} {study.activation}"
    title = f"{study.dataset}, {network}, {study.parameters}, test example {result.test_example}"
    save_figure(comparison_figure(result.summary, result.differences, title), folder, "figure")
    save_figure(damping_figure(result.damping, title), folder, "damping")
    return result
