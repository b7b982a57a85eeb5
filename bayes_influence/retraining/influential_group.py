"""`influential_group`: the k training examples whose removal moves a test loss most, and whether a refit agrees."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from bayes_influence.arguments import shown
from bayes_influence.curvature.errors import NotConvergedError
from bayes_influence.curvature.kinds import CurvatureLike
from bayes_influence.data.appearance import class_name
from bayes_influence.data.dataset import Dataset, check_dataset
from bayes_influence.data.identities import shown_ids
from bayes_influence.influence.groups import shown_bend
from bayes_influence.influence.influence import Influence
from bayes_influence.influence.score_files import FOR_A_MINIMUM
from bayes_influence.objectives.members import check_objective
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.reweighting import Convention, Removals
from bayes_influence.retraining.protocol import RetrainingProtocol
from bayes_influence.retraining.refits import loss_changes

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class InfluentialGroup:
    """A group, what its removal is predicted to do, and what it did.

    Attributes:
        ids: (k,) of the chosen training examples, ascending.
        predicted: Change of the mean test loss when they go, by one Newton step (with Chebyshev's correction where the
            curvature is the Hessian).
        true: The same by refits, None where none was asked for.
        method: What found the group.
        bend: Of the prediction, see `GroupInfluence`: above about 0.3 the group is too much for it.
        untried: Why `"best"` did not try adaptive greedy; empty where it did, or was not asked for.
    """

    ids: Int[Tensor, " k"]
    predicted: float
    true: float | None
    method: str
    bend: float | None = None
    untried: str = ""

    def __repr__(self) -> str:
        true = "" if self.true is None else f", true {self.true:+.3g}"
        rest = f"; {self.untried}" if self.untried else ""
        return (
            f"InfluentialGroup({len(self.ids)} training examples by {self.method}: without them the mean test loss is "
            f"predicted to change by {self.predicted:+.3g}{shown_bend(self.bend)}{true}; ids "
            f"{shown_ids(self.ids)}{rest})"
        )


def influential_group(
    objective: Objective,
    train: Dataset,
    test: Dataset,
    size: int,
    *,
    method: str = "best",
    direction: str = "increase",
    convention: Convention = "fixed",
    curvature: CurvatureLike = "hessian",
    damping: str | float = 0.0,
    refit: RetrainingProtocol | None = None,
) -> InfluentialGroup:
    """The group of a given size whose removal changes the mean test loss most (Basu, You & Feizi 2020, eq. 18).

    Args:
        objective: At its fitted parameters.
        train: Training examples.
        test: The examples whose mean loss the removal moves.
        size: k.
        method: How the group is searched: one of the methods of `select_group` by name, or `"best"` of them;
            `"adaptive-greedy"`, k refits, alone holds for groups of a third and more, and is among them where it is
            affordable.
        direction: `"increase"` for the group that holds the loss down most, `"decrease"` for that which holds it up.
        convention: What becomes of the mean, see `Convention`.
        curvature: As of `Influence`: of a whole network that stands at no minimum `"ggn"`, which cannot be indefinite,
            with the methods `"first-order"` and `"adaptive-greedy"`.
        damping: Of the influence; none is needed at the minimum of a regularised objective, and any shrinks effects.
        refit: How the group is really removed, `Minimum()` say, to see whether the prediction holds. It moves the
            parameters that the objective has selected: of a last layer, what the layers below would do is not in it.

    Raises:
        TypeError: If these are no objective and data sets, or the refit is no protocol.
        ValueError: If the size is none between 1 and n - 1, a name is unknown, or the group is all that there is of a
            class: no network learns that class from the rest, and no prediction of its test loss means anything.
        NotConvergedError: If the refit, or its control, stopped before its tolerance.
    """
    check_objective(objective, "what a group influences")
    check_dataset(train, "the training examples")
    check_dataset(test, "the test examples")
    if refit is not None and not isinstance(refit, RetrainingProtocol):
        raise TypeError(f"refit must be a protocol such as Minimum(), got {shown(refit)}")
    influence = Influence(objective, train, curvature=curvature, damping=damping)
    found = influence.select_group(test, size, method=method, direction=direction, convention=convention)
    if (found.refitted.get(found.method, found.change) > 0) != (direction == "increase"):
        logger.warning(
            "removing the %d examples is predicted to change the loss by %.2g, though what was looked for is to %s it: "
            "no prediction reaches as far as a group of this size; take method='adaptive-greedy', which refits",
            *(size, found.change, direction),
        )
    drift = _drift(influence, test)
    if abs(drift) >= abs(found.change):
        logger.warning(
            "the objective is at no minimum: a step to it would change the mean test loss by %.2g, removing the group "
            "by %.2g. %s",
            *(drift, found.change, FOR_A_MINIMUM),
        )
    _check_classes_left(train, found.ids)
    true = None if refit is None else _true_change(refit, objective, train, test, found.ids, convention)
    return InfluentialGroup(found.ids, found.change, true, found.method, found.bend, found.untried)


def _drift(influence: Influence, test: Dataset) -> float:
    """What a Newton step to the minimum changes of the mean test loss, nothing removed: -g_t' (C + D)^-1 grad J."""
    problem = influence.problem
    slope = problem.gradients(*problem.taken(test)).mean(dim=0)
    return -float(influence.response.solve(slope).value @ problem.gradient)


def _check_classes_left(train: Dataset, ids: Int[Tensor, " k"]) -> None:
    """Refuses a group that is all that there is of a class."""
    if train.targets.is_floating_point() or train.targets.ndim != 1:
        return
    gone = sorted(set(train.targets.unique().tolist()) - set(train.without(ids).targets.unique().tolist()))
    if gone:
        members = int((train.targets == gone[0]).sum())
        raise ValueError(
            f"{train.name}: the group of {len(ids)} examples has all {members} of class {class_name(train, gone[0])}, "
            "which nothing is learned of without them; take a smaller size"
        )


def _true_change(
    protocol: RetrainingProtocol,
    objective: Objective,
    train: Dataset,
    test: Dataset,
    ids: Int[Tensor, " k"],
    convention: Convention,
) -> float:
    refits = protocol.refit(objective, train, Removals.of_groups([ids], seeds=1, convention=convention))
    if not refits.converged.all():
        reached = float(refits.gradient_norms.max())
        raise NotConvergedError(
            f"the refit without {len(ids)} examples ended at a gradient norm of {reached:.2g}, above "
            f"its tolerance of {protocol.tolerance:.2g}; raise the weight decay, or take another protocol"
        )
    return float(torch.mean(loss_changes(refits, test.to(dtype=objective.dtype))))
