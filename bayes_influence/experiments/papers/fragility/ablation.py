"""Which choice carries the published result: from as published, each put right alone, and one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bayes_influence.evaluation.paired import paired_comparisons
from bayes_influence.experiments.comparison.study import Study
from bayes_influence.experiments.papers.fragility.choices import AS_PUBLISHED, CORRECTED, Choices
from bayes_influence.experiments.papers.fragility.protocol import MOST_POINTS, Pipeline
from bayes_influence.experiments.papers.fragility.settings import FragilityStudy
from bayes_influence.experiments.papers.means import mean_table, with_interval
from bayes_influence.experiments.papers.study import PaperStudy, Reproduced, publish
from bayes_influence.experiments.store.cells import CellResult, cell_key
from bayes_influence.experiments.store.drawings import Drawing
from bayes_influence.experiments.store.figures import figure_style
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

KEYS = ("depth", "width", "scheme", "way", "choice")

WAYS = ("alone", "together")

STATISTICS = ("spearman", "absolute_spearman", "pearson", "slope", "top_k_overlap")


@dataclass(frozen=True)
class AblationStudy(FragilityStudy):
    """The ablation: its networks are `NETWORKS`, or the scale's where that is quick.

    Attributes:
        schemes: Keys of `SCHEMES`.
    """

    schemes: tuple[str, ...] = ("weight-decay",)

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(depth, width) of the networks."""
        if self.only:
            return super().sizes
        return ((1, 5),) if self.scale == "quick" else NETWORKS


def ways(scheme: str) -> list[tuple[str, str, Choices]]:
    """(way, choice, choices): as published, each choice put right alone, and with all before it.

    The last one together is everything right.

    Args:
        scheme: Whose choices.
    """
    order = (*OF_SCHEMES.get(scheme, ()), *ORDER)
    alone = [("alone", name, AS_PUBLISHED.correcting(name)) for name in order]
    together = [("together", name, AS_PUBLISHED.correcting(*order[: index + 1])) for index, name in enumerate(order)]
    start = [(way, "as published", AS_PUBLISHED) for way in WAYS]
    return [start[0], *alone, start[1], *together]


def measure_choices(study: Study) -> CellResult:
    """Every choice put right, on one network and scheme.

    Args:
        study: One cell, its test example resolved.

    Returns:
        Table `results`, a row per way, choice and seed.
    """
    pipeline = Pipeline(study, min(study.removals, MOST_POINTS))
    frames = []
    for way, choice, choices in ways(study.schemes[0]):
        points = min(choices.points, study.removals)
        frames.append(pipeline.measure(replace(choices, points=points)).results.assign(way=way, choice=choice))
    results = pd.concat(frames, ignore_index=True)
    results.insert(0, "depth", study.sizes[0])
    results.insert(1, "width", study.sizes[1])
    return CellResult(tables={"results": results})


def reproduce_ablation(
    study: AblationStudy, out: str | Path, n_jobs: int | None = None, progress: bool = True
) -> Reproduced:
    """Runs the ablation; writes `ablation.csv`, `ablation-pairs.csv` (paired over seeds), figure and sentences.

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
    results = folder.table("results", list(cells))
    summary = mean_table(results, KEYS, STATISTICS)
    pairs = paired_with_published(results)
    folder.write_table("results", results)
    folder.write_table("ablation", summary)
    folder.write_table("ablation-pairs", pairs)
    shown = summary[[*KEYS, "spearman", "absolute_spearman"]]
    return publish(folder, "ablation", Drawing(ablation_figure, (summary,)), ablation_findings(summary), shown)


def paired_with_published(results: pd.DataFrame) -> pd.DataFrame:
    """Every choice put right against as published, on the same seeds: the signed Spearman, by Wilcoxon's test.

    Args:
        results: One row per network, scheme, way, choice and seed.
    """
    frames = []
    for _, rows in results.groupby(["depth", "width", "scheme", "way"], sort=False):
        first, ordered = rows.iloc[0], rows.sort_values("seed")
        by_choice = {str(name): part["spearman"].to_numpy() for name, part in ordered.groupby("choice", sort=False)}
        base = by_choice.pop("as published")
        for name, values in by_choice.items():
            pair = paired_comparisons({name: values, "as published": base})
            frames.append(
                pair.assign(depth=first["depth"], width=first["width"], scheme=first["scheme"], way=first["way"])
            )
    return pd.concat(frames, ignore_index=True)


def ablation_findings(summary: pd.DataFrame) -> list[str]:
    """Per network: as published, which choice alone moves the signed Spearman most, and where all together end."""
    sentences = []
    for (depth, width, scheme), rows in summary.groupby(["depth", "width", "scheme"], sort=False):
        alone, together = (rows[rows["way"] == way] for way in WAYS)
        start = alone[alone["choice"] == "as published"].iloc[0]
        moved = alone[alone["choice"] != "as published"]
        best = moved.loc[[(moved["spearman"] - start["spearman"]).idxmax()]].iloc[0]
        steps = together["spearman"].diff()
        largest = together.loc[[steps.idxmax()]].iloc[0]
        end = together.iloc[-1]
        sentences.append(
            f"Depth {depth}, width {width}, {scheme}: signed Spearman {with_interval(start, 'spearman')} as published; "
            f"alone {best['choice']} gives most, {with_interval(best, 'spearman')}; one after the other the largest "
            f"step is {largest['choice']}, to {with_interval(largest, 'spearman')}; everything right "
            f"{with_interval(end, 'spearman')} ({int(start['repeats'])} seeds)."
        )
    return sentences


def ablation_figure(summary: pd.DataFrame) -> Figure:
    """One row of panels per network and scheme: each choice alone (left), one after the other (right)."""
    groups = list(summary.groupby(["depth", "width", "scheme"], sort=False))
    with figure_style(9):
        figure = Figure(figsize=(11, 0.6 + 2.7 * len(groups)), layout="constrained")
        panels = figure.subplots(len(groups), 2, squeeze=False, sharey=True)
        for line, ((depth, width, scheme), rows) in zip(panels, groups, strict=True):
            for axes, way in zip(line, WAYS, strict=True):
                _draw_way(axes, rows[rows["way"] == way])
                axes.set_title(f"{scheme}, depth {depth}, width {width}: corrected {way}", fontsize=9)
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
        return figure


def _draw_way(axes: Axes, rows: pd.DataFrame) -> None:
    positions = np.arange(len(rows))
    styles: Mapping[str, dict[str, Any]] = {
        "spearman": {"marker": "o", "color": "black", "label": "signed Spearman"},
        "absolute_spearman": {
            "marker": "s",
            "color": "tab:orange",
            "label": "|Spearman|, as the paper's figure has it",
        },
    }
    for shift, (column, style) in zip((-0.1, 0.1), styles.items(), strict=True):
        centre = rows[column].to_numpy()
        reach = np.abs(np.vstack([centre - rows[f"{column}_low"], rows[f"{column}_high"] - centre]))
        axes.errorbar(positions + shift, centre, yerr=np.nan_to_num(reach), capsize=2, linestyle="none", **style)
    axes.axhline(0, color="lightgray", linewidth=0.8, zorder=0)
    axes.set_ylim(-1.05, 1.1)
    axes.set_xticks(positions, [name.replace("_", " ") for name in rows["choice"]], rotation=30, ha="right")


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
