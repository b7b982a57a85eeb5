"""What an ablation of the published choices says: its order, its table with paired tests, its figure and sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bayes_influence.evaluation.paired import paired_comparisons
from bayes_influence.experiments.papers.fragility.choices import AS_PUBLISHED, Choices
from bayes_influence.experiments.papers.means import mean_table, with_interval
from bayes_influence.experiments.papers.study import Reproduced, publish
from bayes_influence.experiments.store.drawings import Drawing
from bayes_influence.experiments.store.figures import figure_style
from bayes_influence.experiments.store.folder import StudyFolder

WAYS = ("alone", "together")

STATISTICS = ("spearman", "absolute_spearman", "pearson", "slope", "top_k_overlap")

LABEL = "of"
"""Column that says in words which network a row is of."""


def ways(order: Sequence[str]) -> list[tuple[str, str, Choices]]:
    """(way, choice, choices): as published, each choice put right alone, and with all before it.

    The last one together is everything right.

    Args:
        order: The choices that concern a network, in the order in which they are put right one after the other.
    """
    alone = [("alone", name, AS_PUBLISHED.correcting(name)) for name in order]
    together = [("together", name, AS_PUBLISHED.correcting(*order[: index + 1])) for index, name in enumerate(order)]
    start = [(way, "as published", AS_PUBLISHED) for way in WAYS]
    return [start[0], *alone, start[1], *together]


def report(folder: StudyFolder, name: str, results: pd.DataFrame, keys: Sequence[str]) -> Reproduced:
    """Writes `results`, `<name>.csv` (means), `<name>-pairs.csv` (paired over seeds), figure and sentences.

    Args:
        folder: Of the study.
        name: Of the study.
        results: One row per network, way, choice and seed, with the network in words in the column `LABEL`.
        keys: Columns that a network is one of, `LABEL` among them.
    """
    grouped = [*keys, "way", "choice"]
    summary = summarised(results, grouped)
    folder.write_table("results", results)
    folder.write_table(name, summary)
    folder.write_table(f"{name}-pairs", paired_with_published(results, keys))
    shown = summary[[LABEL, "way", "choice", "spearman", "absolute_spearman"]]
    return publish(folder, name, Drawing(ablation_figure, (summary,)), ablation_findings(summary), shown)


def summarised(results: pd.DataFrame, grouped: Sequence[str]) -> pd.DataFrame:
    """Means over the seeds that have a correlation, and how many have none in `undefined`.

    Args:
        results: One row per network, way, choice and seed.
        grouped: Columns that a row of means is one of.
    """
    missing = results["spearman"].isna().groupby([results[name] for name in grouped], sort=False).sum()
    return mean_table(results, grouped, STATISTICS).assign(undefined=missing.to_numpy())


def paired_with_published(results: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Every choice put right against as published, on the same seeds: the signed Spearman, by Wilcoxon's test.

    Args:
        results: One row per network, way, choice and seed.
        keys: Columns that a network is one of.
    """
    frames = []
    for _, rows in results.groupby([*keys, "way"], sort=False):
        first, ordered = rows.iloc[0], rows.sort_values("seed")
        by_choice = {str(name): part["spearman"].to_numpy() for name, part in ordered.groupby("choice", sort=False)}
        base = by_choice.pop("as published")
        for name, values in by_choice.items():
            pair = paired_comparisons({name: values, "as published": base})
            frames.append(pair.assign(**{key: first[key] for key in (*keys, "way")}))
    return pd.concat(frames, ignore_index=True)


def ablation_findings(summary: pd.DataFrame) -> list[str]:
    """Per network: as published, which choice alone moves the signed Spearman most, and where all together end.

    A correlation is undefined where estimates are no numbers (LiSSA diverged, an inverse failed) or effects are equal;
    it counts as no order then.
    """
    sentences = []
    for network, rows in summary.groupby(LABEL, sort=False):
        alone, together = (rows[rows["way"] == way] for way in WAYS)
        start = alone[alone["choice"] == "as published"].iloc[0]
        moved = alone[alone["choice"] != "as published"]
        best = moved.loc[[moved["spearman"].fillna(0).idxmax()]].iloc[0]
        steps = together["spearman"].fillna(0).diff()
        largest = together.loc[[steps.idxmax()]].iloc[0]
        end = together.iloc[-1]
        sentences.append(
            f"{network}: signed Spearman {_signed(start)} as published; alone {best['choice']} gives most, "
            f"{_signed(best)}; one after the other the largest step is {largest['choice']}, to {_signed(largest)}; "
            f"everything right {_signed(end)} ({int(start['repeats'])} seeds)."
        )
    return sentences


def _signed(row: pd.Series) -> str:
    """A mean correlation with its interval, and in how many seeds there is none."""
    missing, seeds = int(row["undefined"]), int(row["repeats"])
    if not missing:
        return with_interval(row, "spearman")
    return "undefined" if missing == seeds else f"{with_interval(row, 'spearman')} (undefined in {missing} of {seeds})"


def ablation_figure(summary: pd.DataFrame) -> Figure:
    """One row of panels per network: each choice put right alone (left), one after the other (right)."""
    groups = list(summary.groupby(LABEL, sort=False))
    with figure_style(9):
        figure = Figure(figsize=(11, 0.6 + 2.7 * len(groups)), layout="constrained")
        panels = figure.subplots(len(groups), 2, squeeze=False, sharey=True)
        for line, (network, rows) in zip(panels, groups, strict=True):
            for axes, way in zip(line, WAYS, strict=True):
                _draw_way(axes, rows[rows["way"] == way])
                axes.set_title(f"{network}: corrected {way}", fontsize=9)
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
