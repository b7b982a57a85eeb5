"""An audit as it is printed and drawn."""

from __future__ import annotations

from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from bayes_influence.experiments.audit.result import Audit
from bayes_influence.experiments.store.figures import draw_against_truth, figure_style, series_style, signed_log_axis

GAP_COLOURS = ("tab:blue", "tab:cyan", "tab:orange", "tab:red", "tab:gray")
"""One per gap, in their order."""

TITLE_WIDTH = 140
"""Letters of a line above the figure."""

STAGE_NAMES = {
    "cold": "retraining from scratch",
    "warm": "retraining from the fit",
    "proximal": "the same, held near the fit",
    "pbrf": "proximal Bregman response",
    "linear": "its linearisation",
    "solver": "what the solver returns",
}
"""What the stages of a waterfall are called in words."""


def printed_audit(found: Audit) -> list[Table]:
    """Agreement with every stage, the waterfall, the spectrum, and where in it the scores come from."""
    tables = [_agreement_table(found), _waterfall_table(found.waterfall)]
    if not found.spectrum.empty:
        tables += [_spectrum_table(found.spectrum), _attribution_table(found.attribution)]
    return tables


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, row_styles=["", "dim"])
    table.add_column(first, no_wrap=True)
    for heading in others:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _agreement_table(found: Audit) -> Table:
    headings = ("Spearman", "Pearson", "Kendall", "slope", "sign", "top-k", "miss-rel.", "control drift")
    table = _table("estimated change of the test loss against", "", *headings)
    drifts = found.stages.groupby("stage")["control_drift"].median()
    for _, row in found.agreement.iterrows():
        table.add_row(
            STAGE_NAMES[row["stage"]] + (" *" if row["stage"] == found.truth else ""),
            *(_interval(row, name) for name in ("spearman", "pearson", "kendall", "slope")),
            f"{row['sign_agreement']:.2f}",
            f"{row['top_k_overlap']:.2f}",
            f"{row['miss_relations']}/{row['n_runs']}",
            f"{drifts[row['stage']]:.2g}",
        )
    ceiling = "" if np.isnan(found.ceiling) else f"; ceiling across networks {found.ceiling:.2f}"
    table.caption = f"bootstrap 95 % intervals; * the truth of the verdict{ceiling}; damping {found.damping:.3g}"
    return table


def _interval(row: pd.Series, name: str) -> str:
    if pd.isna(row[f"{name}_low"]):
        return f"{row[name]:.3f}"
    return f"{row[name]:.3f} [{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}]"


def _waterfall_table(gaps: pd.DataFrame) -> Table:
    headings = ("output distance", "share", "of the effects", "effect", "test loss", "its effect")
    table = _table("where retraining and estimate part", "gap", *headings)
    for _, row in gaps.iterrows():
        table.add_row(
            row["gap"],
            f"{row['output_distance']:.3g}",
            f"{row['output_share']:.0%}",
            f"{row['effect_distance']:.3g}",
            f"{row['output_effect']:.3g}",
            f"{row['loss_difference']:.3g}",
            f"{row['loss_effect']:.3g}",
        )
    table.caption = (
        "means over removed examples and networks: distance of outputs between neighbouring stages, the same with each "
        "control subtracted, size of the effect at the first stage; and of the change of the test loss"
    )
    return table


def _spectrum_table(spectrum: pd.DataFrame) -> Table:
    table = _table(
        "curvature in the selected parameters", "matrix", "λ max", "λ min", "negative", "trace", "eff. dim.", "P"
    )
    for name, group in spectrum.groupby("matrix", sort=False):
        means = group[["largest", "smallest", "negative", "trace", "effective_dimension"]].mean()
        table.add_row(
            str(name),
            f"{means['largest']:.3g}",
            f"{means['smallest']:.2g}",
            f"{means['negative']:.1f}",
            f"{means['trace']:.3g}",
            f"{means['effective_dimension']:.1f}",
            str(group["parameters"].iloc[0]),
        )
    table.caption = f"means over networks; effective dimension at damping {spectrum['damping'].iloc[0]:.3g}"
    return table


def _attribution_table(attribution: pd.DataFrame) -> Table:
    table = _table(
        "where in the spectrum the scores come from", "directions", "number", "of the trace", "of the scores"
    )
    for _, row in attribution.iterrows():
        shares = (f"{row[name]:.0%}" for name in ("trace_share", "score_share"))
        table.add_row(row["band"], f"{row['directions']:.1f}", *shares)
    return table


