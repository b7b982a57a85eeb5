"""Which choice carries the published result on Iris: each put right, alone and one after the other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pandas as pd

from bayes_influence.experiments.comparison.study import Study
from bayes_influence.experiments.papers.fragility.ablation_report import LABEL, report, ways
from bayes_influence.experiments.papers.fragility.choices import CORRECTED
from bayes_influence.experiments.papers.fragility.protocol import MOST_POINTS, Pipeline
from bayes_influence.experiments.papers.fragility.settings import FragilityStudy
from bayes_influence.experiments.papers.study import PaperStudy, Reproduced
from bayes_influence.experiments.store.cells import CellResult, cell_key
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.store.runner import run_cells

NETWORKS = ((1, 5), (1, 50), (4, 5), (8, 5))
"""(depth, width) of the networks whose choices are put right."""

ORDER = (
    "last_layer_refits",
    "control",
    "fixed_mean",
    "biases",
    "regulariser_in_hessian",
    "double_precision",
    "exact_refits",
    "damped",
    "points",
)
"""Choices that concern every scheme, in the order in which they are put right one after the other."""

OF_SCHEMES = {
    "weight-decay+swa": ("swa_from_average",),
    "swa": ("swa_from_average",),
    "bnn": ("one_objective", "one_activation"),
}
"""Those that concern one kind of network, put right before the others."""


@dataclass(frozen=True)
class AblationStudy(FragilityStudy):
    """The ablation: its networks are `NETWORKS`, or the scale's where that is quick.

    Attributes:
        schemes: Some of the published ones, `DEFAULT_SCHEMES`.
    """

    schemes: tuple[str, ...] = ("weight-decay",)

    ONLY_DEFAULT_SCHEMES: ClassVar[bool] = True

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(depth, width) of the networks."""
        if self.only:
            return super().sizes
        return ((1, 5),) if self.scale == "quick" else NETWORKS


def order_of(scheme: str) -> tuple[str, ...]:
    """The choices that concern a scheme, in the order in which they are put right."""
    return (*OF_SCHEMES.get(scheme, ()), *ORDER)


def measure_choices(study: Study) -> CellResult:
    """Every choice put right, on one network and scheme.

    Args:
        study: One cell, its test example resolved.

    Returns:
        Table `results`, a row per way, choice and seed.
    """
    pipeline = Pipeline(study, min(study.removals, MOST_POINTS))
    frames = []
    for way, choice, choices in ways(order_of(study.schemes[0])):
        points = min(choices.points, study.removals)
        frames.append(pipeline.measure(replace(choices, points=points)).results.assign(way=way, choice=choice))
    results = pd.concat(frames, ignore_index=True)
    results.insert(0, "depth", study.sizes[0])
    results.insert(1, "width", study.sizes[1])
    return CellResult(tables={"results": results})


def reproduce_ablation(
    study: AblationStudy, out: str | Path, n_jobs: int | None = None, progress: bool = True
) -> Reproduced:
    """Runs the ablation on Iris and writes its report.

    Args:
        study: Settings; its mode is of no consequence, since it goes from one to the other.
        out: The result folder.
        n_jobs: Cells at once; as many as there are cores, when not given.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If the folder belongs to another study.
        FailedCellsError: If a cell failed, after all others were stored.
    """
    folder = StudyFolder(out, study.configuration("fragility ablation"))
    networks = study.networks().resolved(folder, progress=progress)
    cells = {
        cell_key(depth=depth, width=width, scheme=scheme): replace(
            networks, depth=depth, width=width, schemes=(scheme,), removals=networks.removals
        )
        for depth, width in study.sizes
        for scheme in study.schemes
    }
    run_cells(cells, measure_choices, folder, n_jobs=n_jobs, progress=progress)
    return report(folder, "ablation", named(folder.table("results", list(cells))), [LABEL, "depth", "width", "scheme"])


def named(results: pd.DataFrame) -> pd.DataFrame:
    """The table with its networks in words."""
    columns = zip(results["depth"], results["width"], results["scheme"], strict=True)
    return results.assign(**{LABEL: [f"Depth {depth}, width {width}, {scheme}" for depth, width, scheme in columns]})


STUDIES = (
    PaperStudy(
        "ablation",
        "Which choice of the published code carries the result of Epifano et al.: each put right, alone and together",
        reproduce_ablation,
        AblationStudy(removals=CORRECTED.points),
        fixed=("mode",),
        folder="runs/fragility-ablation",
    ),
)
