"""Several schemes on the same network, data and seeds: one table over the seeds, one reliability plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from bayes_influence.experiments.store.drawings import Drawing
from bayes_influence.experiments.store.figures import save_figure, series_style
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.store.record import REPORT
from bayes_influence.experiments.training.report import train_and_report
from bayes_influence.experiments.training.settings import TrainRun
from bayes_influence.training.schemes import find_schemes

MEASURES = (
    "accuracy",
    "nll",
    "brier",
    "ece",
    "sampled_nll",
    "sampled_ece",
    "misclassification_auroc",
    "variance_auroc",
    "outside_entropy_auroc",
    "outside_variance_auroc",
    "label_accuracy",
    "exact_accuracy",
    "rmse",
    "mae",
    "r2",
    "coverage",
    "interval_width",
)
"""Columns of a report that are compared; which of them there are depends on what is predicted."""


def train_schemes(
    run: TrainRun,
    schemes: Sequence[str],
    out: str | Path,
    *,
    data_folder: str | Path | None = None,
    mode: str = "diagonal",
    progress: bool = True,
) -> pd.DataFrame:
    """Trains a run under several schemes, each in a folder of its name, and compares them over the seeds.

    Args:
        run: Data, network, seeds and whatever else is said; its scheme is replaced by each of the schemes,
            which take those of its scheme's numbers that they have.
        schemes: Names, the one to compare with first.
        out: Folder of the study; it gets `reports.csv` (a row per scheme and seed), `summary.csv`, the plot
            `history-all`, and of classes `reliability-all`. What is finished is not trained again, so schemes can be
            added.
        data_folder: Where image sets are kept.
        mode: How Bayesian networks predict, see `train_and_report`.
        progress: Whether to show progress bars.

    Returns:
        What `summarise` makes of all reports.

    Raises:
        ValueError: If a scheme is unknown or named twice, or the folder belongs to other settings.
    """
    asked = find_schemes(schemes, run.scheme_options)
    shared = {name: value for name, value in asdict(run).items() if name != "scheme"}
    folder = StudyFolder(out, {"study": "train-schemes", **shared})
    reports, curves, histories = [], {}, {}
    for name, scheme in zip(schemes, asked, strict=True):
        own = replace(run, scheme=name, scheme_options=scheme.own(run.scheme_options))
        report = train_and_report(own, folder.path / name, data_folder=data_folder, mode=mode, progress=progress)
        report.insert(0, "scheme", name)
        reports.append(report)
        tables = StudyFolder.open(folder.path / name).load_cell(REPORT).tables
        histories[name] = tables["history"]
        if "reliability" in tables:
            curves[name] = tables["reliability"]
    reported = pd.concat(reports, ignore_index=True)
    summary = summarise(reported)
    folder.write_table("reports", reported)
    folder.write_table("summary", summary.reset_index())
    title = f"{run.data_name}, {run.network}"
    if curves:
        save_figure(Drawing(calibration_figure, (curves, title)), folder, "reliability-all")
    save_figure(Drawing(history_figure, (histories, title)), folder, "history-all")
    return summary


def summarise(reports: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation of every measure over a scheme's seeds, and the time of an epoch.

    Args:
        reports: One row per scheme and seed, columns as in `report_row` and `epoch_seconds`.

    Returns:
        One row per scheme in their order, text "mean ± sd" (the mean alone for one seed); `epoch_ratio` is the time of
        an epoch divided by that of the first scheme. Measures that no scheme has are left out.
    """
    groups = dict(iter(reports.groupby("scheme", sort=False)))
    first = next(iter(groups.values()))["epoch_seconds"].iloc[0]
    measured = [name for name in MEASURES if name in reports and reports[name].notna().any()]
    rows = {}
    for scheme, group in groups.items():
        seconds = group["epoch_seconds"].iloc[0]
        texts = {name: _mean_and_deviation(group[name]) for name in measured}
        rows[scheme] = texts | {"epoch_seconds": f"{seconds:.1f}", "epoch_ratio": f"{seconds / first:.2f}"}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("scheme")


def _mean_and_deviation(values: pd.Series) -> str:
    if values.isna().any():
        return "-"
    mean = f"{values.mean():.4f}"
    return mean if len(values) == 1 else f"{mean} ± {values.std(ddof=1):.4f}"


def calibration_figure(curves: dict[str, pd.DataFrame], title: str) -> Figure:
    """Accuracy minus confidence against confidence, a line per scheme: its seeds pooled, bins weighted by share.

    Args:
        curves: What `reliability` returns for all of a scheme's seeds, by scheme.
        title: Of the figure.
    """
    figure = Figure(figsize=(5.5, 5.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    upper.axhline(0.0, color="0.6", linewidth=1, linestyle="--")
    for number, (scheme, curve) in enumerate(curves.items()):
        style = series_style(number)
        weighted = curve[["confidence", "accuracy"]].mul(curve["share"], axis=0).groupby(curve["low"]).sum()
        share = curve.groupby("low")["share"].sum()
        confidence = weighted["confidence"] / share
        upper.plot(confidence, weighted["accuracy"] / share - confidence, **style, markersize=4, label=scheme)
        lower.plot(confidence, share / curve["seed"].nunique(), **style, markersize=4)
    upper.set(ylabel="accuracy minus confidence", title=title, xlim=(0, 1))
    upper.legend(frameon=False)
    lower.set(xlabel="confidence", ylabel="share of examples", yscale="log")
    return figure


def history_figure(histories: dict[str, pd.DataFrame], title: str) -> Figure:
    """Training accuracy, where there is one, and objective by epoch: a colour per scheme and a line per seed.

    The objectives of different schemes are different quantities: each curve says whether its training is steady.

    Args:
        histories: Columns `epoch`, `seed`, `objective` and `train_accuracy`, by scheme.
        title: Of the figure.
    """
    panels = {"train_accuracy": "accuracy on training batches", "objective": "objective (nats per example)"}
    if all(history["train_accuracy"].isna().all() for history in histories.values()):
        del panels["train_accuracy"]
    figure = Figure(figsize=(4.0 * len(panels), 3.6), layout="constrained")
    for axes, (column, label) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for number, (scheme, history) in enumerate(histories.items()):
            style = series_style(number)
            for index, (_, own) in enumerate(history.groupby("seed")):
                named = scheme if index == 0 else None
                axes.plot(own["epoch"], own[column], **style, markersize=3, linewidth=1, label=named)
        axes.set(xlabel="epoch", ylabel=label)
    axes.set_yscale("log" if all((history["objective"] > 0).all() for history in histories.values()) else "linear")
    figure.axes[0].legend(frameon=False)
    figure.suptitle(title)
    return figure