def audit_figure(found: Audit, title: str) -> Figure:
    """The waterfall, the estimates against truth and PBRF, and the curvature with the damping."""
    with figure_style():
        figure = Figure(figsize=(12, 7), layout="constrained")
        (outputs, losses, truth), (pbrf, spectrum, bands) = figure.subplots(2, 3)
        _draw_gaps(outputs, found.gaps, "output_distance", "distance of the outputs")
        _draw_gaps(losses, found.gaps, "loss_difference", "difference in the change of the test loss")
        _draw_scatter(truth, found.effects, found.truth)
        _draw_scatter(pbrf, found.effects, "pbrf")
        _draw_spectrum(spectrum, found.eigenvalues, found.damping)
        _draw_bands(bands, found.attribution)
        figure.suptitle(f"{title}\n{fill(found.verdict.sentence, TITLE_WIDTH)}", fontsize=9)
        return figure


def _draw_gaps(axes: Axes, gaps: pd.DataFrame, column: str, label: str) -> None:
    """One point per network and removed example, a bar at the mean."""
    for position, (_, group) in enumerate(gaps.groupby("gap", sort=False)):
        colour = GAP_COLOURS[position % len(GAP_COLOURS)]
        spread = np.linspace(-0.25, 0.25, len(group))
        axes.scatter(position + spread, group[column], s=5, color=colour, alpha=0.5, linewidths=0)
        axes.hlines(group[column].mean(), position - 0.35, position + 0.35, color=colour, linewidth=2)
    names = list(dict.fromkeys(gaps["gap"]))
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")
    positive = gaps.loc[gaps[column] > 0, column]
    if len(positive):
        bottom = max(float(positive.min()), 1e-6 * float(positive.max())) / 2
        axes.set_yscale("log")
        axes.set_ylim(bottom=bottom)
        _mark_below(axes, gaps, column, bottom)
    axes.set(xlabel="gap", ylabel=label)


def _mark_below(axes: Axes, gaps: pd.DataFrame, column: str, bottom: float) -> None:
    """A triangle at the lower edge of every gap with values below it, and how many there are."""
    for position, (_, group) in enumerate(gaps.groupby("gap", sort=False)):
        below = int((group[column] < bottom).sum())
        if below:
            axes.plot(position, bottom, marker="v", color="black", markersize=5, clip_on=False)
            text, at = f"{below} below", (position, bottom)
            axes.annotate(text, at, (0, 5), textcoords="offset points", ha="center", fontsize=6)


def _draw_scatter(axes: Axes, effects: pd.DataFrame, stage: str) -> None:
    """One colour and marker per network."""
    networks = list(dict.fromkeys(effects["seed"]))
    for (seed, _), group in effects.groupby(["seed", "test"], sort=False):
        style = series_style(networks.index(seed))
        axes.scatter(group["estimated"], group[stage], s=10, alpha=0.6, linewidths=0, **style)
    draw_against_truth(axes, effects[["estimated", stage]].to_numpy(), STAGE_NAMES[stage])
    axes.set(xlabel="estimated change of the test loss", ylabel="true change of the test loss")


def _draw_spectrum(axes: Axes, eigenvalues: pd.DataFrame, damping: float) -> None:
    """Eigenvalues by rank (how many are at least as large), one line per network and matrix."""
    if eigenvalues.empty:
        axes.set_visible(False)
        return
    matrices = list(dict.fromkeys(eigenvalues["matrix"]))
    for (matrix, seed), group in eigenvalues.groupby(["matrix", "seed"], sort=False):
        first = seed == eigenvalues["seed"].iloc[0]
        axes.plot(
            group["count"].to_numpy()[::-1].cumsum()[::-1],
            group["eigenvalue"],
            color=("black", "tab:blue")[matrices.index(matrix)],
            linestyle=("-", "--")[matrices.index(matrix)],
            linewidth=0.8,
            label=matrix if first else None,
        )
    axes.axhline(damping, color="tab:red", linewidth=0.8, linestyle=":", label="damping")
    signed_log_axis(axes, np.array([damping, -damping, eigenvalues["eigenvalue"].max()]))
    axes.legend(frameon=False, fontsize=8)
    axes.set(xlabel="rank", ylabel="eigenvalue")
    axes.set_title("eigenvalues, one line per network", fontsize=9)


def _draw_bands(axes: Axes, attribution: pd.DataFrame) -> None:
    if attribution.empty:
        axes.set_visible(False)
        return
    positions = np.arange(len(attribution))
    axes.bar(positions - 0.2, attribution["trace_share"], width=0.4, color="tab:gray", label="of the trace")
    axes.bar(positions + 0.2, attribution["score_share"], width=0.4, color="tab:blue", label="of the scores")
    axes.set_xticks(positions, attribution["band"])
    axes.axhline(0, color="black", linewidth=0.6)
    axes.legend(frameon=False, fontsize=8)
    axes.set_title("share of the spectrum's bands", fontsize=9)
    axes.set(xlabel="band", ylabel="share")
