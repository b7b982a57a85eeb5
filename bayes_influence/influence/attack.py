"""`attack`: a few training inputs moved until a prediction turns (Koh & Liang 2017, section 5.2)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm

from bayes_influence.arguments import check_at_least, check_count, check_number, check_whole
from bayes_influence.curvature.kinds import CurvatureLike
from bayes_influence.data.dataset import Dataset, check_dataset
from bayes_influence.influence.influence import Influence
from bayes_influence.influence.measurements import Margin
from bayes_influence.influence.perturbation import Direction, Refit, training_set_attack
from bayes_influence.objectives.members import check_objective
from bayes_influence.objectives.objective import Objective


@dataclass(frozen=True, eq=False)
class Attack:
    """What it took to turn a prediction, or what was not enough.

    Attributes:
        train: The training set with the moved inputs in their places.
        objective: Refitted on it.
        ids: Of the training examples that were moved, those that matter most first.
        flipped: Whether the prediction turned.
        steps: How many were taken.
        largest_move: Of any entry of any input.
    """

    train: Dataset
    objective: Objective
    ids: Int[Tensor, " k"]
    flipped: bool
    steps: int
    largest_move: float


def attack(
    objective: Objective,
    train: Dataset,
    victim: Dataset,
    count: int = 1,
    *,
    ids: int | Iterable[int] | Tensor | None = None,
    target: int | None = None,
    step: float = 0.02,
    steps: int = 20,
    lower: float = 0.0,
    upper: float = 1.0,
    curvature: CurvatureLike = "hessian",
    damping: str | float = 0.0,
    refit: Refit | None = None,
    progress: bool = False,
) -> Attack:
    """Moves the training inputs that matter most to one prediction, and refits, until the prediction turns.

    Every step is one of `training_set_attack`: x_i +- step sign(I_pert,loss), within the valid range. So no entry moves
    further than step x steps.

    Args:
        objective: Of a classifier, at its fitted parameters.
        train: Training examples, their inputs within the valid range.
        victim: The one example whose prediction, right so far, is to turn.
        count: How many training examples are moved: those with the largest mean |I_pert,loss| of an entry.
        ids: Which instead, when they are chosen already.
        target: The class that is to be predicted; any other than the victim's own when not given.
        step: Size of a step in every entry.
        steps: How many at most.
        lower: Smallest valid input.
        upper: Largest valid input.
        curvature: As of `Influence`: of a whole network that stands at no minimum `"ggn"`, which cannot be indefinite.
        damping: Of the influence; none is needed at the minimum of a regularised objective, and any shrinks effects.
        refit: As of `training_set_attack`.
        progress: Whether to show a progress bar.

    Raises:
        TypeError: If these are no objective and data sets, the likelihood is of no classes, or a number is none.
        ValueError: If the victim is not one example, or is misclassified already; if there is no such class, or it is
            the victim's own; if the valid range is none, or inputs are outside it; if there are not so many examples to
            move, or none.
    """
    check_objective(objective, "what is attacked")
    check_dataset(train, "the training examples")
    check_dataset(victim, "the victim")
    check_count(count=count, steps=steps)
    check_at_least(0, step=step)
    _check_victim(objective, victim, target)
    _check_range(train, lower, upper)
    if ids is not None and torch.as_tensor(ids).numel() == 0:
        raise ValueError("an attack moves at least one training example, got ids=[]; leave ids out to have them chosen")
    if count > len(train):
        raise ValueError(f"at most all {len(train)} training examples can be moved, got count={count}")
    aim, direction = _aim(victim, target)
    if ids is None:
        slopes = Influence(objective, train, curvature=curvature, damping=damping).of_perturbation(train.ids, aim)[0]
        ids = train.ids[slopes.abs().flatten(1).mean(dim=1).argsort(descending=True, stable=True)[:count]]
    chosen, start, taken = torch.as_tensor(ids).reshape(-1), train, 0
    for _ in tqdm(range(steps), desc="attack", disable=None if progress else True):
        moved = training_set_attack(
            objective,
            train,
            aim,
            chosen,
            step=step,
            steps=1,
            lower=lower,
            upper=upper,
            direction=direction,
            curvature=curvature,
            damping=damping,
            refit=refit,
        )
        train, objective, taken = moved.train, moved.objective, taken + 1
        if _turned(objective, aim, direction):
            break
    largest = float((train.inputs - start.inputs).abs().max())
    return Attack(train, objective, chosen, _turned(objective, aim, direction), taken, largest)


def _check_range(train: Dataset, lower: float, upper: float) -> None:
    """Refuses a range of valid inputs that is none, or that the training inputs are not in."""
    check_number(lower=lower, upper=upper)
    if not lower < upper:
        raise ValueError(f"the valid range must have lower < upper, got [{lower}, {upper}]")
    if not (train.inputs >= lower).all() or not (train.inputs <= upper).all():
        least, most = float(train.inputs.min()), float(train.inputs.max())
        raise ValueError(
            f"the training inputs lie in [{least:.4g}, {most:.4g}], outside the valid range [{lower}, {upper}]; give "
            "the range of the inputs, as lower and upper"
        )


def _aim(victim: Dataset, target: int | None) -> tuple[Dataset, Direction]:
    """The example whose loss is moved, and which way: the victim's own up, or the target's down."""
    if target is None:
        return victim, "increase"
    return replace(victim, targets=torch.full_like(victim.targets, target)), "decrease"


def _margin(objective: Objective, example: Dataset) -> float:
    return float(Margin().at(objective, example)[0])


def _turned(objective: Objective, aim: Dataset, direction: Direction) -> bool:
    margin = _margin(objective, aim)
    return margin < 0 if direction == "increase" else margin > 0


def _check_victim(objective: Objective, victim: Dataset, target: int | None) -> None:
    """Refuses what is no single, rightly classified example, and a class that it cannot be turned to."""
    if len(victim) != 1:
        raise ValueError(f"an attack turns the prediction of one example, got {len(victim)}; take victim.select([0])")
    with torch.no_grad():
        outputs = objective.outputs(objective.params, victim.to(dtype=objective.dtype).batch().inputs)
    classes, own = max(2, outputs.shape[-1]), int(victim.targets[0])  # one logit tells two classes apart
    if not 0 <= own < classes:
        raise ValueError(f"the example {int(victim.ids[0])} is of class {own}, but the network has 0 to {classes - 1}")
    if _margin(objective, victim) < 0:
        raise ValueError(
            f"the example {int(victim.ids[0])} is misclassified already: there is nothing to turn; take one that the "
            "network gets right"
        )
    if target is None:
        return
    check_whole(target=target)
    if not 0 <= target < classes or target == own:
        raise ValueError(
            f"the target must be one of the classes 0 to {classes - 1}, and not the example's own, {own}, got {target}"
        )
