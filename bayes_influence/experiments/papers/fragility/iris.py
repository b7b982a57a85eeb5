"""Figures 1 and 3 of Epifano et al.: influence accuracy and curvature over depth and width, in both modes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd

from bayes_influence.experiments.comparison.figures import sizes_figure
from bayes_influence.experiments.comparison.regularisers import run_study
from bayes_influence.experiments.comparison.significance import scheme_tests
from bayes_influence.experiments.comparison.study import Study
from bayes_influence.experiments.comparison.summary import compare_groups
from bayes_influence.experiments.papers.fragility.choices import AS_PUBLISHED
from bayes_influence.experiments.papers.fragility.findings import corrected_findings, published_findings
from bayes_influence.experiments.papers.fragility.protocol import Pipeline
from bayes_influence.experiments.papers.fragility.settings import FragilityStudy
from bayes_influence.experiments.papers.fragility.tables import SIZE_KEYS
from bayes_influence.experiments.papers.means import mean_table
from bayes_influence.experiments.papers.study import PaperStudy, Reproduced, publish
from bayes_influence.experiments.store.cells import CellResult, cell_key
from bayes_influence.experiments.store.drawings import Drawing
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.store.runner import run_cells

STATISTICS = ("spearman", "absolute_spearman", "pearson", "slope", "relative_drift", "power_iteration")
"""Columns of the published mode's results that get an interval."""


TOGETHER = (("none", "swa"), ("weight-decay", "weight-decay+swa"))
"""Schemes of one cell in the corrected mode: those of one objective, with and without averaging. Every other scheme has
a cell of its own; so schemes can be added to a folder."""


