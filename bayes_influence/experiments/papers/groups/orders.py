"""What the paper's expansions say of a group, sign by sign, beside the steps that this library takes."""

from __future__ import annotations

from dataclasses import replace
from math import nan

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bayes_influence.curvature.errors import IndefiniteCurvatureError
from bayes_influence.data.dataset import Dataset
from bayes_influence.influence.directional import third_derivative, weighted_gradient, weighted_hessian_product
from bayes_influence.influence.groups import GroupInfluence
from bayes_influence.influence.influence import Influence
from bayes_influence.objectives.reweighting import Convention, removal_weights

FIRST = "first order"
AS_PRINTED = "second order, signs of eqs. 9 and 16"
EQUATION_17 = "second order, signs of eq. 17"
WITH_THIRD = "second order with the third derivative"
NEWTON = "Newton"
CHEBYSHEV = "Newton-Chebyshev"

ESTIMATORS = (FIRST, AS_PRINTED, EQUATION_17, WITH_THIRD, NEWTON, CHEBYSHEV)
"""By name, from the coarsest on."""


def expansions(influence: Influence, ids: Int[Tensor, " m"], convention: Convention) -> dict[str, Float[Tensor, " P"]]:
    """Changes of the parameters by the paper's expansions in the removed weights.

    With d1 = -A^-1 dg: eq. 17 is d1 - A^-1 dH d1. Eqs. 9 and 16 print the sum that belongs to adding the group once
    more, so that the second order has the opposite sign against the first. Neither has the third derivative,
    -1/2 A^-1 T[d1, d1], which a second order of these weights has.

    Args:
        influence: Undamped, with the Hessian.
        ids: The group.
        convention: What becomes of the mean.
    """
    response, problem = influence.response, influence.problem
    ones = problem.theta.new_ones(len(problem.data))
    change = removal_weights(problem.data.positions(ids), convention, ones)
    first = -response.solve(weighted_gradient(problem, change)).value
    second = -response.solve(weighted_hessian_product(problem, change, first)).value
    third = -response.solve(0.5 * third_derivative(problem, ones, first, first)).value
    return {
        FIRST: first,
        AS_PRINTED: first - second,
        EQUATION_17: first + second,
        WITH_THIRD: first + second + third,
    }


def predicted_changes(
    influence: Influence, ids: Int[Tensor, " m"], convention: Convention, test: Dataset
) -> tuple[dict[str, float], float]:
    """What every estimator predicts for the mean test loss, and the bend of the group.

    The paper's expansions are read off along the test gradient, as in the paper; the steps by the loss where they lead.
    Where the curvature without the group is not positive definite there are no steps: they and the bend are NaN.

    Args:
        influence: With the Hessian; undamped for an estimate of retraining.
        ids: The group.
        convention: What becomes of the mean.
        test: Whose loss.
    """
    first = influence.of_group(ids, order=1, convention=convention)
    found = {
        name: _mean_loss(replace(first, change=change), test, 1)
        for name, change in expansions(influence, ids, convention).items()
    }
    try:
        newton = influence.of_group(ids, order="newton", convention=convention)
        stepped = influence.of_group(ids, order="newton-chebyshev", convention=convention)
    except IndefiniteCurvatureError:
        return found | {NEWTON: nan, CHEBYSHEV: nan}, nan
    found |= {NEWTON: _mean_loss(newton, test, "exact"), CHEBYSHEV: _mean_loss(stepped, test, "exact")}
    assert stepped.bend is not None
    return found, stepped.bend


def _mean_loss(group: GroupInfluence, test: Dataset, order: int | str) -> float:
    return float(torch.mean(group.on_loss(test, loss_order=order)))
