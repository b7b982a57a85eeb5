"""No refit but its prediction by the linearised proximal Bregman response."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from bayes_influence.curvature.cost import Plan
from bayes_influence.curvature.damping import Damping, check_damping
from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.reduction import reduce
from bayes_influence.objectives.reweighting import Removals, as_removals
from bayes_influence.retraining.protocol import RetrainingProtocol, Trained
from bayes_influence.retraining.proximal import OWN, damping_metric, held_problem, part_of
from bayes_influence.retraining.refits import Refits
from bayes_influence.retraining.turns import refits_in_turns, repeated
from bayes_influence.training.newton import NewtonResult
from bayes_influence.training.stacked import StackedProblem

RESPONSE_COPIES = 3
"""Of a dense Hessian, that its factor and the steps by it hold."""


@dataclass(frozen=True)
class LinearResponse(RetrainingProtocol):
    """Theta_hat - (G + s grad^2 R + D)^-1 (1/n) sum_i (w_i - 1) g_i: one step of damped Gauss-Newton influence.

    The linearisation of the PBRF in the data weights, and for a single example what influence predicts,
    theta_hat + (1/n) (G + D)^-1 g_i, solved directly from the PBRF's own Hessian. Its gradient norms are those of the
    PBRF where the step ends: what the linearisation neglects.

    Attributes:
        damping: D: a number delta in the parameters' own metric, or a `Damping`.
    """

    damping: float | Damping
    name = "linear"

    def __post_init__(self) -> None:
        check_damping(self.damping)

    def refit(
        self, trained: Trained, train: Dataset, removed: Removals | Int[Tensor, "*E k"], *, progress: bool = False
    ) -> Refits:
        """As `RetrainingProtocol.refit`."""
        reduction = reduce(trained, train)
        objective, metric = reduction.problem.objective, damping_metric(reduction.problem, self.damping)

        def solve(problem: StackedProblem, rows: Tensor, positions: Tensor | None) -> NewtonResult:
            times = len(problem.start) // len(rows)
            held = held_problem(objective, problem, repeated(metric[rows], times), bregman=True)
            gradients, _ = held.gradients(held.start, held.everyone)
            controls = held.everyone[::times]
            Plan(
                f"the linear response in {held.layout.total} parameters, by a dense Hessian",
                RESPONSE_COPIES * len(controls) * held.layout.total**2 * held.start.itemsize,
                "refit fewer parameters (parameters='last-layer')",
            ).check(held.start.device)
            factor = torch.linalg.cholesky(held.hessians(held.start[controls], controls))
            steps = torch.cholesky_solve(gradients.unflatten(0, (-1, times)).mT, factor).mT.flatten(0, 1)
            ends = held.start - steps
            left, values = held.gradients(ends, held.everyone)
            norms = left.norm(dim=1)
            free = part_of(held.layout.unflatten(ends), OWN)
            return NewtonResult(free, values, norms, torch.ones_like(norms, dtype=torch.bool), 1)

        removals = as_removals(removed, len(reduction.members))
        return refits_in_turns(reduction, removals, solve, progress=progress)
