"""All examples twice, in two companies, where their losses have to be the same: for what takes two passes anyway."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from math import ceil

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.data.batch import Batch
from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.closeness import check_same
from bayes_influence.objectives.objective import Objective

MOST_PARTS = 64
"""Batches into which the second order cuts the examples at least, where there are enough, so that two of one batch meet
again once in so many times at most: never, where the first order's batches are no larger."""


FEWEST_PARTS = 16
"""Where fewer batches would be worth their while, examples are evaluated alone instead."""

PART_WORK = 10_000_000
"""Parameters x targets of a batch, some multiplications and additions of a forward pass: what a batch costs beside that
is then little."""


def is_compared(objective: Objective, data: Dataset) -> bool:
    """Whether two companies of every example cost less than a pass of every example alone.

    Args:
        objective: In its selected parameters.
        data: The examples.
    """
    return _parts(objective, data) >= FEWEST_PARTS


def _parts(objective: Objective, data: Dataset) -> int:
    """Into how many batches the examples can be cut at little cost."""
    return objective.layout.total * len(data) * data.example.targets.numel() // PART_WORK


class TwoCompanies:
    """A data set's examples in order, and once more so that examples of one batch are apart.

    The second order goes in strides of n / s through the first, s at a time: two of its neighbours stand a stride
    apart, or one less, and where that is a batch or more, no two examples are together twice. Whatever makes an
    example's loss depend on others then makes it another one. Where examples are cheaply evaluated alone, see
    `is_compared`, they pass twice as they are.

    Args:
        objective: Whose losses.
        data: The n examples.
        size: Examples of a batch, in the first order; at most as many in the second.

    Attributes:
        count: Batches of the first order.
        compared: Whether the second order is another one.
    """

    def __init__(self, objective: Objective, data: Dataset, size: int) -> None:
        self._objective, self._data, self._size = objective, data, size
        self.compared = is_compared(objective, data)
        self.count = ceil(len(data) / size)
        self._shorter, self._order = size, torch.arange(len(data))
        if self.compared:
            wanted = len(data) // min(size + 1, MOST_PARTS + 1, _parts(objective, data))
            self._shorter = min(size, max(2, wanted), ceil(len(data) / 2))
            self._order = torch.argsort(self._order % max(1, len(data) // self._shorter), stable=True)
        self._first: dict[str, list[Tensor]] = {}
        self._seen: dict[str, int] = {}

    def batches(self) -> Iterator[Batch]:
        """Those of the first order, and of the second."""
        again = self._data.select(self._order) if self.compared else self._data
        return chain(self._data.batches(self._size), again.batches(self._shorter))

    def look(self, outputs: Tensor, batch: Batch) -> None:
        """Takes what the network returns for the batches, as they come.

        Args:
            outputs: Of the network.
            batch: The next one.

        Raises:
            ValueError: If a loss is another one than in the first order.
        """
        if not self.compared:
            return
        with torch.no_grad():
            losses: Float[Tensor, " B"] = self._objective.losses_of(outputs, batch).detach()
        before = self.before("loss", losses)
        if before is not None:
            check_same(before, losses, self._data.name, (min(self._size, len(self._order)), len(losses)))

    def before(self, what: str, values: Float[Tensor, " B"]) -> Float[Tensor, " B"] | None:
        """What was found of the same examples in the first order; None while that lasts.

        Args:
            what: A name; each has a value per example, and is asked for once for each batch, as they come.
            values: Of the next batch.
        """
        seen = self._seen.get(what, 0)
        self._seen[what] = seen + len(values)
        first = self._first.setdefault(what, [])
        if seen < len(self._order):
            first.append(values)
            return None
        if len(first) > 1:
            first[:] = [torch.cat(first)]
        start = seen - len(self._order)
        return first[0][self._order[start : start + len(values)].to(values.device)]
