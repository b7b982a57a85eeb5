"""`Response`: the damped curvature of a fitted problem, and how systems with it are solved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.curvature.damping import Damping, FisherDamping, IdentityDamping, automatic_delta, fisher_metric
from bayes_influence.curvature.operators.base import DenseOperator, LinearOperator
from bayes_influence.curvature.operators.ekfac import EKFACOperator
from bayes_influence.curvature.operators.gauss_newton import EmpiricalFisherOperator, GaussNewtonOperator
from bayes_influence.curvature.operators.hessian import HessianOperator
from bayes_influence.curvature.operators.last_layer import LastLayerOperator
from bayes_influence.curvature.operators.whitened import WhitenedOperator
from bayes_influence.curvature.solvers.automatic import DENSE_SIZE, METHODS, prepare
from bayes_influence.curvature.solvers.solution import Solution
from bayes_influence.curvature.spectrum.extremes import extreme_eigenvalues
from bayes_influence.data.dataset import Dataset
from bayes_influence.influence.problem import FittedProblem
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import RHO

MakeCurvature = Callable[[Objective, Dataset], LinearOperator]
"""A kind of curvature: an operator class, or any `(objective, data) -> operator` with the regulariser inside."""

Solver = Callable[[LinearOperator, Tensor], Solution]
"""A solver of one's own: `(A, V) -> Solution`."""

CURVATURES: dict[str, MakeCurvature] = {
    "hessian": HessianOperator,
    "ggn": GaussNewtonOperator,
    "empirical-fisher": EmpiricalFisherOperator,
    "ekfac": EKFACOperator,
}
"""The kinds of curvature by name. There is no plain "fisher": the Fisher information, with targets drawn from the
model, is the Gauss-Newton matrix for the library's likelihoods; the empirical Fisher is another matrix."""

SEMIDEFINITE = ("ggn", "empirical-fisher", "ekfac")
"""Kinds without negative eigenvalues, wherever likelihood (in the outputs) and regulariser are convex."""

TRACE_PROBES = 16
"""Random signs that estimate tr(G) where P is too large for its diagonal; the error is about 1 / sqrt(16 P) of it."""


@dataclass(frozen=True, eq=False)
class Response:
    """A = C + D: curvature plus damping, and A^{-1} V.

    Attributes:
        problem: Whose curvature it is.
        n_train: n, the training examples in the mean: the problem's, or those of all processes for sharded curvature.
        curvature: Its name.
        make: How it is made, for other data too.
        damping: D.
        solver: The solver's name, or a function.
        operator: C + D, a `DenseOperator` where it is factored.
        solve: A^{-1} V for V of shape (P,) or (P, K), with what depends on A alone done.
    """

    problem: FittedProblem
    n_train: int
    curvature: str
    make: MakeCurvature
    damping: Damping
    solver: str | Solver
    operator: LinearOperator
    solve: Callable[[Tensor], Solution]

    @property
    def is_exact_hessian(self) -> bool:
        """Whether C is the Hessian of the training objective, so that higher derivatives belong to it."""
        return self.curvature == "hessian"

    def on(self, objective: Objective, data: Dataset, damping: Float[Tensor, " P"]) -> Response:
        """The same kind of curvature of another objective on other (reduced) examples, with its own damping diagonal.

        Raises:
            IndefiniteCurvatureError: If it is factored and not positive definite.
        """
        damped = _plus(self._held(self.make(objective, data)), damping)
        return replace(self, n_train=len(data), operator=damped, solve=_prepared(damped, self.solver))

    def _held(self, operator: LinearOperator) -> LinearOperator:
        return _matrix(operator) if isinstance(self.operator, DenseOperator) else operator


def make_response(
    problem: FittedProblem,
    curvature: str | MakeCurvature = "hessian",
    damping: str | float | Damping = "auto",
    solver: str | Solver = "auto",
) -> Response:
    """Builds the damped curvature of a fitted problem.

    Args:
        problem: Where it is taken.
        curvature: A key of `CURVATURES`, or a function `(objective, data) -> operator`.
        damping: `"auto"`, delta = max(1.1 max(0, -lambda_min), 0.1 tr(G)/P); a number for that delta; both in the
            problem's own metric, the Fisher information of q for variational parameters and the identity for others.
            A `Damping` is taken as it is.
        solver: `"auto"` or another name of `solvers.automatic`, or a function `(operator, rhs) -> Solution`.

    Raises:
        IndefiniteCurvatureError: If A is factored and not positive definite.
        ValueError: If a name is unknown.
        TypeError: If the damping is none of these.
    """
    name, make = _find_curvature(problem, curvature)
    if isinstance(solver, str) and solver not in METHODS:
        raise ValueError(
            f"unknown solver {solver!r}; known: {', '.join(METHODS)}, or a function (operator, rhs) -> Solution"
        )
    operator = make(problem.reduced, problem.data)
    n_train = getattr(operator, "n_train", len(problem.data))
    if _is_factored(operator, solver):
        operator = _matrix(operator)
    resolved = _find_damping(problem, name, make, operator, damping)
    damped = _plus(operator, resolved.diagonal(problem.reduced))
    return Response(problem, n_train, name, make, resolved, solver, damped, _prepared(damped, solver))


