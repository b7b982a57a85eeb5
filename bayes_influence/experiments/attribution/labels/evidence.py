"""What the training rows say about labels: self-influence, and the rows that argue for a label and against it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bayes_influence.data.dataset import Dataset
from bayes_influence.influence.influence import Influence

SCORES = 2**25
"""Scores that are computed at a time: 256 MB in double precision. Each time where the network stands is judged anew."""


@dataclass(frozen=True, eq=False)
class LabelEvidence:
    """Ids of the training rows that argue about the labels of some examples, the strongest first; never their own.

    Attributes:
        supporting: Rows whose removal raises the loss of the example with its label: they argue for it.
        opposing: Rows whose removal lowers it: they argue against it.
        proposing: Rows whose removal raises the loss of the example with the proposed label: they argue for that.
    """

    supporting: list[list[int]]
    opposing: list[list[int]]
    proposing: list[list[int]]


def label_evidence(
    influence: Influence,
    data: Dataset,
    ids: Int[Tensor, " k"],
    proposed: Int[Tensor, " k"],
    count: int,
    witnesses: Bool[Tensor, " n"],
) -> LabelEvidence:
    """Ranks the training rows by what their removal does to the losses of examples with one label and the other.

    Args:
        influence: Of a network that was trained on all of the data.
        data: Examples of one class each.
        ids: Of the examples in question.
        proposed: The class that each of them is proposed to have.
        count: How many rows each list holds at most; rows whose removal does the opposite are on none.
        witnesses: Rows that may be named: those whose own label is beyond doubt, as wrong labels are the most
            influential of all.
    """
    found = LabelEvidence([], [], [])
    tests = max(1, SCORES // len(data))
    for start in range(0, len(ids), tests):
        part = slice(start, start + tests)
        asked = data.at(ids[part])
        as_labelled = influence.on_loss(asked).removal
        as_proposed = influence.on_loss(with_targets(asked, proposed[part])).removal
        for row, own in enumerate(ids[part].tolist()):
            others = witnesses.to(data.ids.device) & (data.ids != own)
            found.supporting.append(_strongest(as_labelled[row], data.ids, others, count))
            found.opposing.append(_strongest(-as_labelled[row], data.ids, others, count))
            found.proposing.append(_strongest(as_proposed[row], data.ids, others, count))
    return found


def with_targets(data: Dataset, targets: Tensor) -> Dataset:
    """The same examples, in memory, with other targets."""
    batch = data.batch()
    return replace(
        Dataset(batch.inputs, batch.targets, data.ids, data.name, data.feature_names, data.class_names, data.weights),
        targets=targets.to(batch.targets),
    )


def _strongest(removal: Float[Tensor, " n"], ids: Tensor, others: Tensor, count: int) -> list[int]:
    """Ids with the largest positive effects."""
    if count == 0:
        return []
    effects = torch.where(others, removal, 0.0)
    least = effects.topk(min(count, len(effects))).values[-1]  # to sort all of them takes far longer
    strong = ((effects >= least) & (effects > 0)).nonzero()[:, 0]
    order = effects[strong].argsort(descending=True, stable=True)[:count]
    return [int(ids[place]) for place in strong[order].tolist()]
