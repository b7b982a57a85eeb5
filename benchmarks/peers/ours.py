"""This library."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from bayes_influence.curvature.operators.base import LinearOperator
from bayes_influence.curvature.operators.ekfac import EKFAC
from bayes_influence.curvature.operators.outer_products import Fisher
from bayes_influence.curvature.solvers.conjugate_gradients import ConjugateGradients
from bayes_influence.curvature.solvers.registry import solve
from bayes_influence.curvature.solvers.solution import Solution
from bayes_influence.influence.influence import Influence
from benchmarks.peers.outcome import Outcome
from benchmarks.peers.problem import Problem


def automatic(problem: Problem) -> Outcome:
    """`Influence` as it comes: it picks its own solver, here a Cholesky factor."""
    scores = Influence(problem.objective(), problem.train(), **_settings(problem)).on_loss(problem.test())
    return Outcome(scores.values, scores.removal)


def conjugate_gradients(problem: Problem) -> Outcome:
    """Block conjugate gradients to a relative residual."""
    solutions: list[Solution] = []

    def recorded(operator: LinearOperator, rhs: Tensor) -> Solution:
        solutions.append(solve(operator, rhs, ConjugateGradients(tolerance=problem.residual)))
        return solutions[-1]

    settings = {**_settings(problem), "solver": recorded}
    scores = Influence(problem.objective(), problem.train(), **settings).on_loss(problem.test())
    solution = solutions[0]
    notes = {"iterations": solution.iterations, "own residual": float(solution.residual.max())}
    if solution.products is not None:
        notes["products"] = solution.products / len(solution.residual)
    return Outcome(scores.values, scores.removal, solution.value.T, notes)


def ekfac(problem: Problem, fisher: Fisher) -> Outcome:
    """EK-FAC and its inverse."""
    settings = {**_settings(problem), "curvature": EKFAC(fisher=fisher)}
    scores = Influence(problem.objective(), problem.train(), **settings).on_loss(problem.test())
    return Outcome(scores.values, scores.removal)


ekfac_exact = partial(ekfac, fisher="exact")
ekfac_sampled = partial(ekfac, fisher="sampled")
ekfac_empirical = partial(ekfac, fisher="empirical")


def _settings(problem: Problem) -> dict[str, Any]:
    return {
        "curvature": problem.curvature,
        "damping": problem.damping,
        "dtype": problem.dtype,
        "batch_size": problem.batch_size,
    }
