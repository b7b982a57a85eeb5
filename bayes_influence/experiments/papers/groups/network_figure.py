"""The figure of the study of groups on a network: estimates against stages, and Pearson's correlation with each."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bayes_influence.experiments.papers.groups.orders import EQUATION_17, ESTIMATORS, FIRST
from bayes_influence.experiments.papers.groups.settings import KINDS
from bayes_influence.experiments.store.figures import figure_style

DRAWN = ("cold", "minimum", "proximal", "PBRF")
"""Stages with a panel of their own."""

PALE = 0.6
"""Size of a correlation up to which its colour is a light one."""

COLOURS = {FIRST: "#0072B2", EQUATION_17: "#E69F00"}


def network_figure(effects: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Damped first and second order against four stages, and below Pearson by condition, stage and estimator.

    Args:
        effects: A row per group, estimator, damping and stage.
        summary: A row per condition, stage, kind, damping and estimator.
    """
    conditions = list(dict.fromkeys(effects["condition"]))
    with figure_style(8):
        figure = Figure(figsize=(11, 2.2 * len(conditions) + 0.28 * 6 * len(conditions)), layout="constrained")
        upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=[2.2, 1.6])[:, 0]
        grid = upper.subplots(len(conditions), len(DRAWN), squeeze=False)
        for condition, row in zip(conditions, grid, strict=True):
            for truth, axes in zip(DRAWN, row, strict=True):
                _draw_points(axes, effects[(effects["condition"] == condition) & (effects["truth"] == truth)])
                axes.set_title(f"{condition}: {truth}", fontsize=8)
        grid[0, 0].legend(frameon=False, fontsize=6)
        for kind, axes in zip(KINDS, lower.subplots(1, len(KINDS), sharey=True), strict=True):
            _draw_correlations(axes, summary[summary["kind"] == kind])
            axes.set_title(f"{kind} groups: Pearson")
        return figure


def _draw_points(axes: Axes, points: pd.DataFrame) -> None:
    damped = points[points["damping"] > 0]
    for name, colour in COLOURS.items():
        own = damped[damped["estimator"] == name]
        axes.plot(own["true"], own["estimated"], "o", color=colour, markersize=2.5, markerfacecolor="none", label=name)
    ends = [points["true"].min(), points["true"].max()]
    axes.plot(ends, ends, color="black", linewidth=0.8)
    axes.set_xlabel("true change", fontsize=6)
    axes.set_ylabel("estimated", fontsize=6)


def _ink(value: float) -> str:
    """What can be read on the colour of a correlation."""
    return "white" if abs(value) > PALE else "black"


def _draw_correlations(axes: Axes, summary: pd.DataFrame) -> None:
    table = summary.pivot_table(
        index=["condition", "damping", "truth"], columns="estimator", values="pearson", sort=False
    ).reindex(columns=list(ESTIMATORS))
    axes.imshow(table.to_numpy(), vmin=-1, vmax=1, cmap="RdBu", aspect="auto")
    for (row, column), value in np.ndenumerate(table.to_numpy()):
        shown, colour = ("-", "black") if np.isnan(value) else (f"{value:.2f}", _ink(float(value)))
        axes.text(column, row, shown, ha="center", va="center", fontsize=6, color=colour)
    labels = [f"{condition}, damping {damping:g}: {truth}" for condition, damping, truth in table.index]
    axes.set_yticks(range(len(labels)), labels, fontsize=5.5)
    axes.set_xticks(range(len(ESTIMATORS)), [name.replace(", ", ",\n") for name in ESTIMATORS], fontsize=5, rotation=60)
