"""Section 5.3 of Koh & Liang: a sub-population that is almost gone from training, the rows and the feature to blame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from bayes_influence.data.dataset import Dataset, Split
from bayes_influence.data.standardisation import standardise
from bayes_influence.evaluation.agreement import agreement
from bayes_influence.experiments.papers.means import mean_table, with_interval
from bayes_influence.experiments.papers.regression import fitted_regression
from bayes_influence.experiments.papers.scaled import (
    NO_MINIMUM,
    Measured,
    ScaledCell,
    ScaledStudy,
    StudyScale,
    scaled_study,
)
from bayes_influence.experiments.papers.study import Reproduced
from bayes_influence.experiments.papers.understanding.domain_tables import TABLES, DomainTable
from bayes_influence.experiments.store.cells import CellResult
from bayes_influence.experiments.store.drawings import Drawing
from bayes_influence.experiments.store.figures import figure_style
from bayes_influence.influence.culprit import CulpritFeature, culprit_feature
from bayes_influence.influence.influence import Influence
from bayes_influence.objectives.objective import Objective
from bayes_influence.training.minimum import minimum_of

POSITIVE, NEGATIVE = 3, 1
"""Rows of the sub-population that are kept, by class: as in the paper, most are of the class that is rare in it."""

KEPT = POSITIVE + NEGATIVE

TRIES = 10
"""Choices of what is kept, until a prediction is misled."""

SHOWN_ROWS = 20
"""Training rows of the largest influence that are kept of a cell."""

MEASURES = ("effect", "true", "slope", "per_deviation")
"""What features are ordered by, its mean size over the rows: `culprit_feature`'s effects and the same by retraining;
I_pert,loss, and what it is for a standard deviation of the feature."""

STATISTICS = ("members_found", "ratio", "predicted", "true", "right_without", *(f"{name}_first" for name in MEASURES))


@dataclass(frozen=True)
class DomainMismatch(ScaledStudy):
    """Logistic regression on a table that has lost all but four rows of a sub-population; one of it that it gets wrong.

    Attributes:
        decay: lambda of the weight decay (lambda/2)|theta|^2.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    decay: float = 1e-4

    NAME: ClassVar[str] = "domain-mismatch"
    FULL_MINUTES: ClassVar[float] = 3
    SCALES: ClassVar[Mapping[str, Any]] = {
        "quick": StudyScale(repeats=2),
        "full": StudyScale(repeats=20),
    }
    PARTS: ClassVar[tuple[str, ...]] = tuple(TABLES)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive(decay=NO_MINIMUM)


