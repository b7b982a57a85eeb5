"""The main job: compare regularisation schemes on influence accuracy and Hessian spectrum."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from bayes_influence.experiments.comparison.cell import measure
from bayes_influence.experiments.comparison.figures import comparison_figure, damping_figure
from bayes_influence.experiments.comparison.result import TABLES, Comparison, gathered
from bayes_influence.experiments.comparison.study import Study
from bayes_influence.experiments.store.drawings import Drawing
from bayes_influence.experiments.store.figures import save_figure
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.store.runner import jobs_at_once, run_cells


def compare_regularisers(
    study: Study, out: str | Path, *, n_jobs: int | None = None, progress: bool = True
) -> Comparison:
    """Compares regularisation schemes on one network: influence estimates against retraining, and the spectrum.

    Writes `results.csv`, `differences.csv`, `damping.csv`, `summary.csv`, the tests between schemes (`friedman.csv`,
    `pairs.csv`; `trends.csv` where depth or width vary) with `findings.txt` that puts them in words, the figures
    `figure` and, where the curvature is small, `damping` as `.png` and `.pdf`, and `config.json`. Cells are stored as
    they finish: the same call on the same folder continues where it was killed.

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
    folder = StudyFolder(out, {"study": "compare", **study.configuration()})
    result = run_study(study, folder, n_jobs=n_jobs, progress=progress)
    title = f"{study.data_name}, {study.title}, {study.parameters}, test example {result.test_example}"
    draw_comparison(result, folder, title)
    return result


def draw_comparison(result: Comparison, folder: StudyFolder, title: str) -> None:
    """Writes the figures of a comparison into its folder."""
    save_figure(Drawing(comparison_figure, (result.summary, result.differences, title)), folder, "figure")
    if len(result.damping):
        save_figure(Drawing(damping_figure, (result.damping, title)), folder, "damping")


def run_study(
    study: Study,
    folder: StudyFolder,
    cells: Mapping[str, Study] | None = None,
    *,
    n_jobs: int | None = None,
    progress: bool = True,
) -> Comparison:
    """Measures every cell of a study in its folder and gathers the tables; finished cells are kept.

    Args:
        study: The settings that all cells share.
        folder: The study's own.
        cells: Studies of one cell each, by key; the study's own when not given.
        n_jobs: Cells at once; as many as there are cores, when not given.
        progress: Whether to show progress bars.

    Raises:
        FailedCellsError: If a cell failed, after all others were stored.
    """
    study = study.resolved(folder, progress=progress)
    cells = study.cells() if cells is None else cells
    jobs = jobs_at_once(len(cells), n_jobs)
    # Bars of cells that run beside one another would overwrite each other.
    run_cells(cells, partial(measure, progress=progress and jobs == 1), folder, n_jobs=jobs, progress=progress)
    tables = {name: folder.table(name, list(cells)) for name in TABLES}
    return gathered(tables, study.schemes, study.tested_id, folder)
