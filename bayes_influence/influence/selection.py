"""The most influential group of a given size: relaxations of the second-order effect, greedy choices, Newton's verdict.

Basu, You & Feizi (2020, eq. 18) maximise a quadratic function of the membership v. Here it is the second-order effect
of the data weights on the mean test loss, third derivative included, in either convention; its gradient is exact, and v
lives on the capped simplex {0 <= v <= 1, sum v = k}, so that no example counts more than once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from bayes_influence.arguments import check_count, check_whole
from bayes_influence.data.dataset import Dataset
from bayes_influence.data.identities import shown_ids
from bayes_influence.influence.directional import (
    loss_curvatures,
    loss_slopes,
    third_derivative,
    weighted_gradient,
    weighted_hessian_product,
)
from bayes_influence.influence.groups import expanded_influence, shown_bend, warn_of_bend
from bayes_influence.influence.refitting import ADAPTIVE, Refitting
from bayes_influence.influence.response import Response
from bayes_influence.objectives.reweighting import Convention

logger = logging.getLogger(__name__)

MAX_STEPS = 100
"""Projected-gradient steps, or monotone improvements, at most."""

BISECTIONS = 60
"""Halvings of the interval of the simplex' multiplier: to rounding in float64."""


@dataclass(frozen=True, eq=False)
class GroupSelection:
    """A group and what its removal is predicted to do; where it was the best by refits, also what it did.

    Attributes:
        ids: (k,) of the chosen examples, ascending.
        method: What found it.
        change: Predicted change of the mean test loss, at the parameters after one Newton step (with Chebyshev's
            correction where the curvature is the Hessian).
        candidates: That change for the group of every method that was tried.
        bend: Of the prediction for the chosen group, see `GroupInfluence`: above about 0.3 it is too much for it.
        refitted: The true change for the group of every method, by refits of the selected parameters with and without
            it; empty where nothing was refitted to choose.
        untried: Why `"best"` did not try adaptive greedy and refits; empty where it did, or was not asked for.
    """

    ids: Int[Tensor, " k"]
    method: str
    change: float
    candidates: dict[str, float]
    bend: float | None = None
    refitted: dict[str, float] = field(default_factory=dict)
    untried: str = ""

    def __repr__(self) -> str:
        true = f", {self.refitted[self.method]:+.3g} by a refit" if self.refitted else ""
        among = f", the best of {len(self.candidates)}" if len(self.candidates) > 1 else ""
        rest = f"; {self.untried}" if self.untried else ""
        return (
            f"GroupSelection({len(self.ids)} training examples by {self.method}{among}: without them the mean test "
            f"loss changes by {self.change:+.3g}{shown_bend(self.bend)}{true}; ids {shown_ids(self.ids)}{rest})"
        )


@dataclass(frozen=True, eq=False)
class SecondOrderEffect:
    """The second-order effect of data weights on the mean test loss, and its exact gradient.

    With s = A^-1 g_t and d1 = -A^-1 dg:  f(dw) = -s'dg - s'dH d1 - 1/2 s'T[d1, d1], and
    df/ddw_i = 1/n [-s'g_i - s'H_i d1 + g_i'A^-1 (dH s + T[s, d1])].

    Attributes:
        response: The damped curvature at the fit.
        solved: s of shape (P,).
        sign: +1 or -1, multiplies both.
        convention: How a membership becomes data weights.
        at_once: Examples that a greedy method picks by one gradient.
    """

    response: Response
    solved: Float[Tensor, " P"]
    sign: float
    convention: Convention
    at_once: int = 1

    def weights(self, membership: Float[Tensor, " n"]) -> tuple[Float[Tensor, " n"], float]:
        """The changes dw_i of the data weights for a membership v of size m = sum v, and d dw_i / d v_i at fixed m."""
        n, m = len(membership), float(membership.sum())
        extra = m / (n - m) if self.convention == "renormalised" else 0.0
        return extra - (1 + extra) * membership, -(1 + extra)

    def __call__(self, membership: Float[Tensor, " n"]) -> tuple[float, Float[Tensor, " n"]]:
        """(f, df/dv)."""
        problem, (change, slope) = self.response.problem, self.weights(membership)
        ones = torch.ones_like(change)
        shift = weighted_gradient(problem, change)
        first = -self.response.solve(shift).value
        turned = weighted_hessian_product(problem, change, self.solved)
        bend = third_derivative(problem, ones, self.solved, first)
        value = -self.solved @ shift - turned @ first - 0.5 * bend @ first
        back = self.response.solve(turned + bend).value
        parts = (problem.reduced, problem.data)
        slopes = loss_slopes(*parts, back - self.solved, problem.batch_size)
        curved = loss_curvatures(*parts, self.solved, first, problem.batch_size)
        return self.sign * float(value), self.sign * slope * (slopes - curved) / len(change)

    def first_order(self) -> Float[Tensor, " n"]:
        """df/dv at v = 0: the removal effect of each example alone."""
        problem = self.response.problem
        return (
            self.sign * loss_slopes(problem.reduced, problem.data, self.solved, problem.batch_size) / len(problem.data)
        )