def mismatched(table: DomainTable, decay: float, seed: int) -> tuple[Objective, Split]:
    """The regression on the table without most of its sub-population, its training rows, and the row that it misleads.

    Half of those that are not kept are held out of any training, to be tested on. A regression on all other rows is
    what the table says; the misled row is one that it gets right and the regression on the changed table wrong, that of
    median loss. Where there is none, others are kept.

    Args:
        table: With the sub-population.
        decay: Of the regressions.
        seed: Of what is kept.

    Raises:
        ValueError: If there are too few rows of the sub-population in a class, or none of it is ever misled.
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(TRIES):
        members = table.members[torch.randperm(len(table.members), generator=generator)]
        whole, changed = _regressions(table, members, decay)
        misled = (_right(*whole) & ~_right(*changed)).nonzero()[:, 0]
        if len(misled):
            objective, split = changed
            losses = objective.losses(objective.params, split.test.batch())[misled]
            median = int(misled[losses.argsort()[len(misled) // 2]])
            return objective, Split(split.train, split.test.select([median]))
    raise ValueError(f"{table.data.name}: no row of the sub-population is misled by the change; take less decay")


def _regressions(
    table: DomainTable, members: Tensor, decay: float
) -> tuple[tuple[Objective, Split], tuple[Objective, Split]]:
    """On the whole table and on the changed one, of whose sub-population the first rows of either class are kept."""
    data = table.data
    of_class = [members[data.targets[members] == target] for target in (0, 1)]
    if len(of_class[0]) < NEGATIVE or len(of_class[1]) < POSITIVE:
        have = [len(rows) for rows in of_class]
        raise ValueError(
            f"{data.name}: {NEGATIVE} and {POSITIVE} rows of the sub-population are kept, there are {have}"
        )
    kept = torch.cat([of_class[0][:NEGATIVE], of_class[1][:POSITIVE]])
    gone = members[~torch.isin(members, kept)]
    others = (data.inputs[:, table.column] == 0).nonzero()[:, 0]
    trained = torch.cat([others, kept, gone[1::2]]), torch.cat([others, kept])
    whole, changed = (_fitted(data, rows, gone[::2], decay) for rows in trained)
    return whole, changed


def _fitted(data: Dataset, train: Tensor, test: Tensor, decay: float) -> tuple[Objective, Split]:
    """The regression on some rows; real features are standardised on them, indicators stay as they are."""
    raw = data.select(train), data.select(test)
    indicators = ((data.inputs == 0) | (data.inputs == 1)).all(dim=0)
    parts = zip(raw, standardise(*raw), strict=True)
    split = Split(*(part.with_inputs(torch.where(indicators, part.inputs, new.inputs)) for part, new in parts))
    return fitted_regression(split.train, decay), split


def _right(objective: Objective, split: Split) -> Tensor:
    with torch.no_grad():
        return objective.outputs(objective.params, split.test.inputs).argmax(dim=1) == split.test.targets


def _loss(objective: Objective, test: Dataset) -> float:
    return float(objective.losses(objective.params, test.batch()).mean())


def retrained_effects(objective: Objective, split: Split, found: CulpritFeature) -> Float[Tensor, "k d"]:
    """The truth: the change of the test loss at the minimum when a row has the median of a feature."""
    train, before = split.train, _loss(objective, split.test)
    medians = train.inputs.median(dim=0)[0]
    changes = torch.zeros_like(found.effects)
    for index, row in enumerate(train.positions(found.ids).tolist()):
        for column in (train.inputs[row] != medians).nonzero()[:, 0].tolist():
            inputs = train.inputs.clone()
            inputs[row, column] = medians[column]
            changes[index, column] = _loss(minimum_of(objective, train.with_inputs(inputs)), split.test) - before
    return changes


def measure_mismatch(cell: ScaledCell) -> CellResult:
    """Finds the rows and the feature to blame for a wrong prediction, and retrains without either.

    Returns:
        Tables `rows`, those of the largest influence; `features`, a row for each of these rows and features; `found`,
        a single row.
    """
    table = TABLES[cell.part](cell.seed)
    objective, split = mismatched(table, cell.study.decay, cell.seed)
    train, test = split.train, split.test
    keys = {"table": cell.part, "seed": cell.seed}
    member = train.inputs[:, table.column] == 1
    influence = Influence(objective, train, damping=0.0)
    removal = influence.on_loss(test).removal[0]
    order = removal.abs().argsort(descending=True)
    rows = [
        keys
        | {"rank": rank, "example": int(train.ids[row]), "member": bool(member[row]), "removal": float(removal[row])}
        for rank, row in enumerate(order[:SHOWN_ROWS].tolist(), start=1)
    ]
    found = culprit_feature(objective, train, test, KEPT, damping=0.0)
    slopes = influence.of_perturbation(found.ids, test)[0]
    true = retrained_effects(objective, split, found)
    measures = dict(zip(MEASURES, (found.effects, true, slopes, slopes * train.inputs.std(dim=0)), strict=True))
    features = [
        keys
        | {"example": int(example), "feature": name, "indicator": column == table.column}
        | {measure: float(values[index, column]) for measure, values in measures.items()}
        for index, example in enumerate(found.ids)
        for column, name in enumerate(found.names)
    ]
    again = minimum_of(objective, train.without(found.ids))
    outcome = keys | {
        "test_example": int(test.ids[0]),
        "members_found": float(member[train.positions(found.ids)].double().mean()),
        "ratio": float(removal[member].abs().mean() / removal[~member].abs().mean()),
        "predicted": float(influence.of_group(found.ids, convention="renormalised").on_loss(test)[0]),
        "true": _loss(again, test) - _loss(objective, test),
        "right_without": float(_right(again, split)[0]),
    }
    strongest = {name: int(values.abs().mean(dim=0).argmax()) for name, values in measures.items()}
    outcome |= {f"{name}_first": float(column == table.column) for name, column in strongest.items()}
    frames = {"rows": rows, "features": features, "found": [outcome]}
    return CellResult(tables={name: pd.DataFrame(frame) for name, frame in frames.items()})


def report_mismatch(measured: Measured) -> Reproduced:
    """Draws rows, features and retraining; writes the cells' tables and their means over seeds."""
    rows, features, found = (measured.table(name) for name in ("rows", "features", "found"))
    summary = measured.written("summary", mean_table(found, ["table"], STATISTICS))
    findings = [_finding(row, features[features["table"] == row["table"]]) for _, row in summary.iterrows()]
    return measured.published(Drawing(mismatch_figure, (rows, features)), findings, summary[["table", *STATISTICS]])


