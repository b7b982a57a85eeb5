"""Influence of groups: first order, second order with its third derivative, a Newton step, Chebyshev's correction.

Data weights w = 1 + dw say what a removal is, with dg = (1/n) sum_i dw_i g_i and dH = (1/n) sum_i dw_i H_i. The
group's own weights become 0; the others stay 1 ("fixed": J keeps its 1/n, as Koh & Liang 2017 have it) or become
n / (n - m) ("renormalised": the mean over the remaining examples, as Basu, You & Feizi 2020 have it). The regulariser
keeps its weight in both. The two have different retrainings as their truth.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bayes_influence.curvature.errors import IndefiniteCurvatureError, IndefiniteCurvatureWarning
from bayes_influence.data.identities import shown_ids
from bayes_influence.data.sources import as_dataset
from bayes_influence.influence.directional import (
    loss_curvatures,
    loss_slopes,
    third_derivative,
    weighted_gradient,
    weighted_hessian_product,
)
from bayes_influence.influence.problem import FittedProblem
from bayes_influence.influence.response import Response
from bayes_influence.objectives.parameters import Params
from bayes_influence.objectives.reweighting import Convention, removal_weights

logger = logging.getLogger(__name__)

LARGEST_BEND = 0.3
"""From which bend on an expansion at the fit is not to be trusted."""

ORDERS = ("auto", 1, 2, "newton", "newton-chebyshev")


@dataclass(frozen=True, eq=False)
class GroupInfluence:
    """The predicted effect of removing a group.

    Attributes:
        change: (P,) predicted change of the selected parameters, laid out as `objective.layout`.
        ids: (m,) of the removed examples.
        order: How it was predicted.
        convention: What happens to the others' weights.
        problem: Whose parameters change.
        bend: Of a Newton-Chebyshev prediction: length of Chebyshev's correction over that of the Newton step, both in
            the norm of A_w. The relative error that is left is of the order of its square; above about 0.3 the group
            is too much for an expansion at the fit, and a refit is the answer. Infinite where the remaining data's
            curvature is indefinite, so that there is no Newton step.
    """

    change: Float[Tensor, " P"]
    ids: Int[Tensor, " m"]
    order: int | str
    convention: Convention
    problem: FittedProblem
    bend: float | None = None

    def __repr__(self) -> str:
        return (
            f"GroupInfluence({len(self.ids)} training examples removed, order {self.order}, {self.convention}: the "
            f"parameters move by {float(self.change.norm()):.3g}{shown_bend(self.bend)}; ids {shown_ids(self.ids)})"
        )

    @property
    def params(self) -> Params:
        """All parameters of the network after the predicted change."""
        layout = self.problem.objective.layout
        moved = layout.flatten(self.problem.objective.params) + self.change
        return {**self.problem.objective.params, **layout.unflatten(moved)}

    def on_loss(self, test: Any, *, loss_order: int | str = "exact") -> Float[Tensor, " t"]:
        """Predicted change of every test loss, positive where the removal hurts.

        Args:
            test: Test examples.
            loss_order: Of the loss in the change d of the parameters, not of d itself: `"exact"`, the loss at the
                changed parameters minus the loss; 1, g_t'd; 2, g_t'd + 1/2 d'H_t d. The removal of a large
                group moves the parameters too far for a linear loss.

        Raises:
            ValueError: If the order is unknown.
        """
        if loss_order not in (1, 2, "exact"):
            raise ValueError(f"the order of a loss change must be 1, 2 or 'exact', got {loss_order!r}")
        tests = as_dataset(test, "the test examples").to(device=self.problem.objective.device)
        data, objective = self.problem.taken(tests)
        size = self.problem.batch_size
        if loss_order == "exact":
            flat = objective.flat
            with torch.no_grad():
                changes = [
                    flat.losses(flat.theta + self.change, batch) - flat.losses(flat.theta, batch)
                    for batch in data.batches(size)
                ]
            return torch.cat(changes)
        slopes = loss_slopes(objective, data, self.change, size)
        return (
            slopes
            if loss_order == 1
            else slopes + 0.5 * loss_curvatures(objective, data, self.change, self.change, size)
        )


def shown_bend(bend: float | None) -> str:
    """A bend and what it means, for a printed result; nothing where there is none."""
    if bend is None:
        return ""
    return f", bend {bend:.2g}{f', above {LARGEST_BEND}: take a refit' if bend > LARGEST_BEND else ''}"


def group_influence(
    response: Response, ids: Iterable[int] | Tensor, *, order: int | str = "auto", convention: Convention = "fixed"
) -> GroupInfluence:
    """Predicted change of the parameters when a group is removed together.

    With A = H + D at the fit and A_w, T_w the damped Hessian and the third derivative of J on the remaining data:

        1                   d1 = -A^-1 dg
        2                   d1 + d2, d2 = -A^-1 (dH d1 + 1/2 T[d1, d1])
        "newton"            dN = -A_w^-1 dg
        "newton-chebyshev"  dN - 1/2 A_w^-1 T_w[dN, dN]
        "auto"              the last where C is the Hessian, else a Newton step

    At a minimum A is positive definite, but A_w need not be, even for a single example: one that alone holds up the
    curvature of a direction, as those of a rare class and those with smoothed labels do. Then the fit is near no
    minimum of the remaining data, there is no Newton step, and no expansion at the fit is near the refit. `"auto"` then
    warns and expands in the data weights, to second order where C is the Hessian, else to first; the others refuse.

    Removal is epsilon = -1 in Basu, You & Feizi (2020): their eq. 17 with its sign, and with the third derivative T
    that their eq. 15 leaves out. The fit's own gradient, 0 at a minimum, is not part of dg: the prediction is the
    difference to a refit with nothing removed.

    Args:
        response: The damped curvature at the fit.
        ids: Of the group.
        order: As above. `"newton-chebyshev"` is best on convex problems at every group size.
        convention: `"fixed"` or `"renormalised"`.

    Raises:
        TypeError: If the ids are not whole numbers.
        ValueError: If the group is empty or everything, an id is unknown or named twice, order or convention is
            unknown, or second derivatives of J are asked for where the curvature is not its Hessian.
        IndefiniteCurvatureError: If a Newton step is asked for and the remaining data's curvature is not positive
            definite.
    """
    group = expanded_influence(response, ids, order=order, convention=convention)
    warn_of_bend(group)
    return group


def warn_of_bend(group: GroupInfluence) -> None:
    """Logs that an expansion does not reach as far as a group, where its bend says so."""
    if group.bend is not None and LARGEST_BEND < group.bend < float("inf"):
        logger.warning(
            "the expansion at the fit does not reach as far as removing %d example(s): bend %.2g, above %.2g the "
            "correction is no small one. Take order='newton', or refit without them (`Minimum`)",
            *(len(group.ids), group.bend, LARGEST_BEND),
        )


def expanded_influence(
    response: Response, ids: Iterable[int] | Tensor, *, order: int | str = "auto", convention: Convention = "fixed"
) -> GroupInfluence:
    """As `group_influence`, its bend left to the caller."""
    if order not in ORDERS:
        raise ValueError(f"order must be one of {', '.join(map(str, ORDERS))}, got {order!r}")
    if order in (2, "newton-chebyshev") and not response.curvature.is_exact_hessian:
        raise ValueError(
            f"order={order!r} takes further derivatives of J and needs curvature='hessian', got "
            f"{response.curvature.name!r}; use order 1 or 'newton'"
        )
    problem = response.problem
    if response.n_train != len(problem.data):
        raise ValueError(
            f"a group needs all {response.n_train} training examples in one process, this one holds "
            f"{len(problem.data)}; build the influence without sharding"
        )
    positions = problem.data.positions(ids)
    change = removal_weights(positions, convention, problem.theta.new_ones(len(problem.data)))
    taken, bend = order, None
    if order == "auto":
        taken = "newton-chebyshev" if response.curvature.is_exact_hessian else "newton"
    try:
        if taken not in (1, 2):
            step, bend = _newton_step(response, positions, change, convention, taken)
    except IndefiniteCurvatureError as error:
        if order != "auto":
            raise
        taken, bend = (2 if response.curvature.is_exact_hessian else 1), float("inf")
        warnings.warn(_no_newton_step(len(positions), taken, error), IndefiniteCurvatureWarning, stacklevel=4)
    if taken in (1, 2):
        step = reweighting_response(response, change, taken)
    return GroupInfluence(step, problem.data.ids[positions], taken, convention, problem, bend)


def _newton_step(
    response: Response,
    positions: Int[Tensor, " m"],
    change: Float[Tensor, " n"],
    convention: Convention,
    order: int | str,
) -> tuple[Float[Tensor, " P"], float | None]:
    """The step to the remaining data's minimum, with Chebyshev's correction and its bend where that is asked for."""
    problem = response.problem
    rest, slope = remaining(response, positions, convention), weighted_gradient(problem, change)
    step = -rest.solve(slope)
    if order == "newton":
        return step, None
    moment = 0.5 * third_derivative(problem, 1 + change, step, step)
    correction = -rest.solve(moment)
    return step + correction, float(((correction @ moment) / (step @ slope)).abs().sqrt())


def _no_newton_step(size: int, order: int | str, error: IndefiniteCurvatureError) -> str:
    return (
        f"without the {size} removed examples the curvature at the fit is indefinite, its smallest eigenvalue is "
        f"{error.smallest_eigenvalue:.3g}: the fit is near no minimum of the remaining data. The change is an "
        f"expansion of order {order} in the data weights and may be far off; a refit, or more damping, is the answer"
    )


def reweighting_response(response: Response, change: Float[Tensor, " n"], order: int | str = 2) -> Float[Tensor, " P"]:
    """Predicted change of the parameters when the data weights become 1 + dw, to first or second order in dw.

    d1 = -A^-1 dg, and for second order d1 - A^-1 (dH d1 + 1/2 T[d1, d1]).
    """
    problem = response.problem
    first = -response.solve(weighted_gradient(problem, change)).value
    if order == 1:
        return first
    bend = third_derivative(problem, torch.ones_like(change), first, first)
    return first - response.solve(weighted_hessian_product(problem, change, first) + 0.5 * bend).value


@dataclass(frozen=True, eq=False)
class Remaining:
    """A_w, the damped curvature of J without a group.

    With the share c = 1 ("renormalised") or (n - m)/n ("fixed"), A_w = c C_rest + s grad^2 R + D: c times the mean
    curvature of the remaining examples with s and D divided by c.

    Attributes:
        response: A_w / c.
        share: c.
    """

    response: Response
    share: float

    def solve(self, rhs: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        """A_w^-1 v."""
        return self.response.solve(rhs / self.share).value


def remaining(response: Response, positions: Int[Tensor, " m"], convention: Convention) -> Remaining:
    """The damped curvature without the examples at these positions.

    Raises:
        IndefiniteCurvatureError: If it is factored and not positive definite.
    """
    problem = response.problem
    n = len(problem.data)
    share = 1.0 if convention == "renormalised" else (n - len(positions)) / n
    rest = problem.data.without(problem.data.ids[positions])
    objective = replace(problem.reduced, regulariser_weight=problem.reduced.regulariser_weight / share)
    damping = response.damping.diagonal(problem.reduced) / share
    return Remaining(response.on(objective, rest, damping), share)