def project_capped_simplex(u: Float[Tensor, " n"], size: int) -> Float[Tensor, " n"]:
    """The nearest point of {0 <= v <= 1, sum v = k}: clip(u - tau, 0, 1), tau by bisection."""
    low, high = u.min() - 1, u.max()
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        too_many = (u - middle).clamp(0, 1).sum() > size
        low, high = torch.where(too_many, middle, low), torch.where(too_many, high, middle)
    return (u - 0.5 * (low + high)).clamp(0, 1)


def _first_order(effect: SecondOrderEffect, size: int) -> Tensor:
    return _top(effect.first_order(), size)


def _monotone(effect: SecondOrderEffect, size: int) -> Tensor:
    chosen = _first_order(effect, size)
    value, slope = effect(_indicator(chosen, like=effect.first_order()))
    for _ in range(MAX_STEPS):
        proposed = _top(slope, size)
        new_value, new_slope = effect(_indicator(proposed, like=slope))
        if not new_value > value:
            break
        chosen, value, slope = proposed, new_value, new_slope
    return chosen


def _projected_gradient(effect: SecondOrderEffect, size: int) -> Tensor:
    return largest_memberships(effect, lambda u: project_capped_simplex(u, size), effect.first_order(), size)


def largest_memberships(
    effect: Callable[[Tensor], tuple[float, Tensor]],
    project: Callable[[Tensor], Tensor],
    first: Float[Tensor, " n"],
    size: int,
) -> Int[Tensor, " k"]:
    """Positions of the k largest memberships after projected-gradient ascent; equal ones stand by first order.

    A step that gains is doubled, one that does not is quartered, until it moves no membership by a thousandth.

    Args:
        effect: `membership -> (value, gradient)`, what is maximised.
        project: To the nearest membership that is allowed.
        first: First-order effects; the ascent starts at the k largest.
        size: k.
    """
    membership = _indicator(_top(first, size), like=first)
    value, slope = effect(membership)
    step = 1 / float(slope.abs().max().clamp(min=torch.finfo(slope.dtype).tiny))
    for _ in range(MAX_STEPS):
        proposed = project(membership + step * slope)
        new_value, new_slope = effect(proposed)
        if new_value > value:
            membership, value, slope, step = proposed, new_value, new_slope, 2 * step
        else:
            step = step / 4
            if float((proposed - membership).abs().max()) < 1e-3:
                break
    return _top(membership + 1e-9 * first / first.abs().max(), size)


def _greedy(effect: SecondOrderEffect, size: int) -> Tensor:
    slope = effect.first_order()
    membership = torch.zeros_like(slope)
    for picks in _picks(size, effect.at_once):
        membership[_top(torch.where(membership > 0, -torch.inf, slope), picks)] = 1.0
        slope = effect(membership)[1]
    return membership.nonzero()[:, 0]


def _picks(size: int, at_once: int) -> list[int]:
    """How many examples each turn of a greedy method picks."""
    return [min(at_once, size - done) for done in range(0, size, at_once)]


CHEAP_METHODS: dict[str, Callable[[SecondOrderEffect, int], Tensor]] = {
    "first-order": _first_order,
    "monotone-top-k": _monotone,
    "greedy": _greedy,
    "projected-gradient": _projected_gradient,
}
"""Methods that need no refit, by name. They return positions."""

