"""Influence of moving a training input, and the training-set attack that follows from it (Koh & Liang 2017)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, vmap
from tqdm.auto import tqdm

from bayes_influence.arguments import shown
from bayes_influence.curvature.kinds import CurvatureLike
from bayes_influence.data.batch import Batch
from bayes_influence.data.dataset import Dataset
from bayes_influence.forward_mode import jvp
from bayes_influence.influence.problem import FittedProblem, check_float_inputs
from bayes_influence.influence.response import make_response
from bayes_influence.objectives.derivatives import examples_of, loss_of_one
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.ways import first_way
from bayes_influence.torch_internals import tree_flatten, tree_map, tree_unflatten
from bayes_influence.training.minimum import minimum_of

Direction = Literal["increase", "decrease"]
"""What an attack does to the test loss."""

REFIT_TOLERANCE = 1e-8
"""Gradient norm of refits between steps: what the next step's signs and the test loss need, with room to spare."""

Refit = Callable[[Objective, Dataset], Objective]
"""Trains the selected parameters again on other data, warm from where the objective stands."""


def perturbation_influence(
    problem: FittedProblem, solved: Float[Tensor, "P t"], ids: int | Iterable[int] | Tensor
) -> Any:
    """-y_t' grad_x grad_theta l_i for solved systems y_t = A^-1 g_t, one per training example and test example.

    The gradient in x of the derivative of l_i along y_t: the mixed matrix is never formed. For a last layer it runs
    through the feature map too.

    Returns:
        Structured as the inputs, each leaf (t, k, ...).

    Raises:
        TypeError: If the inputs are not real numbers.
    """
    data = problem.train.at(ids).to(dtype=problem.dtype)
    check_float_inputs(data.inputs, "the influence of a perturbation")
    theta = problem.objective.layout.flatten(problem.objective.params)
    loss = loss_of_one(problem.objective)

    def slope(inputs: Any, example: Batch, direction: Tensor) -> Tensor:
        moved = replace(example, inputs=inputs)
        return -jvp(lambda at: loss(at, moved), (theta,), (direction,))[1]

    def quick() -> Any:
        one_test = vmap(grad(slope), in_dims=(0, 0, None))
        return vmap(one_test, in_dims=(None, None, 1))(data.inputs, data.batch(), solved)

    def patient() -> Any:
        each = [_mixed(loss, theta, one, solved) for one in examples_of(data.batch())]
        return tree_map(lambda *leaves: torch.stack(leaves, dim=1), *each)

    return first_way(problem.objective.network, "bends", quick, patient)


def _mixed(
    loss: Callable[[Tensor, Batch], Tensor], theta: Float[Tensor, " P"], example: Batch, solved: Float[Tensor, "P t"]
) -> Any:
    """-y_t' grad_x grad_theta l of one example, by reverse mode over reverse mode."""
    at = theta.detach().clone().requires_grad_()
    leaves, structure = tree_flatten(example.inputs)
    moved = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    with torch.enable_grad():
        value = loss(at, replace(example, inputs=tree_unflatten(moved, structure)))
        (gradient,) = torch.autograd.grad(value, at, create_graph=True)
        rows = [
            torch.autograd.grad(-(gradient * y).sum(), moved, retain_graph=True, materialize_grads=True)
            for y in solved.T
        ]
    return tree_unflatten([torch.stack(parts) for parts in zip(*rows, strict=True)], structure)


@dataclass(frozen=True, eq=False)
class TrainingSetAttack:
    """Perturbed training examples and what they did.

    Attributes:
        train: The training set with the perturbed inputs in their places.
        objective: Refitted on it.
        losses: (steps + 1,) mean test loss before the attack and after every refit.
    """

    train: Dataset
    objective: Objective
    losses: Float[Tensor, " steps_plus_1"]


def training_set_attack(
    objective: Objective,
    train: Dataset,
    test: Dataset,
    ids: int | Iterable[int] | Tensor,
    *,
    step: float,
    steps: int = 10,
    lower: float = 0.0,
    upper: float = 1.0,
    direction: Direction = "increase",
    curvature: CurvatureLike = "hessian",
    damping: str | float = 0.0,
    refit: Refit | None = None,
    progress: bool = False,
) -> TrainingSetAttack:
    """Moves some training inputs so that the test loss rises: x_i <- clip(x_i + step sign(I_pert,loss)), then refits.

    To make it fall, x_i <- clip(x_i - step sign(I_pert,loss)).

    Args:
        objective: At its fitted parameters.
        train: Training examples.
        test: The test examples whose mean loss is attacked.
        ids: Of the training examples that may be moved.
        step: Size of one step in every entry of the inputs.
        steps: How many, each with a refit.
        lower: Smallest valid input.
        upper: Largest valid input.
        direction: Whether the test loss is to `"increase"` or to `"decrease"`.
        curvature: As of `Influence`: of a whole network that stands at no minimum `"ggn"`, which cannot be indefinite.
        damping: Of the influence; none is needed at the minimum of a regularised objective, where every refit ends, and
            any shrinks effects.
        refit: How the selected parameters are trained again; Newton's method when not given, for a last layer or a few
            thousand parameters.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If the step is not positive, `lower` is not below `upper`, or the direction is neither.
        TypeError: If the inputs are not real numbers, or the refit is no function.
    """
    if not (step > 0 and steps >= 1 and lower < upper):
        raise ValueError(
            f"an attack needs step > 0, steps >= 1 and lower < upper, got {step}, {steps}, {lower}, {upper}"
        )
    if direction not in get_args(Direction):
        raise ValueError(f"direction must be one of {', '.join(get_args(Direction))}, got {direction!r}")
    signed = step if direction == "increase" else -step
    if refit is not None and not callable(refit):
        raise TypeError(f"refit must be a function of an objective and its training examples, got {shown(refit)}")
    again = partial(minimum_of, tolerance=REFIT_TOLERANCE) if refit is None else refit
    losses = [_mean_loss(objective, test)]
    for _ in tqdm(range(steps), desc="training-set attack", disable=None if progress else True):
        problem = FittedProblem(objective, train)
        slope = problem.gradients(*problem.taken(test)).mean(dim=0, keepdim=True)
        solved = make_response(problem, curvature, damping).solve(slope.T).value
        train = _moved(train, ids, perturbation_influence(problem, solved, ids), signed, (lower, upper))
        objective = again(objective, train)
        losses.append(_mean_loss(objective, test))
    return TrainingSetAttack(train, objective, torch.stack(losses))


def _moved(train: Dataset, ids: Any, influence: Any, step: float, valid: tuple[float, float]) -> Dataset:
    positions = train.positions(ids)

    def move(leaf: Tensor, slope: Tensor) -> Tensor:
        moved = leaf.clone()
        moved[positions] = (leaf[positions] + step * slope[0].sign().to(leaf.dtype)).clamp(*valid)
        return moved

    return train.with_inputs(tree_map(move, train.inputs, influence))


def _mean_loss(objective: Objective, test: Dataset) -> Tensor:
    dtype = next(iter(objective.params.values())).dtype
    with torch.no_grad():
        return objective.losses(objective.params, test.to(dtype=dtype).batch()).mean().to(torch.float64)
