"""The figure of `mislabelled`: found and accuracy against inspected, and the table of scores and schemes."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bayes_influence.experiments.store.figures import figure_style, series_style


def mislabelled_figure(curves: pd.DataFrame, trained: pd.DataFrame, summary: pd.DataFrame, read_at: float) -> Figure:
    """The paper's figure 6, a row per data set, and beside it what every score finds under every scheme.

    Curves are those of the scheme that was retrained.

    Args:
        curves: Means of `found` by data set, scheme, score and share inspected.
        trained: Means of `accuracy`, likewise.
        summary: The curves at one share.
        read_at: That share.
    """
    datasets = list(dict.fromkeys(summary["dataset"]))
    with figure_style(8):
        figure = Figure(figsize=(11, 3.4 * len(datasets)), layout="constrained")
        panels = figure.subplots(len(datasets), 3, squeeze=False)
        for (found, accuracy, table), dataset in zip(panels, datasets, strict=True):
            own = summary[summary["dataset"] == dataset]
            scheme = str(trained.loc[trained["dataset"] == dataset, "scheme"].iloc[0])
            for axes, means, column in ((found, curves, "found"), (accuracy, trained, "accuracy")):
                chosen = means[(means["dataset"] == dataset) & (means["scheme"] == scheme)]
                _draw_curves(axes, chosen, column)
            found.set_title(f"{dataset}, {scheme}", fontsize=8)
            found.set_ylabel("share of the flipped labels found")
            accuracy.set_ylabel("test accuracy after retraining")
            _draw_table(table, own, read_at)
        panels[0, 0].legend(frameon=False, fontsize=7)
        return figure


def _draw_curves(axes: Axes, means: pd.DataFrame, column: str) -> None:
    whole = means[means["score"] == "all"]
    for number, (score, part) in enumerate(means[means["score"] != "all"].groupby("score", sort=False)):
        part = part.sort_values("inspected")
        axes.plot(100 * part["inspected"], part[column], label=str(score), markersize=3, **series_style(number))
    if len(whole):
        axes.axhline(float(whole[column].iloc[0]), color="black", linewidth=0.8, linestyle=":")
    axes.set_xlim(0, 52)
    axes.set_xlabel("labels inspected, %")


def _draw_table(axes: Axes, summary: pd.DataFrame, read_at: float) -> None:
    table = summary.pivot_table(index="score", columns="scheme", values="found")
    table = table.loc[list(dict.fromkeys(summary["score"])), list(dict.fromkeys(summary["scheme"]))]
    axes.imshow(table, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    for row in range(len(table.index)):
        for column in range(len(table.columns)):
            value = float(table.to_numpy()[row, column])
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.6 else "black")
    axes.set_xticks(range(len(table.columns)), table.columns, rotation=25, ha="right")
    axes.set_yticks(range(len(table.index)), table.index)
    axes.set_title(f"found after inspecting {read_at:.0%}", fontsize=8)
