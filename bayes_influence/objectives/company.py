"""Whether an example's loss is its own: the same whatever the other examples of its batch are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bayes_influence.data.batch import Batch
from bayes_influence.objectives.objective import Objective
from bayes_influence.torch_internals import tree_map

COMPANY = 32
"""One of so many examples of a batch is evaluated in other company, too, to see that the examples do not mix."""


def company(part: Batch) -> tuple[Batch, Tensor]:
    """Some of a batch's examples, to be evaluated in other company, and where they stand in it."""
    length = len(part.targets)
    # Two at least, where there are more: some layers refuse a single example in words of their own.
    step = max(1, min(COMPANY, length // 2))
    rows = torch.arange(step - 1, length, step, device=part.targets.device)
    if len(rows) == length:
        rows = rows[:1]
    return tree_map(lambda leaf: leaf[rows], part), rows


def check_losses(
    objective: Objective,
    part: Batch,
    name: str,
    ids: Tensor,
    outputs: Any,
    few: Batch,
    rows: Tensor,
    few_outputs: Any,
) -> None:
    """Refuses losses that are not finite, or not the same for some examples in other company.

    Args:
        objective: Whose losses.
        part: A batch.
        name: What the data are called.
        ids: Of the batch's examples.
        outputs: Of the batch.
        few: Some of its examples.
        rows: Where they stand in it.
        few_outputs: Of these alone.

    Raises:
        InseparableLossError: If the likelihood was made of a loss over batches that is no mean.
        TypeError: If the targets are of another kind than the likelihood's.
        ValueError: If they do not fit it, a loss is not finite, or depends on other examples of its batch.
    """
    with torch.no_grad():
        objective.check_batch(outputs, part, name, ids)
        losses = objective.losses_of(outputs, part)
        bad = ~torch.isfinite(losses)
        if bad.any():
            raise ValueError(
                f"{name}: {int(bad.sum())} of {len(losses)} losses are not finite; check the inputs' scale, the "
                f"targets, and that the network was trained to its end"
            )
        again = objective.losses_of(few_outputs, few)
    if not close(losses[rows], again):
        worst = int((losses[rows] - again).abs().argmax())
        raise ValueError(
            f"{name}: the loss of an example depends on the other examples of its batch: "
            f"{float(losses[rows][worst]):.6g} among {len(losses)}, {float(again[worst]):.6g} among {len(rows)}. "
            f"Nothing can be said of single examples then. Look for losses over pairs, batch norm without running "
            f"statistics, means over the batch, outputs of shape (n, 1) against targets of shape (n,), or a network "
            f"that draws random numbers in evaluation mode"
        )


def close(one: Tensor, other: Tensor) -> bool:
    """Equal but for the rounding of another order of sums."""
    tolerance = torch.finfo(one.dtype).eps ** 0.5
    return one.shape == other.shape and bool(
        ((one - other).abs() <= tolerance * (one.abs() + one.abs().amax().clamp(min=1e-3))).all()
    )