def _is_factored(operator: LinearOperator, solver: str | Solver) -> bool:
    small = operator.size <= DENSE_SIZE and not isinstance(operator, EKFACOperator)
    return solver in ("cholesky", "eigendecomposition") or (solver == "auto" and small)


def _matrix(operator: LinearOperator) -> DenseOperator:
    return operator if isinstance(operator, DenseOperator) else DenseOperator(operator.dense())


def _plus(operator: LinearOperator, damping: Float[Tensor, " P"]) -> LinearOperator:
    """A matrix stays one."""
    if isinstance(operator, DenseOperator):
        return DenseOperator(operator.matrix + torch.diag(damping))
    return operator + damping


def _prepared(operator: LinearOperator, solver: str | Solver) -> Callable[[Tensor], Solution]:
    return prepare(operator, solver) if isinstance(solver, str) else partial(solver, operator)


def hessian_of(problem: FittedProblem) -> LinearOperator:
    """The Hessian of the training objective, undamped; in closed form for a linear last layer."""
    _, make = _find_curvature(problem, "hessian")
    return make(problem.reduced, problem.data)


def _find_curvature(problem: FittedProblem, curvature: str | MakeCurvature) -> tuple[str, MakeCurvature]:
    if not isinstance(curvature, str):
        return getattr(curvature, "__name__", repr(curvature)), curvature
    if curvature not in CURVATURES:
        raise ValueError(
            f"unknown curvature {curvature!r}; known: {', '.join(CURVATURES)}, or a function (objective, data) -> "
            f"operator. The Fisher information is 'ggn'; with the observed targets it is 'empirical-fisher'"
        )
    if curvature in ("hessian", "ggn") and problem.is_linear_head:
        return curvature, LastLayerOperator
    return curvature, CURVATURES[curvature]


def is_variational(objective: Objective) -> bool:
    """Whether a selected parameter belongs to a Gaussian posterior: the mean or the log standard deviation of one."""
    return any(name.endswith(RHO) or name + RHO in objective.params for name in objective.names)


def in_own_metric(objective: Objective, delta: float) -> Damping:
    """Delta times the Fisher information of q for variational parameters, delta times the identity for others."""
    return FisherDamping(delta) if is_variational(objective) else IdentityDamping(delta)


def _find_damping(
    problem: FittedProblem,
    curvature: str,
    make: MakeCurvature,
    operator: LinearOperator,
    damping: str | float | Damping,
) -> Damping:
    if isinstance(damping, str):
        if damping != "auto":
            raise ValueError(f"damping must be 'auto', a number or a Damping, got {damping!r}")
        return in_own_metric(problem.reduced, _automatic_delta(problem, curvature, make, operator))
    if isinstance(damping, int | float):
        return in_own_metric(problem.reduced, damping)
    if not hasattr(damping, "diagonal"):
        raise TypeError(f"damping must be 'auto', a number or a Damping, got {type(damping).__name__}")
    return damping


def _automatic_delta(problem: FittedProblem, curvature: str, make: MakeCurvature, operator: LinearOperator) -> float:
    """A kind of curvature whose Gauss-Newton matrix is not `GaussNewtonOperator` has its own as `make.gauss_newton`."""
    metric = fisher_metric(problem.reduced)
    gauss_newton = operator
    if hasattr(make, "gauss_newton"):
        gauss_newton = make.gauss_newton(problem.reduced, problem.data)
    elif curvature == "hessian" and not problem.is_linear_head:
        gauss_newton = GaussNewtonOperator(problem.reduced, problem.data)
    trace = _trace(WhitenedOperator(gauss_newton, metric))
    smallest = 0.0 if curvature in SEMIDEFINITE else extreme_eigenvalues(WhitenedOperator(operator, metric)).smallest
    return automatic_delta(smallest, trace, problem.size)


def _trace(operator: LinearOperator) -> float:
    """Exact up to `DENSE_SIZE`, beyond that Hutchinson's estimate with fixed signs."""
    if operator.size <= DENSE_SIZE:
        return float(operator.trace())
    generator = torch.Generator().manual_seed(0)
    signs = 2 * torch.randint(2, (operator.size, TRACE_PROBES), generator=generator) - 1
    probes = signs.to(device=operator.device, dtype=operator.dtype)
    return float((probes * (operator @ probes)).sum() / TRACE_PROBES)
