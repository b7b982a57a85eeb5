"""The Iris study of Epifano et al., figures 1 and 3: influence accuracy and curvature over depth and width."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from bayes_influence.experiments.comparison.figures import sizes_figure
from bayes_influence.experiments.comparison.regularisers import run_study
from bayes_influence.experiments.comparison.study import Study
from bayes_influence.experiments.comparison.summary import compare_groups
from bayes_influence.experiments.papers.study import PaperStudy, Reproduced
from bayes_influence.experiments.store.figures import save_figure
from bayes_influence.experiments.store.folder import StudyFolder

DEPTHS = tuple(range(1, 9))
"""Hidden layers of the depth series, at width 5."""

WIDTHS = (5, 8, 14, 20, 30, 40, 50)
"""Units of the width series, at depth 1."""

DEPTH_SERIES_WIDTH = 5

SIZES = tuple(dict.fromkeys([*((depth, DEPTH_SERIES_WIDTH) for depth in DEPTHS), *((1, width) for width in WIDTHS)]))
"""(depth, width) of every cell; both series share the smallest network."""


@dataclass(frozen=True)
class FigureSpec:
    """What one of the paper's figures shows.

    Attributes:
        column: Column of the summary.
        label: Of the vertical axis.
        logarithmic: Whether that axis is logarithmic (zero and negative values keep their place).
        of_network: Whether it is a property of the trained network, the same for every estimator of a scheme.
    """

    column: str
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
    "fig1": FigureSpec("spearman", "Spearman correlation (signed)"),
    "fig3": FigureSpec("power_iteration", "largest Hessian eigenvalue of the loss", True, True),
}
"""The figures of the paper that can be reproduced."""


def reproduce_figure(
    name: str, study: Study, out: str | Path, n_jobs: int | None = None, progress: bool = True
) -> Reproduced:
    """Runs the depth and width series and draws one of the paper's figures, with the one-way ANOVA beside it.

    All figures share the cells: the second one drawn in a folder costs nothing. Writes `<name>.png`, `<name>.pdf`,
    `<name>-anova.csv` and the tables of a comparison.

    Args:
        name: A key of `FIGURES`.
        study: Settings that all cells share; its depth and width are not used.
        out: The result folder.
        n_jobs: Cells at once; as many as there are cores, when not given.
        progress: Whether to show progress bars.

    Returns:
        With the analysis of variance as its table.

    Raises:
        ValueError: If the folder belongs to another study, or as `compare_regularisers` does.
    """
    spec = FIGURES[name]
    settings = {key: value for key, value in study.to_config().items() if key not in ("depth", "width")}
    folder = StudyFolder(out, {"study": "fragility", **settings, "sizes": SIZES})
    result = run_study(study, folder, SIZES, n_jobs=n_jobs, progress=progress)
    anova = compare_groups(spec.series(result.results), spec.column)
    folder.write_table(f"{name}-anova", anova)
    drawn = sizes_figure(spec.series(result.summary), spec.column, spec.label, logarithmic=spec.logarithmic)
    save_figure(drawn, folder, name)
    shown = anova[["between", "at", "statistic", "p_value"]]
    return Reproduced(folder.path, shown, (folder.path / f"{name}.png", folder.path / f"{name}.pdf"))


STUDIES = tuple(
    PaperStudy(
        name,
        f"{name} of Epifano et al., Iris over depth 1 to 8 and width 5 to 50: {spec.label}",
        partial(reproduce_figure, name),
        Study(),
        fixed=("dataset", "depth", "width", "parameters"),
        folder="runs/fragility-iris",
    )
    for name, spec in FIGURES.items()
)
