"""Some examples of every part of the data in other company, where their losses have to be what they were."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bayes_influence.data.batch import Batch
from bayes_influence.objectives.closeness import check_same, close
from bayes_influence.objectives.hidden import KeptState
from bayes_influence.objectives.objective import Objective
from bayes_influence.torch_internals import tree_leaves, tree_map

COMPANY = 32
"""One of so many examples of a batch is evaluated in other company, too."""


@dataclass(frozen=True, eq=False)
class Passed:
    """What a network made of some examples.

    Attributes:
        outputs: What it returned.
        features: What its last layer received, where that is asked for.
    """

    outputs: Any
    features: Any = None


def company(part: Batch) -> tuple[Batch, Int[Tensor, " k"]]:
    """Some of a batch's examples, to be evaluated in other company, and where they stand in it.

    Args:
        part: The batch.
    """
    length = len(part.targets)
    # Two at least, where there are more: some layers refuse a single example in words of their own.
    step = max(1, min(COMPANY, length // 2))
    rows = torch.arange(step - 1, length, step, device=part.targets.device)
    if len(rows) == length:
        rows = rows[:1]
    return tree_map(lambda leaf: leaf[rows], part), rows


@dataclass(frozen=True, eq=False)
class _Held:
    """Some of a part's examples, with what came of them in its company."""

    few: Batch
    ids: Int[Tensor, " k"]
    losses: Float[Tensor, " k"]
    features: Any
    among: int


class OtherCompany:
    """Some examples of every part, which pass once more with those of the parts before it, and must be what they were.

    As many together as half a part, `COMPANY` at most: two or three alone cost a convolutional network twice as much
    each. The first part's do not wait, so that what is wrong shows at once; nor do those of a network that keeps
    something from its calls.

    Args:
        objective: Whose losses.
        name: What the examples are called.
        call: The forward pass.
        hold: Given the last layer's inputs of a part's examples, in its company and in the other.
        kept: What the network keeps.
    """

    def __init__(
        self,
        objective: Objective,
        name: str,
        call: Callable[[Any], Passed],
        hold: Callable[[Any, Any], None],
        kept: KeptState,
    ) -> None:
        self.objective, self.name, self.call, self.hold, self.kept = objective, name, call, hold, kept
        self.waiting: list[_Held] = []
        self.most = 0

    def add(self, part: Batch, ids: Int[Tensor, " B"], losses: Float[Tensor, " B"], features: Any) -> None:
        """Takes some of a part's examples.

        Args:
            part: The examples.
            ids: Theirs.
            losses: In the part's company.
            features: What the last layer received of them, if anything.

        Raises:
            ValueError: As for `meet`.
        """
        few, rows = company(part)
        if self.waiting and forms(self.waiting[0].few) != forms(few):
            self.meet()
        self.waiting.append(_Held(few, ids[rows.to(ids.device)], losses[rows], _rows_of(features, rows), len(losses)))
        if sum(len(held.losses) for held in self.waiting) >= self.most or self.kept.changed():
            self.meet()
        self.most = min(COMPANY, len(losses) // 2)

    def meet(self) -> None:
        """Passes those that wait through the network together.

        Raises:
            ValueError: If a loss is another one, or depends on what the network keeps.
        """
        if not self.waiting:
            return
        waiting, self.waiting = self.waiting, []
        few = tree_map(lambda *leaves: torch.cat(leaves), *(held.few for held in waiting))
        passed = self.call(few.inputs)
        with torch.no_grad():
            self.objective.check_batch(passed.outputs, few, self.name, torch.cat([held.ids for held in waiting]))
            own = self.objective.losses_of(passed.outputs, few).detach()
        start = 0
        for held in waiting:
            rows = slice(start, start := start + len(held.losses))
            check_same(held.losses, own[rows], self.name, (held.among, len(own)))
            self.hold(held.features, _rows_of(passed.features, rows))
        _check_forgets(self.objective, self.kept, self.call, few, own)


def forms(examples: Any) -> list[tuple[torch.Size, torch.dtype]]:
    """Shapes and types of single examples' tensors, those of a batch or of any nesting."""
    return [(leaf.shape[1:], leaf.dtype) for leaf in tree_leaves(examples)]


def _rows_of(features: Any, rows: Tensor | slice) -> Any:
    return None if features is None else tree_map(lambda leaf: leaf.detach()[rows], features)


def _check_forgets(
    objective: Objective, kept: KeptState, call: Callable[[Any], Passed], few: Batch, losses: Tensor
) -> None:
    """Refuses a network whose losses are others once it has forgotten what it kept from the calls so far."""
    changed = kept.changed()
    if not changed:
        return
    kept.restore()
    with torch.no_grad():
        fresh = objective.losses_of(call(few.inputs).outputs, few).detach()
    if not close(losses, fresh):
        worst = int((losses - fresh).abs().argmax())
        raise ValueError(
            f"the network keeps {', '.join(changed[:3])} from its first calls, on which the losses depend: "
            f"{float(losses[worst]):.6g} after other examples, {float(fresh[worst]):.6g} on a first call. Register "
            f"what it is to keep as a buffer and set it before, in training"
        )
