"""Where fragility is real: agreement with refits against their length, in the last layer and in all layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from bayes_influence.curvature.errors import IndefiniteCurvatureError
from bayes_influence.data.dataset import Split
from bayes_influence.evaluation.agreement import agreement
from bayes_influence.experiments.comparison.figures import COLOURS
from bayes_influence.experiments.comparison.study import Study
from bayes_influence.experiments.papers.fragility.settings import FragilityStudy
from bayes_influence.experiments.papers.means import mean_table, with_interval
from bayes_influence.experiments.papers.study import PaperStudy, Reproduced, publish
from bayes_influence.experiments.store.cells import CellResult, cell_key
from bayes_influence.experiments.store.drawings import Drawing
from bayes_influence.experiments.store.figures import figure_style
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.store.runner import run_cells
from bayes_influence.influence.influence import Influence
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.reweighting import largest_losses
from bayes_influence.retraining.warm import Warm
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.schemes import find_schemes

REFIT_RATE = 1e-3
"""Learning rate of the refits, constant: a plateau rule would end them where it sees one."""

ACTIVATIONS = ("selu", "tanh")

PARAMETERS = ("last-layer", "all")
"""Where influence is taken, and what refits move."""

POINTS_PER_DECADE = 4
"""Lengths at which refits are compared, from 1 step on."""

KEYS = ("parameters", "activation", "scheme", "step")

STATISTICS = ("spearman", "pearson", "slope")


@dataclass(frozen=True)
class LengthStudy(FragilityStudy):
    """The network of depth 1 and width 5 on Iris, its refits by Adam at a constant rate watched at every step.

    Attributes:
        schemes: Keys of `SCHEMES`.
    """

    schemes: tuple[str, ...] = ("none", "weight-decay", "weight-decay+swa", "bnn")

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(depth, width) of the one network."""
        return ((1, 5),)

    def configuration(self, study: str = "fragility, refit length") -> dict[str, Any]:
        """What a result folder belongs to; a cell has all schemes."""
        return super().configuration(study) | {"schemes": self.schemes}


def steps_compared(epochs: int) -> list[int]:
    """Numbers of refit steps, evenly spaced on a logarithmic scale, the last one included.

    A refit's loss is recorded before every step, so the longest one compared has one step less than it runs.
    """
    last = max(epochs - 1, 1)
    count = max(2, int(POINTS_PER_DECADE * np.log10(last)) + 1)
    return sorted({int(step) for step in np.geomspace(1, last, count).round()})


def measure_length(study: Study) -> CellResult:
    """Agreement at every length, for one activation and one choice of parameters.

    Args:
        study: One cell, its test example resolved.

    Returns:
        Table `results`: a row per scheme, seed and number of steps.
    """
    split = study.split()
    fits = fit_schemes(
        find_schemes(study.schemes),
        study.make_network,
        split.train,
        study.seeds,
        study.full_schedule,
        parameters=study.parameters,
    )
    rows = []
    for fit in fits:
        members = range(len(fit))
        removed = torch.stack([largest_losses(fit.at(row), split.train, study.removals) for row in members])
        schedule = study.refits
        watched = Warm(schedule, watch=split.test).refit(fit, split.train, removed).watched
        assert watched is not None
        for row, seed in enumerate(fit.seeds):
            estimated = removal_effects(fit.at(row), split)[split.train.positions(removed[row])].numpy()
            for step in steps_compared(study.refits.epochs):
                losses = watched[row, :, step, 0]
                compared = agreement(estimated, (losses[1:] - losses[0]).numpy())
                keys = {"scheme": fit.scheme.name, "seed": seed, "step": step}
                rows.append(keys | {name: getattr(compared, name) for name in STATISTICS})
    results = pd.DataFrame(rows).assign(parameters=study.parameters, activation=study.said_shape()["activation"])
    return CellResult(tables={"results": results})


def removal_effects(objective: Objective, split: Split) -> Float[Tensor, " n"]:
    """Estimated effects of every training example on the test loss; damped where the curvature needs it."""
    try:
        scores = Influence(objective, split.train, damping=0.0).on_loss(split.test)
    except IndefiniteCurvatureError:
        scores = Influence(objective, split.train, damping="auto").on_loss(split.test)
    return scores.removal[0]


