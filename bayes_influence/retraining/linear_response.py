"""No refit but its prediction by the linearised proximal Bregman response."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bayes_influence.curvature.cost import Plan, is_quickly_built
from bayes_influence.curvature.damping import Damping, check_damping
from bayes_influence.curvature.solvers.conjugate_gradients import ConjugateGradients
from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.reduction import reduce
from bayes_influence.objectives.reweighting import Removals, as_removals
from bayes_influence.retraining.protocol import RetrainingProtocol, Trained
from bayes_influence.retraining.proximal import OWN, damping_metric, held_problem, part_of
from bayes_influence.retraining.refits import Refits
from bayes_influence.retraining.turns import refits_in_turns, repeated
from bayes_influence.training.newton import NewtonResult
from bayes_influence.training.stacked import StackedProblem
from bayes_influence.training.stacked_hessian import StackedHessian

RESPONSE_COPIES = 3
"""Of a dense Hessian, that its factor and the steps by it hold."""

DESCENT_COPIES = 10
"""Of the steps, that conjugate gradients hold."""

MOST_STEPS = 2000
"""Of conjugate gradients."""


@dataclass(frozen=True)
class LinearResponse(RetrainingProtocol):
    """Theta_hat - (G + s grad^2 R + D)^-1 (1/n) sum_i (w_i - 1) g_i: one step of damped Gauss-Newton influence.

    The linearisation of the PBRF in the data weights, and for a single example what influence predicts,
    theta_hat + (1/n) (G + D)^-1 g_i, solved from the PBRF's own Hessian: by its Cholesky factor where that is quickly
    built, and else by conjugate gradients on products with it, to a relative residual of the root of rounding. Its
    gradient norms are those of the PBRF where the step ends: what the linearisation neglects.

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
            examples = None if held.linear is not None else held.examples
            plan = response_plan(held.layout.total, examples, len(rows), times, held.start.itemsize)
            plan.check(held.start.device)
            steps = _steps(held, gradients, times, factored=is_quickly_built(held.layout.total, examples))
            ends = held.start - steps
            left, values = held.gradients(ends, held.everyone)
            norms = left.norm(dim=1)
            free = part_of(held.layout.unflatten(ends), OWN)
            return NewtonResult(free, values, norms, torch.ones_like(norms, dtype=torch.bool), 1)

        removals = as_removals(removed, len(reduction.members))
        return refits_in_turns(reduction, removals, solve, progress=progress)


def response_plan(size: int, examples: int | None, networks: int, refits: int, itemsize: int) -> Plan:
    """What the steps of all refits of some networks need.

    Args:
        size: P, of each network.
        examples: Its training examples; None for a linear last layer, whose Hessian needs no derivatives.
        networks: How many.
        refits: Of each network.
        itemsize: Bytes of a number.
    """
    if is_quickly_built(size, examples):
        way, numbers = "a dense Hessian", RESPONSE_COPIES * networks * size**2
    else:
        way, numbers = "products with their Hessian", DESCENT_COPIES * refits * size
    return Plan(
        f"the linear response in {size} parameters, by {way}",
        numbers * itemsize,
        "refit fewer parameters (parameters='last-layer')",
    )


def _steps(
    problem: StackedProblem, gradients: Float[Tensor, "M P"], refits: int, *, factored: bool
) -> Float[Tensor, "M P"]:
    """H^-1 g for every member, H that of its network's control where it stands."""
    controls, rows = problem.everyone[::refits], gradients.unflatten(0, (-1, refits))
    if factored:
        factor = torch.linalg.cholesky(problem.hessians(problem.start[controls], controls))
        return torch.cholesky_solve(rows.mT, factor).mT.flatten(0, 1)
    solver = ConjugateGradients(tolerance=torch.finfo(gradients.dtype).eps ** 0.5, max_iterations=MOST_STEPS)
    steps = torch.zeros_like(rows)
    for network, control in enumerate(controls.tolist()):
        # What pulls a control, the first row, is rounding.
        moved = rows[network].norm(dim=1) > rows[network, 0].norm()
        if moved.any():
            solved = solver.prepare(StackedHessian(problem, control))(rows[network][moved].T)
            steps[network, moved] = solved.value.T
    return steps.flatten(0, 1)
