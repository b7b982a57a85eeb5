"""The most influential group as eq. 18 is printed: a quadratic with the sign of eq. 16, on the ball of the L1 norm."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bayes_influence.data.dataset import Dataset
from bayes_influence.influence.directional import (
    loss_curvatures,
    loss_slopes,
    weighted_gradient,
    weighted_hessian_product,
)
from bayes_influence.influence.influence import Influence
from bayes_influence.influence.selection import largest_memberships


def project_l1_ball(u: Float[Tensor, " n"], radius: float) -> Float[Tensor, " n"]:
    """The nearest point of {sum |v_i| <= radius}, by sorting (Duchi et al. 2008)."""
    sizes = u.abs()
    if float(sizes.sum()) <= radius:
        return u
    ordered = sizes.sort(descending=True).values
    excess = (ordered.cumsum(0) - radius) / torch.arange(1, len(u) + 1, dtype=u.dtype, device=u.device)
    threshold = excess[int((ordered > excess).nonzero()[-1])]
    return u.sign() * (sizes - threshold).clamp(min=0)


def printed_effect(
    influence: Influence, solved: Float[Tensor, " P"], membership: Float[Tensor, " n"]
) -> tuple[float, Float[Tensor, " n"]]:
    """What eq. 18 maximises, and its gradient: a'v - v'Bv where the second order of a removal is a'v + v'Bv.

    With dg = -(1/n) sum v_i g_i, dH likewise, d1 = -A^-1 dg and s = A^-1 g_t:  a'v = -s'dg, v'Bv = -s'dH d1.

    Args:
        influence: Undamped, with the Hessian.
        solved: s.
        membership: v.
    """
    response, problem = influence.response, influence.problem
    parts = (problem.reduced, problem.data)
    shift = weighted_gradient(problem, -membership)
    first = -response.solve(shift).value
    turned = weighted_hessian_product(problem, -membership, solved)
    value = -solved @ shift + turned @ first
    back = response.solve(turned).value
    slopes = loss_slopes(*parts, solved + back, problem.batch_size)
    curved = loss_curvatures(*parts, solved, first, problem.batch_size)
    return float(value), (slopes - curved) / len(membership)


def printed_selection(influence: Influence, test: Dataset, size: int) -> Int[Tensor, " k"]:
    """Ids of the k largest memberships after projected-gradient ascent of eq. 18 on the L1 ball of radius k.

    One membership may exceed 1 there, so that the ascent ends on few examples; the rest of the group are those that
    stand in the order of their first-order effects.
    """
    problem = influence.problem
    slope = problem.gradients(*problem.taken(test)).mean(dim=0)
    solved = influence.response.solve(slope).value
    first = loss_slopes(problem.reduced, problem.data, solved, problem.batch_size) / len(problem.data)
    positions = largest_memberships(
        partial(printed_effect, influence, solved), lambda u: project_l1_ball(u, size), first, size
    )
    return problem.data.ids[positions]
