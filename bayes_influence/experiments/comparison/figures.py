"""Figures of a study: agreement and spectrum by scheme, estimate against truth, and the papers' layouts over sizes."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bayes_influence.experiments.comparison.summary import series_name
from bayes_influence.experiments.store.figures import draw_against_truth, figure_style, signed_log_axis

COLOURS = {
    "none": "tab:blue",
    "swa": "tab:orange",
    "weight-decay": "tab:green",
    "weight-decay+swa": "tab:red",
    "bnn": "tab:purple",
    "bnn-evi": "tab:brown",
    "bnn-tempered": "tab:pink",
}
"""The papers' colours, and one of our own."""

SHAPES = {
    "none": "o",
    "swa": "s",
    "weight-decay": "^",
    "weight-decay+swa": "v",
    "bnn": "D",
    "bnn-evi": "P",
    "bnn-tempered": "X",
}
"""Markers, so that schemes are told apart without colours, and where one lies on another."""


def _colour(scheme: object) -> str:
    return COLOURS.get(str(scheme), "tab:gray")


def _marker(scheme: object) -> str:
    return SHAPES.get(str(scheme), "*")


def comparison_figure(summary: pd.DataFrame, differences: pd.DataFrame, title: str) -> Figure:
    """Agreement and spectrum by scheme on the left; beside them, one scatter of estimate against truth per scheme."""
    with figure_style():
        panels = list(differences.groupby(["scheme", "estimator"], sort=False))
        lines = 2 if len(panels) <= 8 else 3
        columns = ceil(len(panels) / lines)
        figure = Figure(figsize=(4.8 + 2.5 * columns, 0.6 + 2.5 * lines), layout="constrained")
        halves = figure.add_gridspec(1, 2, width_ratios=[4.8, 2.5 * columns])
        left, right = figure.add_subfigure(halves[0]), figure.add_subfigure(halves[1])
        agreement_axes, spectrum_axes = left.subplots(2, 1, sharex=True)
        _draw_agreement(agreement_axes, summary)
        _draw_spectrum(spectrum_axes, summary)
        scatters = right.subplots(lines, columns, squeeze=False).ravel()
        for axes, ((scheme, estimator), points) in zip(scatters, panels, strict=False):
            _draw_scatter(axes, points, scheme, series_name(scheme, estimator))
        for axes in scatters[len(panels) :]:
            axes.set_visible(False)
        right.supxlabel("estimated change of the test loss", fontsize=9)
        right.supylabel("true change (retraining)", fontsize=9)
        figure.suptitle(title)
        return figure


def _error_bars(axes: Axes, positions: np.ndarray, summary: pd.DataFrame, column: str, **style: object) -> None:
    centre = summary[column].to_numpy()
    reach = np.abs(np.vstack([centre - summary[f"{column}_low"], summary[f"{column}_high"] - centre]))
    axes.errorbar(positions, centre, yerr=np.nan_to_num(reach), capsize=3, linestyle="none", **style)  # type: ignore[arg-type]


def _label_schemes(axes: Axes, summary: pd.DataFrame) -> None:
    names = [series_name(row.scheme, row.estimator).replace(" (", "\n(") for row in summary.itertuples()]
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")


def _draw_agreement(axes: Axes, summary: pd.DataFrame) -> None:
    positions = np.arange(len(summary))
    _error_bars(axes, positions - 0.12, summary, "spearman", marker="o", color="black", label="Spearman")
    _error_bars(axes, positions + 0.12, summary, "pearson", marker="s", color="tab:gray", label="Pearson")
    axes.axhline(0, color="lightgray", linewidth=0.8, zorder=0)
    axes.axhline(1, color="lightgray", linewidth=0.8, zorder=0)
    axes.set_title("agreement of estimate and retraining (signed)", fontsize=9)
    axes.set(ylabel="correlation")
    axes.legend(frameon=False, fontsize=8)


def _draw_spectrum(axes: Axes, summary: pd.DataFrame) -> None:
    positions = np.arange(len(summary))
    _error_bars(axes, positions, summary, "hessian_max", marker="^", color="black", label="largest eigenvalue")
    _error_bars(axes, positions, summary, "hessian_min", marker="v", color="tab:gray", label="smallest eigenvalue")
    signed_log_axis(axes, summary[["hessian_max", "hessian_min"]].to_numpy())
    axes.set_title("Hessian of the objective, selected parameters", fontsize=9)
    axes.set(xlabel="scheme", ylabel="eigenvalue")
    _label_schemes(axes, summary)
    axes.legend(frameon=False, fontsize=8)


