"""Figure 2 of Epifano et al.: last-layer influence of all training images against refits, over networks."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bayes_influence.experiments.papers.fragility.choices import choices_of
from bayes_influence.experiments.papers.fragility.head_pipeline import HeadPipeline
from bayes_influence.experiments.papers.fragility.heads import TESTS
from bayes_influence.experiments.papers.fragility.image_settings import NETWORKS, ImageCell, ImageStudy
from bayes_influence.experiments.papers.means import mean_table, with_interval
from bayes_influence.experiments.papers.study import PaperStudy, Reproduced, publish
from bayes_influence.experiments.store.cells import CellResult
from bayes_influence.experiments.store.drawings import Drawing
from bayes_influence.experiments.store.figures import figure_style
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.store.runner import run_cells


def measure_images(cell: ImageCell, out: Path, data_folder: str | None, device: str = "cpu") -> CellResult:
    """Trains one network, continued where it was stopped, and holds its last layer's influence against refits.

    Args:
        cell: Which network, and how.
        out: The study's folder; the training goes into a folder of its own in it.
        data_folder: Where image sets are kept.
        device: Where it is trained.

    Returns:
        Tables `results` (a row per test example) and `differences` (a row per removed image as well).
    """
    pipeline = HeadPipeline.of(cell, out, data_folder, device)
    rows, differences = [], []
    for which in TESTS:
        row, frame = pipeline.measure(choices_of(cell.mode), which)
        keys = {"network": cell.network.label, "seed": cell.seed, "test": which}
        rows.append(keys | row | {"train_accuracy": pipeline.train_accuracy})
        differences.append(frame.assign(network=cell.network.label, seed=cell.seed, test=which))
    tables = {"results": pd.DataFrame(rows), "differences": pd.concat(differences, ignore_index=True)}
    return CellResult(tables=tables)


STATISTICS = ("spearman", "absolute_spearman", "pearson", "slope", "top_k_overlap", "relative_drift", "train_accuracy")


def reproduce_images(
    study: ImageStudy, out: str | Path, n_jobs: int | None = None, progress: bool = True
) -> Reproduced:
    """Runs the networks and draws figure 2; finished networks and finished epochs of training are kept.

    Args:
        study: Mode, networks and settings.
        out: The result folder; networks and seeds can be added to it.
        n_jobs: Cells at once; when not given, as many as there are cores, or one on an accelerator.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If the folder belongs to another study or mode.
        FailedCellsError: If a cell failed, a missing data set included, after all others were stored.
    """
    folder = StudyFolder(out, study.configuration())
    cells = study.cells()
    compute = partial(measure_images, out=folder.path, data_folder=study.data_folder, device=study.device)
    run_cells(cells, compute, folder, n_jobs=study.jobs(n_jobs), progress=progress)
    results = folder.table("results", list(cells))
    summary = mean_table(results, ["network", "test"], STATISTICS)
    folder.write_table("results", results)
    folder.write_table("fig2-summary", summary)
    shown = summary[["network", "test", "spearman", "absolute_spearman", "pearson", "slope"]]
    return publish(folder, "fig2", Drawing(networks_figure, (summary, study.mode)), image_findings(summary), shown)


def image_findings(summary: pd.DataFrame) -> list[str]:
    """Per network the signed Spearman at both test examples, beside the published one."""
    sentences = []
    for network, rows in summary.groupby("network", sort=False):
        by_test = {str(row["test"]): row for _, row in rows.iterrows()}
        parts = [f"{with_interval(row, 'spearman')} at the {test} loss" for test, row in by_test.items()]
        published = NETWORKS[str(network)].published
        there = f"; the authors' outputs have |Spearman| {published[0]}, signed {published[1]}" if published else ""
        seeds = int(rows["repeats"].min())
        sentences.append(f"{network}: signed Spearman {', '.join(parts)} ({seeds} seeds){there}.")
    return sentences


def networks_figure(summary: pd.DataFrame, mode: str) -> Figure:
    """Spearman by network, mean and 95 % interval, at both test examples; crosses are the published |Spearman|."""
    networks = list(dict.fromkeys(summary["network"]))
    column = "spearman" if mode == "corrected" else "absolute_spearman"
    with figure_style(10):
        figure = Figure(figsize=(2.5 + 1.1 * len(networks), 4), layout="constrained")
        axes = figure.subplots()
        for shift, (test, marker) in zip((-0.12, 0.12), zip(TESTS, "os", strict=True), strict=True):
            rows = summary[summary["test"] == test].set_index("network").loc[networks]
            centre = rows[column].to_numpy()
            reach = np.abs(np.vstack([centre - rows[f"{column}_low"], rows[f"{column}_high"] - centre]))
            positions = np.arange(len(networks)) + shift
            axes.errorbar(positions, centre, np.nan_to_num(reach), fmt=marker, capsize=3, label=f"{test} test loss")
        known = [(index, NETWORKS[name].published) for index, name in enumerate(networks)]
        places = [(index, published[0]) for index, published in known if published]
        if places:
            axes.plot(*zip(*places, strict=True), "x", color="black", label="published |Spearman|")
        axes.axhline(0, color="lightgray", linewidth=0.8, zorder=0)
        axes.set_ylim(-1.05, 1.1)
        axes.set_ylabel("Spearman correlation (signed)" if mode == "corrected" else "|Spearman correlation|")
        axes.set_xticks(range(len(networks)), networks, rotation=20, ha="right")
        axes.legend(frameon=False)
        return figure


STUDIES = (
    PaperStudy(
        "fig2",
        "fig2 of Epifano et al., MNIST and CIFAR-10: last-layer influence of all training images over networks",
        reproduce_images,
        ImageStudy(),
        folder="runs/fragility-images",
    ),
)