def reproduce_length(
    study: LengthStudy, out: str | Path, n_jobs: int | None = None, progress: bool = True
) -> Reproduced:
    """Runs both activations and both choices of parameters and draws agreement against the length of the refits.

    Args:
        study: Settings, in the corrected mode.
        out: The result folder.
        n_jobs: Cells at once; as many as there are cores, when not given.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If the folder belongs to another study.
        FailedCellsError: If a cell failed, after all others were stored.
    """
    folder = StudyFolder(out, study.configuration())
    shared = replace(study.networks().resolved(folder, progress=progress), depth=1, width=5)
    cells = {
        cell_key(parameters=parameters, activation=activation): replace(
            shared, parameters=parameters, activation=activation
        )
        for parameters in PARAMETERS
        for activation in ACTIVATIONS
    }
    run_cells(cells, measure_length, folder, n_jobs=n_jobs, progress=progress)
    results = folder.table("results", list(cells))
    summary = mean_table(results, KEYS, STATISTICS)
    folder.write_table("results", results)
    folder.write_table("refit-length", summary)
    last = summary[summary["step"] == summary["step"].max()]
    shown = last[[*KEYS, *STATISTICS]]
    return publish(folder, "refit-length", Drawing(length_figure, (summary,)), length_findings(summary), shown)


def length_findings(summary: pd.DataFrame) -> list[str]:
    """Per setting the length at which agreement is best, and where it is in the end."""
    sentences = []
    for (parameters, activation, scheme), rows in summary.groupby(list(KEYS[:3]), sort=False):
        ordered = rows.sort_values("spearman", kind="stable")
        best, last = ordered.iloc[-1], rows.sort_values("step").iloc[-1]
        where = "all layers" if parameters == "all" else "the last layer"
        sentences.append(
            f"{scheme}, {activation}, {where}: signed Spearman best after {best['step']} refit steps, "
            f"{with_interval(best, 'spearman')}; after {last['step']} {with_interval(last, 'spearman')}, slope of true "
            f"on estimated {with_interval(last, 'slope')} ({int(last['repeats'])} seeds)."
        )
    return sentences


def length_figure(summary: pd.DataFrame) -> Figure:
    """Signed Spearman against the number of refit steps, mean and 95 % interval: a panel per setting."""
    with figure_style(9):
        figure = Figure(figsize=(9, 6), layout="constrained")
        grid = figure.subplots(len(PARAMETERS), len(ACTIVATIONS), sharex=True, sharey=True)
        for line, parameters in zip(grid, PARAMETERS, strict=True):
            for axes, activation in zip(line, ACTIVATIONS, strict=True):
                chosen = (summary["parameters"] == parameters) & (summary["activation"] == activation)
                _draw_length(axes, summary[chosen])
                axes.set_title(f"{activation}, influence and refits in {parameters.replace('-', ' ')}", fontsize=9)
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
        for axes in grid[-1]:
            axes.set_xlabel("steps of retraining")
        figure.supylabel("Spearman correlation (signed)", fontsize=9)
        return figure


def _draw_length(axes: Axes, summary: pd.DataFrame) -> None:
    for scheme, rows in summary.groupby("scheme", sort=False):
        ordered, colour = rows.sort_values("step"), COLOURS.get(str(scheme), "tab:gray")
        axes.plot(ordered["step"], ordered["spearman"], color=colour, label=str(scheme))
        ends = ordered["spearman_low"], ordered["spearman_high"]
        axes.fill_between(ordered["step"], *ends, color=colour, alpha=0.12, linewidth=0)
    axes.axhline(0, color="lightgray", linewidth=0.8, zorder=0)
    axes.set_xscale("log")
    axes.set_ylim(-1.05, 1.05)


STUDIES = (
    PaperStudy(
        "refit-length",
        "Beyond Epifano et al.: agreement against the length of the refits, last layer and all layers, SELU and tanh",
        reproduce_length,
        LengthStudy(),
        fixed=("mode", "only"),
        folder="runs/fragility-refit-length",
    ),
)
