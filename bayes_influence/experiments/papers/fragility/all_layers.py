"""Where fragility is real, over depth and width: what estimates in all layers agree with, and which scheme helps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bayes_influence.evaluation.paired import paired_comparisons
from bayes_influence.evaluation.waterfall import GAPS
from bayes_influence.experiments.audit.report import GAP_COLOURS
from bayes_influence.experiments.comparison.figures import COLOURS, SHAPES
from bayes_influence.experiments.comparison.significance import ALPHA, size_trends
from bayes_influence.experiments.papers.fragility.grid_cells import TRUTHS, AllLayersStudy, measure_all_layers
from bayes_influence.experiments.papers.means import mean_table, with_interval
from bayes_influence.experiments.papers.study import PaperStudy, Reproduced, publish
from bayes_influence.experiments.store.drawings import Drawing
from bayes_influence.experiments.store.figures import MARKERS, figure_style, save_figure
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.store.runner import run_cells

NETWORK = ["activation", "depth", "width", "scheme"]
"""What a cell is one of."""

STATISTICS = ("spearman", "pearson", "slope")

NAMES = {
    "pbrf": "the PBRF",
    "minimum": "the minimum",
    "warm": "retraining from the fit",
    "cold": "retraining from scratch",
}
"""What the truths are called in sentences and figures."""

LEAST_GAP = 1e-3
"""Gaps below it are drawn there: that of an exact solver is rounding."""


def reproduce_all_layers(
    study: AllLayersStudy, out: str | Path, n_jobs: int | None = None, progress: bool = True
) -> Reproduced:
    """Runs the grid; writes agreement, tests between schemes, trends, ceilings and gaps, two figures and sentences.

    Args:
        study: Settings.
        out: The result folder.
        n_jobs: Cells at once; as many as there are cores, when not given.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If the folder belongs to another study.
        FailedCellsError: If a cell failed, after all others were stored.
    """
    folder = StudyFolder(out, study.configuration())
    cells = study.cells(study.networks().resolved(folder, progress=progress))
    run_cells(cells, measure_all_layers, folder, n_jobs=n_jobs, progress=progress)
    results, gaps, stages, ceilings = (
        folder.table(name, list(cells)) for name in ("results", "gaps", "stages", "ceilings")
    )
    summary = mean_table(results, [*NETWORK, "truth"], STATISTICS)
    over_networks = mean_table(results, ["activation", "truth", "scheme"], (*STATISTICS, "train_accuracy"))
    pairs, trends, sizes = scheme_pairs(results), depth_and_width(results), gap_sizes(gaps)
    tables = {"results": results, "stages": stages, "all-layers": summary, "all-layers-schemes": over_networks}
    tables |= {"all-layers-pairs": pairs, "all-layers-trends": trends}
    tables |= {"all-layers-ceilings": ceilings, "all-layers-gaps": sizes}
    for name, table in tables.items():
        folder.write_table(name, table)
    save_figure(Drawing(gaps_figure, (sizes,)), folder, "all-layers-gaps")
    findings = [
        *agreement_findings(over_networks),
        *pair_findings(pairs),
        *trend_findings(trends),
        *ceiling_findings(ceilings),
        *gap_findings(sizes),
    ]
    shown = over_networks[["activation", "truth", "scheme", *STATISTICS]]
    return publish(folder, "all-layers", Drawing(grid_figure, (summary, ceilings)), findings, shown)


def scheme_pairs(results: pd.DataFrame) -> pd.DataFrame:
    """Every pair of schemes on the same networks (sizes and seeds), by Wilcoxon's test with Holm's correction.

    Args:
        results: One row per network, seed and truth.

    Returns:
        A row per activation, truth, statistic and pair; networks in which a scheme has no correlation are left out.
    """
    frames = []
    for (activation, truth), rows in results.groupby(["activation", "truth"], sort=False):
        for value in ("spearman", "pearson"):
            table = rows.pivot_table(index=["depth", "width", "seed"], columns="scheme", values=value, dropna=False)
            by_scheme = {name: table[name].to_numpy() for name in rows["scheme"].unique()}
            if len(by_scheme) > 1:
                pairs = paired_comparisons(by_scheme)
                frames.append(pairs.assign(activation=str(activation), truth=str(truth), value=value))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def depth_and_width(results: pd.DataFrame) -> pd.DataFrame:
    """Whether agreement rises or falls with depth and with width, by activation, truth and scheme (`size_trends`)."""
    frames = [
        size_trends(rows.assign(estimator="influence"), ["spearman"]).assign(
            activation=str(activation), truth=str(truth)
        )
        for (activation, truth), rows in results.groupby(["activation", "truth"], sort=False)
    ]
    return pd.concat(frames, ignore_index=True)


def gap_sizes(gaps: pd.DataFrame) -> pd.DataFrame:
    """The gaps in units of what a removal does after retraining from scratch, means over seeds.

    Args:
        gaps: Rows of `evaluation.waterfall.waterfall`, of all networks.

    Returns:
        A row per network and gap: `size`, the mean |difference| of the two stages' effects on the test loss over the
        mean |effect| of the first stage, with its interval.
    """
    means = gaps.groupby([*NETWORK, "seed", "gap"], sort=False)[["loss_difference", "loss_effect"]].mean().reset_index()
    unit = means.groupby([*NETWORK, "seed"])["loss_effect"].transform("first")
    return mean_table(means.assign(size=means["loss_difference"] / unit), [*NETWORK, "gap"], ["size"])


def agreement_findings(over_networks: pd.DataFrame) -> list[str]:
    """Per activation and truth the mean correlations of every scheme over networks."""
    sentences = []
    for (activation, truth), rows in over_networks.groupby(["activation", "truth"], sort=False):
        said = "; ".join(
            f"{row['scheme']} {with_interval(row, 'spearman')}, Pearson {with_interval(row, 'pearson')}"
            for _, row in rows.iterrows()
        )
        sentences.append(
            f"{activation}, all layers, against {NAMES[str(truth)]}: signed Spearman {said} "
            f"({int(rows['repeats'].min())} networks)."
        )
    return sentences


def pair_findings(pairs: pd.DataFrame) -> list[str]:
    """Per activation and truth which schemes are shown to differ in the signed Spearman correlation."""
    if pairs.empty:
        return []
    sentences = []
    own = pairs[pairs["value"] == "spearman"]
    for (activation, truth), rows in own.groupby(["activation", "truth"], sort=False):
        apart = rows[rows["p_holm"] < ALPHA]
        said = [
            f"{row['first']} minus {row['second']} {row['mean_difference']:.3g} ({row['low']:.3g} … {row['high']:.3g}, "
            f"p {row['p_holm']:.1e})"
            for _, row in apart.iterrows()
        ]
        smallest = rows["p_holm"].min()
        found = "; ".join(said) if said else f"none is shown to differ (smallest p {smallest:.2g})"
        sentences.append(
            f"{activation}, against {NAMES[str(truth)]}: {len(apart)} of {len(rows)} pairs of schemes differ "
            f"(Wilcoxon, Holm, {int(rows['n'].iloc[0])} networks): {found}."
        )
    return sentences


def trend_findings(trends: pd.DataFrame) -> list[str]:
    """Which trends over depth and width are shown, of how many."""
    if trends.empty:
        return []
    shown = trends[trends["p_value"] < ALPHA]
    said = "; ".join(
        f"{row['activation']}, {row['scheme']}, {row['axis']}, against {NAMES[row['truth']]}: tau "
        f"{row['effect_size']:.2f}, p {row['p_value']:.1e}"
        for _, row in shown.iterrows()
    )
    return [
        f"Agreement rises or falls with size (Mann-Kendall, p < {ALPHA}, not corrected) in {len(shown)} of "
        f"{len(trends)} tests: {said or 'none'}."
    ]


def ceiling_findings(ceilings: pd.DataFrame) -> list[str]:
    """Per activation and way of repeating the mean ceiling of every scheme over networks."""
    if ceilings.empty:
        return []
    means = mean_table(ceilings, ["activation", "repeated", "scheme"], ["spearman", "pearson"])
    sentences = []
    for (activation, repeated), rows in means.groupby(["activation", "repeated"], sort=False):
        said = "; ".join(f"{row['scheme']} {with_interval(row, 'spearman')}" for _, row in rows.iterrows())
        sentences.append(
            f"{activation}: the ceiling of the Spearman correlation across trainings from scratch, {repeated}: {said} "
            f"({int(rows['repeats'].min())} sizes)."
        )
    return sentences


def gap_findings(sizes: pd.DataFrame) -> list[str]:
    """Per activation and scheme the largest gap of the smallest and of the other networks."""
    sentences = []
    for (activation, scheme), rows in sizes.groupby(["activation", "scheme"], sort=False):
        largest = [
            part.loc[[part["size"].idxmax()]].iloc[0] for _, part in rows.groupby(["depth", "width"], sort=False)
        ]
        said = "; ".join(
            f"depth {row['depth']}, width {row['width']} {row['gap']} {with_interval(row, 'size')}" for row in largest
        )
        sentences.append(f"{activation}, {scheme}: largest gap, in effects of a removal: {said}.")
    return sentences


def grid_figure(summary: pd.DataFrame, ceilings: pd.DataFrame) -> Figure:
    """Signed Spearman against size: a row of panels per activation, a panel per truth, the ceiling dotted beside cold.

    Args:
        summary: Means over seeds with intervals.
        ceilings: Of trainings from scratch from other seeds; a row per network and way.
    """
    activations, truths = summary["activation"].unique(), [truth for truth in TRUTHS if truth in set(summary["truth"])]
    sizes = _sizes(summary)
    with figure_style(9):
        figure = Figure(figsize=(3.1 * len(truths), 0.8 + 2.6 * len(activations)), layout="constrained")
        panels = figure.subplots(len(activations), len(truths), sharex=True, sharey=True, squeeze=False)
        for line, activation in zip(panels, activations, strict=True):
            for axes, truth in zip(line, truths, strict=True):
                own = summary[(summary["activation"] == activation) & (summary["truth"] == truth)]
                for number, (scheme, rows) in enumerate(own.groupby("scheme", sort=False)):
                    _draw_scheme(axes, str(scheme), rows, sizes, 0.09 * (number - 1.5))
                axes.set_title(f"{activation}, against {NAMES[truth]}", fontsize=9)
            if truths[-1] == "cold" and len(ceilings):
                own = ceilings[(ceilings["activation"] == activation) & (ceilings["repeated"] == "other seeds")]
                for scheme, rows in own.groupby("scheme", sort=False):
                    _draw_line(line[-1], rows, "spearman", sizes, color=COLOURS.get(str(scheme), "gray"), linestyle=":")
        _label_sizes(figure, len(truths), sizes)
        figure.supylabel("Spearman correlation (signed)", fontsize=9)
        panels[0, 0].set_ylim(-1.05, 1.05)
        return figure


def gaps_figure(sizes: pd.DataFrame) -> Figure:
    """The five gaps against size: a row of panels per activation, a panel per scheme."""
    activations, schemes, networks = sizes["activation"].unique(), sizes["scheme"].unique(), _sizes(sizes)
    with figure_style(9):
        figure = Figure(figsize=(3.1 * len(schemes), 0.8 + 2.6 * len(activations)), layout="constrained")
        panels = figure.subplots(len(activations), len(schemes), sharex=True, sharey=True, squeeze=False)
        styles = dict(zip(GAPS.values(), zip(GAP_COLOURS, MARKERS, strict=False), strict=True))
        for line, activation in zip(panels, activations, strict=True):
            for axes, scheme in zip(line, schemes, strict=True):
                own = sizes[(sizes["activation"] == activation) & (sizes["scheme"] == scheme)]
                for gap, rows in own.groupby("gap", sort=False):
                    colour, marker = styles.get(str(gap), ("black", "x"))
                    drawn = rows.assign(size=rows["size"].clip(lower=LEAST_GAP))
                    _draw_line(axes, drawn, "size", networks, color=colour, marker=marker, label=str(gap))
                axes.set_title(f"{activation}, {scheme}", fontsize=9)
        panels[0, 0].set_yscale("log")
        _label_sizes(figure, len(schemes), networks)
        figure.supylabel("difference of effects / effect of a removal", fontsize=9)
        return figure


def _sizes(table: pd.DataFrame) -> list[tuple[int, int]]:
    """The sizes in the order of the axis: the depths at the least width, then the widths beyond it."""
    found = {(int(depth), int(width)) for depth, width in table[["depth", "width"]].itertuples(index=False)}
    return sorted(found, key=lambda size: (size[1], size[0]))


def _draw_line(axes: Axes, rows: pd.DataFrame, column: str, sizes: Sequence[tuple[int, int]], **style: Any) -> None:
    where = [sizes.index((row["depth"], row["width"])) for _, row in rows.iterrows()]
    ordered = rows.assign(where=where).sort_values("where")
    axes.plot(ordered["where"], ordered[column], linewidth=1, markersize=4, **style)


def _draw_scheme(axes: Axes, scheme: str, rows: pd.DataFrame, sizes: Sequence[tuple[int, int]], shift: float) -> None:
    where = [sizes.index((row["depth"], row["width"])) + shift for _, row in rows.iterrows()]
    reach = [rows["spearman"] - rows["spearman_low"], rows["spearman_high"] - rows["spearman"]]
    style: dict[str, Any] = {"color": COLOURS.get(scheme, "gray"), "marker": SHAPES.get(scheme, "*"), "markersize": 4}
    errors = [part.clip(lower=0).fillna(0) for part in reach]
    axes.errorbar(where, rows["spearman"], yerr=errors, capsize=2, linestyle="none", label=scheme, **style)
    axes.axhline(0, color="lightgray", linewidth=0.8, zorder=0)


def _label_sizes(figure: Figure, columns: int, sizes: Sequence[tuple[int, int]]) -> None:
    for axes in figure.axes[-columns:]:
        axes.set_xticks(range(len(sizes)), [f"{depth}x{width}" for depth, width in sizes])
        axes.set_xlabel("depth x width")
    named: dict[str, Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    at_once = max(1, min(len(named), 2 * columns))
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=at_once, frameon=False)


STUDIES = (
    PaperStudy(
        "all-layers",
        "Beyond Epifano et al.: all layers over depth and width against PBRF, minimum, warm and cold retraining",
        reproduce_all_layers,
        AllLayersStudy(),
        fixed=("mode",),
        folder="runs/fragility-all-layers",
    ),
)
