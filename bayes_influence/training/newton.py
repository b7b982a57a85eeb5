"""Newton's method for many small problems at once: the polish after a training, and the refits of a last layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from bayes_influence.objectives.parameters import Params
from bayes_influence.training.stacked import StackedProblem

STALE_CONTRACTION = 0.1
"""A kept Hessian is renewed when a step shrinks the gradient by less than this factor."""

SMALLEST_DAMPING, LARGEST_DAMPING = 1e-10, 1e12
"""Levenberg-Marquardt damping, relative to the mean curvature: off below, given up above."""

STALL = 15
"""A member is given up when so many trial steps in turn lower neither its gradient norm by a tenth nor J by a
millionth: at that pace those that are left reach no tolerance. Where J jumps (behind first-order moments of an
activation whose slope does) no step helps."""

STEEPER = 100
"""A member is given up, too, where J has fallen by more than 1 + |J| of the start and its gradient is so many times as
long as there: it walks down to where J has no minimum, as a proximal Bregman response may, a Hessian for every step. A
J that is nowhere negative cannot fall so far."""


@dataclass(frozen=True, eq=False)
class NewtonResult:
    """Where the minimisations ended.

    Attributes:
        free: The stacked free parameters, (M, ...) each.
        values: (M,) J at the end.
        gradient_norms: (M,) Euclidean norm of grad J in the free parameters.
        converged: (M,) whether that norm is at most the tolerance.
        iterations: Steps taken, of the member that took most.
    """

    free: Params
    values: Float[Tensor, " M"]
    gradient_norms: Float[Tensor, " M"]
    converged: Bool[Tensor, " M"]
    iterations: int


def joined(results: list[NewtonResult]) -> NewtonResult:
    """The results of several minimisations as those of one."""
    return NewtonResult(
        free={name: torch.cat([one.free[name] for one in results]) for name in results[0].free},
        values=torch.cat([one.values for one in results]),
        gradient_norms=torch.cat([one.gradient_norms for one in results]),
        converged=torch.cat([one.converged for one in results]),
        iterations=max(one.iterations for one in results),
    )


def steps_bar(progress: bool) -> tqdm[NoReturn]:
    """A bar over the steps of a minimisation, whose number nobody knows before."""
    return tqdm(desc="to the minimum", unit="step", disable=None if progress else True)


class _Descent:
    """State of a batched Levenberg-Marquardt descent; plain Newton wherever the Hessian allows it."""

    def __init__(self, problem: StackedProblem, hessians: Float[Tensor, "M P P"] | None) -> None:
        self.problem = problem
        self.theta = problem.start.clone()
        everyone = problem.everyone
        self.gradient, self.value = problem.gradients(self.theta, everyone)
        self.norm = self.gradient.norm(dim=1)
        self.hessian = problem.hessians(self.theta, everyone) if hessians is None else hessians.clone()
        self.stale = torch.full_like(self.norm, hessians is not None, dtype=torch.bool)
        self.renew = torch.zeros_like(self.stale)
        self.factor, self.factored = self.hessian.new_empty(0), torch.zeros_like(self.stale)
        self.damping = torch.zeros_like(self.norm)
        self.given_up = ~torch.isfinite(self.norm)
        self.trials = torch.zeros_like(self.norm)
        self.mark_value, self.mark_norm = self.value.clone(), self.norm.clone()
        self.bottom, self.steepest = self.value - 1 - self.value.abs(), STEEPER * self.norm

    def _renewed(self, members: Int[Tensor, " k"]) -> None:
        due = members[self.renew[members]]
        if len(due):
            self.hessian[due] = self.problem.hessians(self.theta[due], due)
            self.renew[due], self.stale[due], self.factored[due] = False, False, False

    def _newton_step(self, members: Int[Tensor, " k"]) -> Float[Tensor, "k P"]:
        due = members[~self.factored[members]]
        if len(due):
            self._factor(due)
        factor = self.factor if len(members) == len(self.theta) else self.factor[members]
        return -torch.cholesky_solve(self.gradient[members].unsqueeze(2), factor).squeeze(2)

    def _factor(self, members: Int[Tensor, " k"]) -> None:
        """Cholesky factors of the Hessians, damped as far as they have none without; kept as long as both stay."""
        matrices, damping = self.hessian[members], self.damping[members]
        diagonal = torch.linalg.diagonal(matrices)
        own, scale = diagonal.clone(), diagonal.abs().mean(1)
        while True:
            diagonal.copy_(own + (damping * scale)[:, None])
            factor, info = torch.linalg.cholesky_ex(matrices)
            failed = (info > 0) & (damping < LARGEST_DAMPING)
            if not failed.any():
                break
            damping = torch.where(failed, (damping * 10).clamp(min=1e-6), damping)
        self.damping[members], self.factored[members] = damping, True
        self.given_up[members[info > 0]] = True
        if len(members) == len(self.theta):
            self.factor = factor
            return
        if not self.factor.numel():
            self.factor = torch.empty_like(self.hessian)
        self.factor[members] = factor

    def step(self, members: Int[Tensor, " k"]) -> None:
        """One trial step of the given members, taken where it lowers J (or, at rounding level, the gradient)."""
        self._renewed(members)
        trial = self.theta[members] + self._newton_step(members)
        gradient, value = self.problem.gradients(trial, members)
        norm = gradient.norm(dim=1)
        old_value, old_norm = self.value[members], self.norm[members]
        rounding = 1e-13 * (1 + old_value.abs())
        lower = (value < old_value - rounding) | ((value <= old_value + rounding) & (norm < old_norm))
        taken = lower & torch.isfinite(norm)
        slow = ~taken | (norm > STALE_CONTRACTION * old_norm)
        self.renew[members] = (taken | self.stale[members]) & slow
        damping = self.damping[members]
        raised = torch.where(self.stale[members], damping, (damping * 10).clamp(min=1e-6))
        lowered = torch.where(damping / 10 < SMALLEST_DAMPING, 0.0, damping / 10)
        self.damping[members] = torch.where(taken, lowered, raised)
        self.factored[members] &= self.damping[members] == damping
        self.given_up[members] |= self.damping[members] > LARGEST_DAMPING
        moved = members[taken]
        self.theta[moved], self.gradient[moved] = trial[taken], gradient[taken]
        self.value[moved], self.norm[moved] = value[taken], norm[taken]
        self.stale[moved] = True
        self._give_up_where_stalled(members)
        self.given_up |= (self.value < self.bottom) & (self.norm > self.steepest)

    def _give_up_where_stalled(self, members: Int[Tensor, " k"]) -> None:
        """Gives up members that have made no progress since they were marked, and marks those that have."""
        self.trials[members] += 1
        fallen = self.mark_value[members] - self.value[members] > 1e-6 * (1 + self.mark_value[members].abs())
        moved = members[fallen | (self.norm[members] < 0.9 * self.mark_norm[members])]
        self.mark_value[moved], self.mark_norm[moved], self.trials[moved] = self.value[moved], self.norm[moved], 0.0
        self.given_up[members] |= self.trials[members] >= STALL


def minimise_newton(
    problem: StackedProblem,
    *,
    tolerance: float = 1e-10,
    max_iterations: int = 100,
    hessians: Float[Tensor, "M P P"] | None = None,
    progress: bool = False,
) -> NewtonResult:
    """Minimises J of every member in its free parameters, each to the stated gradient norm.

    Newton's method with Cholesky solves; Levenberg-Marquardt damping where a Hessian is not positive definite or a
    step does not lower J; a Hessian is kept as long as the gradient shrinks tenfold per step. Members are independent,
    and one that makes no progress is given up (`STALL`), and one that walks away without end (`STEEPER`).

    Args:
        problem: The members.
        tolerance: Gradient norm at which a member is done.
        max_iterations: Trial steps per member.
        hessians: Hessians to start from, e.g. of the fit whose removals are refitted; computed when not given.
        progress: Whether to show a progress bar over trial steps, with the largest gradient norm.

    Returns:
        The result; a member that did not reach the tolerance is marked in `converged`, and its norm says how far it
        came. Nothing is raised: an unregularised loss on separable data has its optimum at infinity.
    """
    with torch.no_grad(), steps_bar(progress) as bar:
        descent = _Descent(problem, hessians)
        iteration = 0
        for iteration in range(max_iterations + 1):
            open_members = ((descent.norm > tolerance) & ~descent.given_up).nonzero()[:, 0]
            if len(open_members) == 0 or iteration == max_iterations:
                break
            descent.step(open_members)
            bar.update()
            bar.set_postfix_str(f"gradient norm {float(descent.norm.max()):.1e}", refresh=False)
    return NewtonResult(
        free=problem.layout.unflatten(descent.theta),
        values=descent.value,
        gradient_norms=descent.norm,
        converged=descent.norm <= tolerance,
        iterations=iteration,
    )
