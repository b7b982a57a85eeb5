"""How well removals of whole groups are predicted: every order against exact refits of an L2 logistic regression.

Groups of 5, 20, 40 and 60 % of the training examples, random ones and such of one class, in both conventions; changes
of the losses of all test examples, pooled over the groups of a case. The truth is Newton's method to a gradient norm of
1e-10. A cell is "Pearson, slope", the slope that of the true changes on the predicted ones through 0: above 1 where
the prediction is too small.

    python -m benchmarks.groups
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Annotated, get_args

import pandas as pd
import torch
import typer
from torch import Tensor, nn

from bayes_influence.data.dataset import Dataset
from bayes_influence.data.tables import hold_out, load_table
from bayes_influence.evaluation.agreement import agreement
from bayes_influence.influence.groups import ORDERS
from bayes_influence.influence.influence import Influence
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.objectives.reweighting import Convention
from bayes_influence.training.minimum import minimum_of

FRACTIONS = (0.05, 0.2, 0.4, 0.6)
KINDS = ("random", "same-class")


def pick(train: Dataset, fraction: float, kind: str, index: int, generator: torch.Generator) -> Tensor:
    """Ids of a random share of the training set, or of the members of one class."""
    members = torch.arange(len(train))
    if kind == "same-class":
        members = (train.targets == index % train.n_classes).nonzero()[:, 0]
    order = torch.randperm(len(members), generator=generator)
    return train.ids[members[order[: round(fraction * len(members))]]]


def refit_without(objective: Objective, train: Dataset, ids: Tensor, convention: str) -> Objective:
    """The truth of a convention: in "fixed" the regulariser weighs more against the mean of fewer examples."""
    rest = train.without(ids)
    share = len(rest) / len(train) if convention == "fixed" else 1.0
    return minimum_of(replace(objective, regulariser_weight=1 / share), rest)


def measure(
    influence: Influence, objective: Objective, test: Dataset, groups: Sequence[Tensor], convention: str
) -> dict[str, float | str]:
    """Pearson correlation and slope of every order, pooled over groups and tests, and the largest bend of a group."""
    train = influence.problem.train
    estimates: dict[int | str, list[Tensor]] = {order: [] for order in ORDERS}
    truths, bends = [], []
    before = objective.losses(objective.params, test.batch())
    for ids in groups:
        refit = refit_without(objective, train, ids, convention)
        truths.append(refit.losses(refit.params, test.batch()) - before)
        for order in ORDERS:
            found = influence.of_group(ids, order=order, convention=convention)
            estimates[order].append(found.on_loss(test))
            if found.bend is not None:
                bends.append(found.bend)
    truth, row = torch.cat(truths), {}
    for order in ORDERS:
        quality = agreement(torch.cat(estimates[order]).numpy(), truth.numpy())
        row[str(order)] = f"{quality.pearson:.3f}, {quality.slope:.2f}"
    return {**row, "largest bend": max(bends)}


def main(
    tables: Annotated[str, typer.Option(help="Data sets, separated by commas.")] = "breast-cancer,digits",
    decays: Annotated[
        str, typer.Option(help="lambda of the weight decay (lambda/2)|theta|^2.")
    ] = "0.1,0.03,0.01,0.003",
    groups: Annotated[int, typer.Option(help="Groups of each size and kind.")] = 3,
    examples: Annotated[int, typer.Option(help="Training examples, at most.")] = 500,
) -> None:
    """Prints a row per data set, decay, convention and kind of group."""
    torch.set_num_threads(1)
    rows = []
    for table, decay in product(tables.split(","), map(float, decays.split(","))):
        split = hold_out(load_table(table), seed=0)
        train = split.train.select(range(min(examples, len(split.train))))
        network = nn.Linear(train.inputs.shape[1], train.n_classes)
        objective = minimum_of(Objective(network, CrossEntropy(), WeightDecay(decay)), train)
        influence = Influence(objective, train, damping=0.0)
        for convention, kind in product(get_args(Convention), KINDS):
            generator = torch.Generator().manual_seed(0)
            chosen = [pick(train, fraction, kind, i, generator) for fraction, i in product(FRACTIONS, range(groups))]
            case = {"data": table, "decay": decay, "convention": convention, "groups": kind}
            rows.append(case | measure(influence, objective, split.test, chosen, convention))
    frame = pd.DataFrame(rows)
    print("| " + " | ".join(frame.columns) + " |\n|" + "---|" * len(frame.columns))
    for row in frame.itertuples(index=False):
        print("| " + " | ".join(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row) + " |")


if __name__ == "__main__":
    typer.run(main)
