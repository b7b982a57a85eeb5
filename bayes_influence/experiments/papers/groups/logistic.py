"""Figures 1 and 2 of Basu et al.: predicted against true effects of groups on a logistic regression's test loss."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from bayes_influence.data.dataset import Dataset, Split
from bayes_influence.evaluation.agreement import agreement
from bayes_influence.experiments.papers.groups.orders import (
    AS_PRINTED,
    CHEBYSHEV,
    EQUATION_17,
    ESTIMATORS,
    FIRST,
    WITH_THIRD,
    predicted_changes,
)
from bayes_influence.experiments.papers.groups.settings import KINDS, DigitGroups, SyntheticGroups
from bayes_influence.experiments.papers.means import mean_table, with_interval
from bayes_influence.experiments.papers.regression import fitted_regression, wrong_example
from bayes_influence.experiments.papers.scaled import Measured, ScaledCell, scaled_study
from bayes_influence.experiments.papers.study import Reproduced
from bayes_influence.experiments.store.cells import CellResult
from bayes_influence.experiments.store.drawings import Drawing
from bayes_influence.experiments.store.figures import figure_style
from bayes_influence.influence.influence import Influence
from bayes_influence.objectives.members import Members
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.reweighting import Convention, Removals
from bayes_influence.retraining.minimum import Minimum
from bayes_influence.retraining.refits import loss_changes

KEYS = ("convention", "kind", "fraction", "estimator")
"""What a row of the tables is one of, besides the seed."""

STATISTICS = ("pearson", "slope", "relative_error")

POOLED = "all"
"""In the place of a fraction: groups of all sizes together."""

MARKERS = dict(zip(ESTIMATORS, "ovs^Dx", strict=True))
COLOURS = dict(zip(ESTIMATORS, ("#0072B2", "#D55E00", "#E69F00", "#CC79A7", "#56B4E9", "#009E73"), strict=True))

LARGE = 0.2
"""Share from which on the paper's second order is to gain over the first."""


def draw_group(train: Dataset, size: int, kind: str, first_class: int, generator: torch.Generator) -> Int[Tensor, " m"]:
    """Ids of a group: any examples, or those of one class and, where it does not suffice, of the classes after it.

    Args:
        train: What they are drawn from.
        size: m.
        kind: A member of `KINDS`.
        first_class: Of a coherent group.
        generator: Of the draw.

    Raises:
        ValueError: If the group would be empty, or all of the data.
    """
    if not 1 <= size < len(train):
        raise ValueError(f"a group has between 1 and {len(train) - 1} of {len(train)} examples, got {size}")
    order = torch.randperm(len(train), generator=generator)
    if kind == "coherent":
        turn = (train.targets[order] - first_class) % train.n_classes
        order = order[torch.argsort(turn, stable=True)]
    return train.ids[order[:size]]


def measure_groups(cell: ScaledCell) -> CellResult:
    """Predicts and removes every group of one kind and seed.

    Returns:
        Table `effects`: a row per convention, group and estimator.
    """
    split: Split = cell.study.split(cell.seed)
    train, size = split.train, cell.study.size
    objective = fitted_regression(train, cell.study.decay)
    test = wrong_example(objective, split.test)
    influence = Influence(objective, train, damping=0.0)
    generator = torch.Generator().manual_seed(cell.seed)
    groups = [
        draw_group(train, round(fraction * len(train)), cell.part, index % train.n_classes, generator)
        for fraction in size.fractions
        for index in range(size.groups)
    ]
    fractions = np.repeat(size.fractions, size.groups)
    rows: list[dict[str, Any]] = []
    for convention in get_args(Convention):
        true = removed(objective, train, test, groups, convention)
        for index, (group, fraction, effect) in enumerate(zip(groups, fractions, true.tolist(), strict=True)):
            predicted, bend = predicted_changes(influence, group, convention, test)
            keys = {"convention": convention, "kind": cell.part, "fraction": float(fraction), "seed": cell.seed}
            keys |= {"group": index, "size": len(group), "bend": bend, "true": effect}
            rows += [keys | {"estimator": name, "estimated": value} for name, value in predicted.items()]
    return CellResult(tables={"effects": pd.DataFrame(rows)})


def removed(
    objective: Objective, train: Dataset, test: Dataset, groups: list[Tensor], convention: Convention
) -> Tensor:
    """The truth: the change of the test loss at the minimum without each group."""
    removals = Removals.of_groups(groups, seeds=1, convention=convention)
    refits = Minimum().refit(Members.of(objective), train, removals)
    if not refits.converged.all():
        raise RuntimeError(f"{int((~refits.converged).sum())} refits did not reach their minimum; raise the decay")
    return loss_changes(refits, test)[0, :, 0]