METHODS = (*CHEAP_METHODS, ADAPTIVE, "best")


def select_group(
    response: Response,
    test: Dataset,
    size: int,
    *,
    method: str = "best",
    direction: str = "increase",
    convention: Convention = "fixed",
    at_once: int = 1,
    progress: bool = False,
) -> GroupSelection:
    """The group of a given size whose removal changes the mean test loss most.

    Methods:
        `"first-order"`: the k largest removal effects.
        `"monotone-top-k"`: from there, the k largest entries of the gradient of the second-order effect, as long as the
            effect grows.
        `"greedy"`: one example after the other, by that gradient; or `at_once` of them.
        `"projected-gradient"`: ascent of the second-order effect on the capped simplex; the k largest memberships.
        `"adaptive-greedy"`: one example after the other by its removal effect, or `at_once` of them, with a refit
            (Newton's method in the selected parameters) between picks: k / at_once refits, the strong baseline.
        `"best"`: the best of all but the last, by a Newton step. In a regularised last layer, where the refits of the
            last take no more than `AFFORDABLE` operations (each 5 (n P^2 + P^3 / 3)), that is tried, too, and the best
            is the one by a refit without each group.

    Args:
        response: The damped curvature at the fit.
        test: Test examples; their mean loss is what changes.
        size: k.
        method: As above.
        direction: `"increase"` looks for the removal that raises the test loss most, `"decrease"` lowers it.
        convention: `"fixed"` or `"renormalised"`, see `groups`.
        at_once: Examples that the greedy methods pick before they look again.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If the size is out of range, a name is unknown, or the method needs second derivatives of J and the
            curvature is not its Hessian.
    """
    problem = response.problem
    _check_arguments(response, size, method, direction, convention)
    check_count(at_once=at_once)
    sign = 1.0 if direction == "increase" else -1.0
    refitting, picks = Refitting.of(response, test, convention), _picks(size, at_once)
    refitted: dict[str, float] = {}
    untried = ""
    if method == ADAPTIVE:
        found = {method: refitting.adaptive_greedy(picks, sign, progress)}
    else:
        slope = problem.gradients(*problem.taken(test)).mean(dim=0)
        effect = SecondOrderEffect(response, response.solve(slope).value, sign, convention, at_once)
        names = CHEAP_METHODS if method == "best" else [method]
        bar = tqdm(names, desc="selecting a group", unit="method", disable=None if progress else True)
        found = {name: problem.data.ids[CHEAP_METHODS[name](effect, size)] for name in bar}
    if method == "best":
        found, refitted, untried = refitting.judged(found, picks, sign, progress)
    predicted = {name: expanded_influence(response, ids, convention=convention) for name, ids in found.items()}
    changes = {name: float(one.on_loss(test).mean()) for name, one in predicted.items()}
    best = max(changes, key=lambda name: sign * (refitted or changes)[name])
    ids = found[best].sort().values
    warn_of_bend(predicted[best])
    return GroupSelection(ids, best, changes[best], changes, predicted[best].bend, refitted, untried)


def _check_arguments(response: Response, size: int, method: str, direction: str, convention: Convention) -> None:
    n = len(response.problem.data)
    check_whole(size=size)
    if not 1 <= size < n:
        raise ValueError(f"a group to select must have between 1 and {n - 1} of the {n} training examples, got {size}")
    known: Sequence[tuple[str, str, Sequence[str]]] = (
        ("method", method, METHODS),
        ("direction", direction, ("increase", "decrease")),
        ("convention", convention, get_args(Convention)),
    )
    for name, value, choices in known:
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    if method not in ("first-order", ADAPTIVE) and not response.curvature.is_exact_hessian:
        raise ValueError(
            f"method={method!r} takes second derivatives of J and needs curvature='hessian', got "
            f"{response.curvature.name!r}; use 'first-order' or '{ADAPTIVE}'"
        )


def _top(values: Float[Tensor, " n"], size: int) -> Int[Tensor, " k"]:
    return torch.argsort(values, descending=True, stable=True)[:size]


def _indicator(positions: Int[Tensor, " k"], like: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    membership = torch.zeros_like(like)
    membership[positions] = 1.0
    return membership