def _finding(row: pd.Series, features: pd.DataFrame) -> str:
    compared = agreement(features["effect"].to_numpy(), features["true"].to_numpy())
    first = {name: f"{row[f'{name}_first']:.0%}" for name in MEASURES}
    return (
        f"{row['table']}, {row['repeats']} seeds: of the {KEPT} rows of largest influence {row['members_found']:.0%} "
        f"are of the sub-population, whose influence is {with_interval(row, 'ratio')} times that of another; without "
        f"them the loss changes by {with_interval(row, 'true')} (predicted {with_interval(row, 'predicted')}), and "
        f"{row['right_without']:.0%} of the predictions are right. The indicator is the first feature by retraining in "
        f"{first['true']}, by culprit_feature in {first['effect']}, by I_pert,loss in {first['slope']}, in standard "
        f"deviations in {first['per_deviation']}. Changes for a row and feature, predicted and true: Pearson "
        f"{compared.pearson:.3f}, slope {compared.slope:.2f}."
    )


def mismatch_figure(rows: pd.DataFrame, features: pd.DataFrame) -> Figure:
    """Per table: influence by rank, the strength of every feature, and predicted against true changes."""
    tables = list(dict.fromkeys(rows["table"]))
    with figure_style(8):
        figure = Figure(figsize=(10, 3.2 * len(tables)), layout="constrained")
        grid = figure.subplots(len(tables), 3, squeeze=False)
        for table, (left, middle, right) in zip(tables, grid, strict=True):
            of_table = features[features["table"] == table]
            _draw_rows(left, rows[rows["table"] == table])
            _draw_strengths(middle, of_table)
            _draw_changes(right, of_table)
            left.set_title(str(table))
        grid[0, 0].legend(frameon=False)
        return figure


def _draw_rows(axes: Axes, rows: pd.DataFrame) -> None:
    styles: Sequence[tuple[bool, str, str]] = ((True, "o", "#D55E00"), (False, ".", "#0072B2"))
    for member, marker, colour in styles:
        own = rows[rows["member"] == member]
        label = "of the sub-population" if member else "other rows"
        axes.plot(own["rank"], own["removal"].abs(), marker, color=colour, markersize=4, label=label)
    axes.set_yscale("log")
    axes.set_xlabel("rank of the training row")
    axes.set_ylabel("|influence of its removal|")


def _draw_strengths(axes: Axes, features: pd.DataFrame) -> None:
    sizes = features.assign(strength=features["effect"].abs())
    means = sizes.groupby("feature", sort=False)[["strength", "indicator"]].mean().sort_values("strength")
    colours = np.where(means["indicator"] > 0, "#D55E00", "#56B4E9")
    axes.barh(list(map(str, means.index)), means["strength"], color=list(colours))
    axes.set_xlabel("strength of the feature, mean over seeds")


def _draw_changes(axes: Axes, features: pd.DataFrame) -> None:
    for indicator, colour in ((False, "#56B4E9"), (True, "#D55E00")):
        own = features[features["indicator"] == indicator]
        axes.plot(own["true"], own["effect"], "o", color=colour, markersize=3, markerfacecolor="none")
    ends = [features[["true", "effect"]].min().min(), features[["true", "effect"]].max().max()]
    axes.plot(ends, ends, color="black", linewidth=0.8)
    axes.set_xlabel("true change of the test loss")
    axes.set_ylabel("predicted change")


STUDIES = (
    scaled_study(
        DomainMismatch(),
        "Koh & Liang (2017), section 5.3: a table that lost a sub-population; the rows and the feature to blame.",
        measure_mismatch,
        report_mismatch,
    ),
)
