"""Which choice carries the published result on images: each put right on one trained network, alone and together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from bayes_influence.experiments.papers.fragility.ablation_report import LABEL, report, ways
from bayes_influence.experiments.papers.fragility.head_pipeline import HeadPipeline
from bayes_influence.experiments.papers.fragility.heads import TESTS
from bayes_influence.experiments.papers.fragility.image_settings import ImageCell, ImageScale, ImageStudy
from bayes_influence.experiments.papers.study import PaperStudy, Reproduced
from bayes_influence.experiments.store.cells import CellResult
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.store.runner import run_cells

SCALES = {
    "quick": ImageScale(("digits FC-8",), 2, 20, 20, 500),
    "medium": ImageScale(("MNIST FC-8", "MNIST LeNet"), 3, 30, 100, 10_000),
    "full": ImageScale(("MNIST FC-8", "MNIST FC-128", "MNIST LeNet"), 10, 30, 2000),
}
"""By name, as of figure 2; every network is refitted for some twenty ways to put choices right."""


@dataclass(frozen=True)
class ImageAblationStudy(ImageStudy):
    """The ablation on images: as figure 2, in scales of its own."""

    @property
    def size(self) -> ImageScale:
        """The scale that was asked for."""
        return SCALES[self.scale]

    def configuration(self) -> dict[str, Any]:
        """What a result folder belongs to; networks and seeds may be added to it."""
        own = {name: value for name, value in super().configuration().items() if name != "mode"}
        return own | {"study": "fragility ablation, images"}


def measure_image_choices(cell: ImageCell, out: Path, data_folder: str | None, device: str = "cpu") -> CellResult:
    """Every choice put right, on one network that is trained once.

    Args:
        cell: Which network, and how it is trained; its mode is of no consequence.
        out: The study's folder; the training goes into a folder of its own in it.
        data_folder: Where image sets are kept.
        device: Where it is trained.

    Returns:
        Table `results`, a row per test example, way and choice.
    """
    pipeline = HeadPipeline.of(cell, out, data_folder, device)
    keys = {"network": cell.network.label, "seed": cell.seed, "train_accuracy": pipeline.train_accuracy}
    rows = [
        keys | {"test": which, "way": way, "choice": choice} | pipeline.measure(choices, which)[0]
        for which in TESTS
        for way, choice, choices in ways(pipeline.order)
    ]
    return CellResult(tables={"results": pd.DataFrame(rows)})


def reproduce_image_ablation(
    study: ImageAblationStudy, out: str | Path, n_jobs: int | None = None, progress: bool = True
) -> Reproduced:
    """Runs the ablation on images and writes its report; finished networks and finished epochs of training are kept.

    Args:
        study: Networks and settings; its mode is of no consequence, since it goes from one to the other.
        out: The result folder; networks and seeds can be added to it.
        n_jobs: Cells at once; when not given, as many as there are cores, or one on an accelerator.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If the folder belongs to another study.
        FailedCellsError: If a cell failed, a missing data set included, after all others were stored.
    """
    folder = StudyFolder(out, study.configuration())
    cells = study.cells()
    compute = partial(measure_image_choices, out=folder.path, data_folder=study.data_folder, device=study.device)
    run_cells(cells, compute, folder, n_jobs=study.jobs(n_jobs), progress=progress)
    return report(folder, "ablation-images", named(folder.table("results", list(cells))), [LABEL, "test"])


def named(results: pd.DataFrame) -> pd.DataFrame:
    """The table with network and test example in words."""
    columns = zip(results["network"], results["test"], strict=True)
    said = {"max": "largest", "median": "median"}
    return results.assign(**{LABEL: [f"{network}, test image of {said[test]} loss" for network, test in columns]})


STUDIES = (
    PaperStudy(
        "ablation-images",
        "Which choice of the published code carries figure 2 of Epifano et al.: each put right, alone and together",
        reproduce_image_ablation,
        ImageAblationStudy(),
        fixed=("mode",),
        folder="runs/fragility-ablation-images",
    ),
)
