"""`Response`: the damped curvature of a fitted problem, and how systems with it are solved."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import isclose

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.curvature.cost import is_quickly_built
from bayes_influence.curvature.damping import Damping, as_damping, automatic_delta, fisher_metric
from bayes_influence.curvature.kinds import CurvatureLike, as_curvature
from bayes_influence.curvature.operators.base import DenseOperator, LinearOperator
from bayes_influence.curvature.operators.kind import Curvature
from bayes_influence.curvature.operators.whitened import WhitenedOperator
from bayes_influence.curvature.solvers.registry import SolverLike, as_solver
from bayes_influence.curvature.solvers.solver import Solve, Solver
from bayes_influence.curvature.spectrum.extremes import extreme_eigenvalues
from bayes_influence.data.dataset import Dataset
from bayes_influence.influence.problem import FittedProblem
from bayes_influence.objectives.objective import Objective

TRACE_PROBES = 16
"""Random signs that estimate tr(G) where P is too large for its diagonal; the error is about 1 / sqrt(16 P) of it."""


@dataclass(frozen=True, eq=False)
class Response:
    """A = C + D: curvature plus damping, and A^{-1} V.

    Attributes:
        problem: Whose curvature it is.
        n_train: n, the training examples in the mean: the problem's, or those of all processes for sharded curvature.
        curvature: Its kind.
        damping: D.
        solver: How systems are solved.
        operator: C + D, a `DenseOperator` where it is factored.
        solve: A^{-1} V for V of shape (P,) or (P, K), with what depends on A alone done.
        warned: Measurements of which it was said that their scores stand on no minimum.
    """

    problem: FittedProblem
    n_train: int
    curvature: Curvature
    damping: Damping
    solver: Solver
    operator: LinearOperator
    solve: Solve
    warned: set[str] = field(default_factory=set, repr=False)

    @property
    def regulariser_examples(self) -> int | None:
        """The n that a KL(q || p) / n is divided by, where that is another than `n_train`; None where there is none.

        A weight s = n / n_train of the regulariser makes up for it.
        """
        objective = self.problem.objective
        stated = getattr(objective.regulariser, "n_train", None)
        if stated is None or isclose(objective.regulariser_weight * self.n_train, stated) or stated == self.n_train:
            return None
        return stated

    def on(self, objective: Objective, data: Dataset, damping: Float[Tensor, " P"]) -> Response:
        """The same kind of curvature of another objective on other (reduced) examples, with its own damping diagonal.

        Raises:
            IndefiniteCurvatureError: If it is factored and not positive definite.
        """
        operator = self.curvature.operator(objective, data, self.problem.batch_size)
        damped = _damped(_held(operator, self.solver), damping, self.solver)
        return replace(self, n_train=len(data), operator=damped, solve=self.solver.prepare(damped))


def make_response(
    problem: FittedProblem,
    curvature: CurvatureLike = "hessian",
    damping: str | float | Damping = "auto",
    solver: SolverLike = "auto",
) -> Response:
    """Builds the damped curvature of a fitted problem.

    Args:
        problem: Where it is taken.
        curvature: A kind, its name, or a function `(objective, data) -> operator`, see `as_curvature`.
        damping: `"auto"`, delta = max(1.1 max(0, -lambda_min), 0.1 tr(G)/P); a number for that delta; both in the
            problem's own metric, the Fisher information of q for variational parameters and the identity for others.
            A `Damping` is taken as it is.
        solver: A solver, its name, or a function `(operator, rhs) -> Solution`, see `as_solver`.

    Raises:
        IndefiniteCurvatureError: If A is factored and not positive definite.
        ValueError: If a name is unknown.
        TypeError: If the damping is none of these.
    """
    kind, chosen = as_curvature(curvature), as_solver(solver)
    operator = _held(kind.operator(problem.reduced, problem.data, problem.batch_size), chosen)
    resolved = _find_damping(problem, kind, operator, damping)
    damped = _damped(operator, resolved.diagonal(problem.reduced), chosen)
    n_train = kind.examples(problem.data)
    return Response(problem, n_train, kind, resolved, chosen, damped, chosen.prepare(damped))


def _held(operator: LinearOperator, solver: Solver) -> LinearOperator:
    """A matrix, made once, where the solver factors it."""
    return DenseOperator(operator.dense()) if solver.factors(operator) else operator


def _damped(operator: LinearOperator, damping: Float[Tensor, " P"], solver: Solver) -> LinearOperator:
    """A matrix stays one."""
    return DenseOperator(operator.dense() + torch.diag(damping)) if solver.factors(operator) else operator + damping


def _find_damping(
    problem: FittedProblem, kind: Curvature, operator: LinearOperator, damping: str | float | Damping
) -> Damping:
    if isinstance(damping, str):
        if damping != "auto":
            raise ValueError(f"damping must be 'auto', a number or a Damping, got {damping!r}")
        damping = _automatic_delta(problem, kind, operator)
    return as_damping(problem.reduced, damping)


def _automatic_delta(problem: FittedProblem, kind: Curvature, operator: LinearOperator) -> float:
    metric = fisher_metric(problem.reduced)
    gauss_newton = kind.gauss_newton(problem.reduced, problem.data, operator, problem.batch_size)
    trace = _trace(WhitenedOperator(gauss_newton, metric), gauss_newton.examples)
    of_semidefinite = automatic_delta(0.0, trace, problem.size)
    if kind.is_semidefinite and not _is_indefinite(operator, of_semidefinite * metric):
        return of_semidefinite
    smallest = extreme_eigenvalues(WhitenedOperator(operator, metric)).smallest
    return automatic_delta(smallest, trace, problem.size)


def _is_indefinite(operator: LinearOperator, damping: Float[Tensor, " P"]) -> bool:
    """Whether a damped matrix is not positive definite, as where a likelihood is not convex in the outputs.

    Of what is no matrix it is not known, and the solver says so.
    """
    if not isinstance(operator, DenseOperator):
        return False
    _, failed = torch.linalg.cholesky_ex(operator.dense() + torch.diag(damping))
    return bool(failed)


def _trace(operator: LinearOperator, examples: int | None) -> float:
    """Exact where the matrix is quickly built, and else Hutchinson's estimate with fixed signs."""
    if is_quickly_built(operator.size, examples):
        return float(operator.trace())
    generator = torch.Generator().manual_seed(0)
    signs = 2 * torch.randint(2, (operator.size, TRACE_PROBES), generator=generator) - 1
    probes = signs.to(device=operator.device, dtype=operator.dtype)
    return float((probes * (operator @ probes)).sum() / TRACE_PROBES)