@dataclass(frozen=True)
class FigureSpec:
    """What one of the paper's figures shows.

    Attributes:
        column: Column of the summary in the corrected mode.
        published: Column in the published mode.
        label: Of the vertical axis.
        logarithmic: Whether that axis is logarithmic (zero and negative values keep their place).
        of_network: Whether it is a property of the trained network, the same for every estimator of a scheme.
    """

    column: str
    published: str
    label: str
    logarithmic: bool = False
    of_network: bool = False

    def series(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows that are drawn and compared: one series per scheme and estimator, or per scheme."""
        if not self.of_network:
            return table
        keys = [name for name in ("depth", "width", "scheme", "seed") if name in table]
        return table.drop_duplicates(keys).assign(estimator="influence")


FIGURES = {
    "fig1": FigureSpec("spearman", "absolute_spearman", "Spearman correlation (signed)"),
    "fig3": FigureSpec("power_iteration", "power_iteration", "largest Hessian eigenvalue of the loss", True, True),
}
"""The figures of the paper over sizes."""


@dataclass(frozen=True, eq=False)
class Grid:
    """What the cells of a mode came to.

    Attributes:
        results: One row per size, scheme, estimator and seed.
        summary: Means with intervals.
    """

    results: pd.DataFrame
    summary: pd.DataFrame


def reproduce_figure(
    name: str, study: FragilityStudy, out: str | Path, n_jobs: int | None = None, progress: bool = True
) -> Reproduced:
    """Runs the depth and width series and draws one of the paper's figures, with tests and a summary beside it.

    Both figures share the cells: the second one drawn in a folder costs nothing. Writes `<name>.png`, `<name>.pdf`,
    `<name>-anova.csv`, `<name>-summary.txt`, the tests between schemes paired over seeds, and the tables.

    Args:
        name: A key of `FIGURES`.
        study: Mode and settings.
        out: The result folder.
        n_jobs: Cells at once; as many as there are cores, when not given.
        progress: Whether to show progress bars.

    Returns:
        With the analysis of variance as its table.

    Raises:
        ValueError: If the folder belongs to another study or mode.
        FailedCellsError: If a cell failed, after all others were stored.
    """
    spec = FIGURES[name]
    corrected = study.mode == "corrected"
    folder = StudyFolder(out, study.configuration())
    grid = (_corrected if corrected else _published)(study, folder, n_jobs, progress)
    column = spec.column if corrected else spec.published
    label = spec.label if corrected or column == spec.column else "|Spearman correlation|, as published"
    anova = compare_groups(spec.series(grid.results), column)
    folder.write_table(f"{name}-anova", anova)
    for table, tests in zip(("friedman", "pairs"), scheme_tests(spec.series(grid.results), [column]), strict=True):
        if len(tests.columns):
            folder.write_table(f"{name}-{table}", tests)
    drawing = Drawing(sizes_figure, (spec.series(grid.summary), column, label, spec.logarithmic))
    shown = anova[["between", "at", "statistic", "p_value"]]
    if corrected:
        sentences = corrected_findings(spec.series(grid.summary), column, anova)
    else:
        sentences = published_findings(spec.series(grid.results), column, anova)
    return publish(folder, name, drawing, sentences, shown)


def _corrected(study: FragilityStudy, folder: StudyFolder, n_jobs: int | None, progress: bool) -> Grid:
    """The comparison of schemes, at every size."""
    networks = study.networks().resolved(folder, progress=progress)
    result = run_study(networks, folder, corrected_cells(networks, study.sizes), n_jobs=n_jobs, progress=progress)
    return Grid(result.results, result.summary)


def _published(study: FragilityStudy, folder: StudyFolder, n_jobs: int | None, progress: bool) -> Grid:
    """The published code's choices, at every size."""
    networks = study.networks().resolved(folder, progress=progress)
    cells = published_cells(networks, study.sizes)
    run_cells(cells, measure_as_published, folder, n_jobs=n_jobs, progress=progress)
    results = folder.table("results", list(cells))
    order = results["scheme"].map({scheme: rank for rank, scheme in enumerate(study.schemes)})
    results = results.iloc[order.argsort(kind="stable")].sort_values(["depth", "width"], kind="stable")
    summary = mean_table(results, SIZE_KEYS, STATISTICS)
    folder.write_table("results", results)
    folder.write_table("summary", summary)
    return Grid(results, summary)


def corrected_cells(study: Study, sizes: tuple[tuple[int, int], ...]) -> dict[str, Study]:
    """One cell per network and group of schemes, see `TOGETHER`.

    Args:
        study: Settings that all share.
        sizes: (depth, width) of the networks.
    """
    pairs = {scheme: pair for pair in TOGETHER for scheme in pair}
    groups = dict.fromkeys(
        tuple(name for name in pairs.get(scheme, (scheme,)) if name in study.schemes) for scheme in study.schemes
    )
    return {key: cell for group in groups for key, cell in replace(study, schemes=group).cells(sizes).items()}


def published_cells(study: Study, sizes: tuple[tuple[int, int], ...]) -> dict[str, Study]:
    """One cell per network and scheme.

    Args:
        study: Settings that all share.
        sizes: (depth, width) of the networks.
    """
    return {
        cell_key(mode="as-published", depth=depth, width=width, scheme=scheme): replace(
            study, depth=depth, width=width, schemes=(scheme,)
        )
        for depth, width in sizes
        for scheme in study.schemes
    }


def measure_as_published(study: Study) -> CellResult:
    """Every number of one network by the published code's choices.

    Args:
        study: One cell, its test example resolved.

    Returns:
        Tables `results` (a row per scheme and seed) and `differences` (a row per removed example as well).
    """
    measured = Pipeline(study, study.removals).measure(replace(AS_PUBLISHED, points=study.removals))
    tables = {"results": measured.results, "differences": measured.differences}
    for frame in tables.values():
        frame.insert(0, "depth", study.sizes[0])
        frame.insert(1, "width", study.sizes[1])
    return CellResult(tables=tables)


STUDIES = tuple(
    PaperStudy(
        name,
        f"{name} of Epifano et al., Iris over depth 1 to 8 and width 5 to 50: {spec.label}",
        partial(reproduce_figure, name),
        FragilityStudy(),
        folder="runs/fragility-iris",
    )
    for name, spec in FIGURES.items()
)