def agreement_by_size(effects: pd.DataFrame) -> pd.DataFrame:
    """One row per convention, kind, size (and all sizes together), estimator and seed.

    `relative_error` is the median of |estimated - true| / |true|.
    """
    rows = []
    pooled = effects.assign(fraction=POOLED)
    for part in (effects, pooled):
        for keys, points in part.groupby([*KEYS, "seed"], sort=False):
            estimated, true = points["estimated"].to_numpy(), points["true"].to_numpy()
            compared = agreement(estimated, true)
            row = dict(zip((*KEYS, "seed"), keys, strict=True)) | {"groups": len(points)}
            row |= {"pearson": compared.pearson, "slope": compared.slope}
            rows.append(row | {"relative_error": float(np.median(np.abs(estimated - true) / np.abs(true)))})
    return pd.DataFrame(rows)


def report_groups(measured: Measured) -> Reproduced:
    """Draws the figure; writes the effects, their agreement and its means over seeds."""
    effects = measured.table("effects")
    by_seed = measured.written("agreement", agreement_by_size(effects))
    summary = measured.written("summary", mean_table(by_seed, KEYS, STATISTICS))
    shown = summary[summary["fraction"] == POOLED][["convention", "kind", "estimator", *STATISTICS]]
    return measured.published(Drawing(groups_figure, (effects, summary)), group_findings(summary), shown)


def group_findings(summary: pd.DataFrame) -> list[str]:
    """Per convention and kind: every estimator over all sizes, where the second order gains, and where it loses."""
    sentences = []
    for (convention, kind), rows in summary.groupby(["convention", "kind"], sort=False):
        pooled = rows[rows["fraction"] == POOLED]
        said = "; ".join(
            f"{row['estimator']} {with_interval(row, 'pearson')}, slope {with_interval(row, 'slope')}"
            for _, row in pooled.iterrows()
        )
        sentences.append(f"{kind} groups, {convention}: Pearson over all sizes: {said}.")
        errors = rows[rows["fraction"] != POOLED].pivot_table(
            index="fraction", columns="estimator", values="relative_error"
        )
        large = errors[errors.index.astype(float) >= LARGE]
        sentences.append(
            f"{kind} groups, {convention}, of {LARGE:.0%} and more: the relative error of eq. 17 is below that of "
            f"first order at {int((large[EQUATION_17] < large[FIRST]).sum())} of {len(large)} sizes, that of eqs. 9 "
            f"and 16 as printed at {int((large[AS_PRINTED] < large[FIRST]).sum())}; Newton-Chebyshev's is "
            f"{large[CHEBYSHEV].max():.2g} at most."
        )
        lost = {name: errors.index[errors[WITH_THIRD] > errors[name]] for name in (FIRST, EQUATION_17)}
        first, without = (", ".join(f"{float(size):.3g}" for size in sizes) or "no size" for sizes in lost.values())
        sentences.append(
            f"{kind} groups, {convention}, shares of the training examples at which the third derivative loses: to "
            f"first order at {first}; to eq. 17, which leaves it out, at {without}."
        )
    return sentences


def groups_figure(effects: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """In the paper's convention: estimates against refits (its figure 1), Pearson's by size (figure 2), the error."""
    chosen = effects[effects["convention"] == "renormalised"]
    means = summary[(summary["convention"] == "renormalised") & (summary["fraction"] != POOLED)]
    with figure_style(9):
        figure = Figure(figsize=(9, 10), layout="constrained")
        rows = figure.subplots(3, len(KINDS))
        for first, *others in rows[1:]:
            for axes in others:
                axes.sharey(first)
        for kind, (points, correlations, errors) in zip(KINDS, rows.T, strict=True):
            _draw_points(points, chosen[chosen["kind"] == kind])
            points.set_title(f"{kind} groups")
            of_kind = means[means["kind"] == kind]
            _draw_sizes(correlations, of_kind, "pearson", "Pearson's correlation with refits")
            _draw_sizes(errors, of_kind, "relative_error", "median of |estimated - true| / |true|")
            errors.set_yscale("log")
        figure.legend(*rows[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
        return figure


def _draw_points(axes: Axes, points: pd.DataFrame) -> None:
    for name, part in points.groupby("estimator", sort=False):
        axes.plot(
            part["true"],
            part["estimated"],
            MARKERS[str(name)],
            color=COLOURS[str(name)],
            markersize=4,
            markerfacecolor="none",
            label=str(name),
        )
    ends = [points["true"].min(), points["true"].max()]
    axes.plot(ends, ends, color="black", linewidth=0.8)
    axes.set_xlabel("true change of the test loss")
    axes.set_ylabel("estimated change of the test loss")


def _draw_sizes(axes: Axes, means: pd.DataFrame, column: str, label: str) -> None:
    for name, part in means.groupby("estimator", sort=False):
        percent = 100 * part["fraction"].astype(float)
        axes.plot(percent, part[column], MARKERS[str(name)] + "-", color=COLOURS[str(name)], markersize=4)
    axes.set_xlabel("size of the groups, % of the training examples")
    axes.set_ylabel(label)


STUDIES = (
    scaled_study(
        SyntheticGroups(),
        "Basu et al. (2020), figure 1: groups of a synthetic set, predicted and removed.",
        measure_groups,
        report_groups,
    ),
    scaled_study(
        DigitGroups(),
        "Basu et al. (2020), figure 2: groups of MNIST digits, predicted and removed.",
        measure_groups,
        report_groups,
    ),
)