def _draw_scatter(axes: Axes, points: pd.DataFrame, scheme: object, name: str) -> None:
    colour, marker = _colour(scheme), _marker(scheme)
    axes.scatter(points["estimated"], points["true"], s=9, alpha=0.5, linewidths=0, color=colour, marker=marker)
    name = f"{name}\n({points['seed'].nunique()} seeds)"
    draw_against_truth(axes, points[["estimated", "true"]].to_numpy(), name)


def damping_figure(damping: pd.DataFrame, title: str) -> Figure:
    """Spearman, Pearson and slope against the damping, mean over seeds and the range between them, per scheme."""
    with figure_style():
        figure = Figure(figsize=(11, 3.6), layout="constrained")
        panels = zip(figure.subplots(1, 3), (("spearman", 1), ("pearson", 1), ("slope", 1)), strict=True)
        for axes, (column, ideal) in panels:
            for number, ((scheme, estimator), rows) in enumerate(damping.groupby(["scheme", "estimator"], sort=False)):
                by_delta = rows.groupby("delta")[column]
                line = "--" if estimator == "posterior-mean" else "-"
                name = series_name(scheme, estimator)
                # Hollow, and each larger than the one before: where series lie on one another, all are seen.
                style = {"color": _colour(scheme), "marker": _marker(scheme), "markersize": 3 + 1.3 * number}
                axes.plot(by_delta.mean(), linestyle=line, linewidth=1, fillstyle="none", label=name, **style)
                axes.fill_between(
                    by_delta.min().index, by_delta.min(), by_delta.max(), color=_colour(scheme), alpha=0.12, linewidth=0
                )
            axes.axhline(ideal, color="lightgray", linewidth=0.8, zorder=0)
            axes.set_xscale("log")
            axes.set_xlabel("damping δ")
            axes.set_title(column, fontsize=9)
            axes.set_ylabel("slope of true on estimated" if column == "slope" else "correlation")
        axes.set_yscale("symlog", linthresh=0.1)
        axes.set_ylim(bottom=min(0.0, float(damping["slope"].min())))
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=8)
        figure.suptitle(title)
        return figure


def sizes_figure(summary: pd.DataFrame, column: str, label: str, logarithmic: bool = False) -> Figure:
    """A quantity over width at depth 1 (left) and over depth at width 5 (right), mean and 95 % interval per scheme.

    The layout of figures 1 and 3 of Epifano et al.
    """
    with figure_style(10):
        figure = Figure(figsize=(11, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        panels: Sequence[tuple[Axes, str, str]] = ((left, "width", "depth"), (right, "depth", "width"))
        for axes, over, held in panels:
            value = summary[held].min()
            _draw_sizes(axes, summary[summary[held] == value], over, column)
            axes.set_xlabel(over)
            axes.set_title(f"constant {held} ({held} = {value})")
        left.set_ylabel(label)
        if logarithmic:
            ends = summary[[column, f"{column}_low", f"{column}_high"]].to_numpy()
            signed_log_axis(left, ends)
        else:
            left.axhline(0, color="lightgray", linewidth=0.8, zorder=0)
            right.axhline(0, color="lightgray", linewidth=0.8, zorder=0)
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
        return figure


def _draw_sizes(axes: Axes, summary: pd.DataFrame, over: str, column: str) -> None:
    series = list(summary.groupby(["scheme", "estimator"], sort=False))
    sizes = sorted(summary[over].unique())
    for index, ((scheme, estimator), rows) in enumerate(series):
        ordered = rows.sort_values(over)
        shift = (index - (len(series) - 1) / 2) * 0.09
        positions = np.array([sizes.index(size) for size in ordered[over]]) + shift
        line = "--" if estimator == "posterior-mean" else "-"
        axes.plot(positions, ordered[column], color=_colour(scheme), linestyle=line, linewidth=1, alpha=0.5)
        _error_bars(
            axes,
            positions,
            ordered,
            column,
            color=_colour(scheme),
            marker=_marker(scheme),
            markerfacecolor=_colour(scheme) if line == "-" else "white",
            markersize=4,
            label=series_name(scheme, estimator),
        )
    axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
