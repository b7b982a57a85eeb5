"""One entrance to all solvers, by name or by what suits the operator."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.curvature.errors import IndefiniteCurvatureError
from bayes_influence.curvature.operators.base import DampedOperator, LinearOperator, as_operator
from bayes_influence.curvature.operators.batched import DataOperator
from bayes_influence.curvature.operators.ekfac import EKFACOperator
from bayes_influence.curvature.operators.gauss_newton import GaussNewtonOperator
from bayes_influence.curvature.solvers.conjugate_gradients import (
    ADVICE,
    CG_ITERATIONS,
    CG_TOLERANCE,
    conjugate_gradients,
    run_conjugate_gradients,
)
from bayes_influence.curvature.solvers.dense import CholeskyFactor, Eigendecomposition
from bayes_influence.curvature.solvers.kronecker_inverse import ekfac_inverse
from bayes_influence.curvature.solvers.krylov_functions import absolute_inverse, low_rank
from bayes_influence.curvature.solvers.lissa import lissa
from bayes_influence.curvature.solvers.minres import minres
from bayes_influence.curvature.solvers.preconditioners import Preconditioner, nystrom_preconditioner
from bayes_influence.curvature.solvers.solution import Solution, checked

logger = logging.getLogger(__name__)

Solve = Callable[[Tensor], Solution]
"""A^{-1} V for any number of right-hand sides, with everything that depends on A alone done."""

DENSE_SIZE = 2000
"""Up to this P a matrix is built and factored: seconds, and exact."""

ITERATIVE: dict[str, Callable[..., Solution]] = {
    "conjugate-gradients": conjugate_gradients,
    "minres": minres,
    "lissa": lissa,
    "low-rank": low_rank,
    "absolute": absolute_inverse,
    "ekfac": ekfac_inverse,
}

METHODS = ("auto", "cholesky", "eigendecomposition", *ITERATIVE)
"""Every solver by name; `"absolute"` is a heuristic for an indefinite matrix."""

PLAIN_STEPS = 25
"""Steps that conjugate gradients may take before they are preconditioned."""

SKETCH_RANK, SKETCH_EXAMPLES, SKETCH_FRACTION = 100, 500, 10
"""The automatic preconditioner's rank, and its share of the data: a tenth, at least 500 examples."""

ON_INDEFINITE = ("raise", "minres", "absolute")


def solve(
    operator: LinearOperator | Float[Tensor, "P P"],
    rhs: Float[Tensor, " P *K"],
    method: str = "auto",
    *,
    on_indefinite: str = "raise",
    **options: Any,
) -> Solution:
    """A^{-1} V; see `prepare`, which serves repeated right-hand sides."""
    return prepare(operator, method, on_indefinite=on_indefinite, **options)(rhs)


def prepare(
    operator: LinearOperator | Float[Tensor, "P P"],
    method: str = "auto",
    *,
    on_indefinite: str = "raise",
    **options: Any,
) -> Solve:
    """The solver of that name for A, with its factor or whatever else depends on A alone.

    `"auto"` takes the inverse that an EK-FAC matrix has in closed form; else a float64 Cholesky factor for P <= 2000;
    else block conjugate gradients. Where A is damped curvature on a dataset and 25 steps are not enough, these go on
    preconditioned by a Nystrom approximation of the Gauss-Newton matrix of a random tenth of the data: it costs
    rank / (10 K) of a product with K vectors, and halves to quarters the steps of badly conditioned systems, where it
    would lengthen those of well conditioned ones. The solution's note says what was chosen, and why.

    Args:
        operator: A, with the damping inside.
        method: A name from `METHODS`.
        on_indefinite: What `"auto"` does where A is not positive definite: `"raise"`; `"minres"`, which solves the
            system as it stands (at a saddle there is no retraining response); `"absolute"`, |A|^{-1} V, a heuristic.
            The better ways, the Gauss-Newton matrix and more damping, are a matter of which operator is given.
        options: Further arguments of the solver: `tolerance`, `on_failure`, `max_iterations`, `preconditioner`, ...

    Raises:
        ValueError: If the method or `on_indefinite` is unknown.
        IndefiniteCurvatureError: Here by a factor, or later in the solve, if A is found not to be positive definite.
    """
    operator = as_operator(operator)
    if method not in METHODS:
        raise ValueError(f"unknown solver {method!r}; known: {', '.join(METHODS)}")
    if on_indefinite not in ON_INDEFINITE:
        raise ValueError(f"on_indefinite must be one of {', '.join(ON_INDEFINITE)}, got {on_indefinite!r}")
    if method == "auto":
        return _automatic(operator, on_indefinite, options)
    if method == "cholesky":
        factor = CholeskyFactor(operator)
        return lambda rhs: factor.solve(rhs, **options)
    if method == "eigendecomposition":
        decomposition = Eigendecomposition(operator)
        return lambda rhs: decomposition.solve(rhs, **options)
    solver = ITERATIVE[method]
    return lambda rhs: solver(operator, rhs, **options)


def _automatic(operator: LinearOperator, on_indefinite: str, options: dict[str, Any]) -> Solve:
    base = operator.base if isinstance(operator, DampedOperator) else operator
    if isinstance(base, EKFACOperator):
        return _noted(lambda rhs: ekfac_inverse(operator, rhs, **options), "EK-FAC is diagonal in its own basis")
    if operator.size <= DENSE_SIZE:
        return _direct(operator, on_indefinite, options)
    return _iterative(operator, on_indefinite, options)


def _direct(operator: LinearOperator, on_indefinite: str, options: dict[str, Any]) -> Solve:
    small = f"P = {operator.size} <= {DENSE_SIZE}"
    try:
        factor = CholeskyFactor(operator)
    except IndefiniteCurvatureError as error:
        if on_indefinite == "raise":
            raise
        decomposition = Eigendecomposition(operator)
        way = "solve" if on_indefinite == "minres" else "absolute"
        reason = f"{small} and lambda_min = {error.smallest_eigenvalue:.6g}"
        return _noted(lambda rhs: decomposition.solve(rhs, on_indefinite=way, **options), reason)
    return _noted(lambda rhs: factor.solve(rhs, **options), small)


def _iterative(operator: LinearOperator, on_indefinite: str, options: dict[str, Any]) -> Solve:
    large = f"P = {operator.size} > {DENSE_SIZE}"
    descend = conjugate_gradients if "preconditioner" in options else _AdaptiveConjugateGradients()

    def attempt(rhs: Tensor) -> Solution:
        try:
            return _noted(lambda v: descend(operator, v, **options), large)(rhs)
        except IndefiniteCurvatureError as error:
            if on_indefinite == "raise":
                raise
            allowed = {name: value for name, value in options.items() if name in ("tolerance", "on_failure")}
            reason = f"{large} and conjugate gradients met the curvature {error.smallest_eigenvalue:.6g}"
            return _noted(lambda v: ITERATIVE[on_indefinite](operator, v, **allowed), reason)(rhs)

    return attempt


class _AdaptiveConjugateGradients:
    """Conjugate gradients that build a preconditioner, once, when a system turns out to need many steps."""

    def __init__(self) -> None:
        self._preconditioner: Preconditioner | None = None
        self._is_built = False

    def __call__(
        self,
        operator: LinearOperator,
        rhs: Tensor,
        tolerance: float = CG_TOLERANCE,
        max_iterations: int = CG_ITERATIONS,
        on_failure: str = "warn",
    ) -> Solution:
        few = max_iterations if self._is_built else min(PLAIN_STEPS, max_iterations)
        solution = run_conjugate_gradients(operator, rhs, tolerance, few, self._preconditioner)
        if solution.converged or self._is_built or few == max_iterations:
            return checked(solution, on_failure, ADVICE)
        self._preconditioner, self._is_built = _sketched_preconditioner(operator), True
        further = run_conjugate_gradients(
            operator, rhs, tolerance, max_iterations - few, self._preconditioner, solution.value
        )
        note = f"after {solution.iterations} plain steps {further.note}" if further.note else ""
        iterations = solution.iterations + further.iterations
        products = (solution.products or 0) + (further.products or 0)
        return checked(replace(further, iterations=iterations, products=products, note=note), on_failure, ADVICE)


def _sketched_preconditioner(operator: LinearOperator) -> Preconditioner | None:
    """A sketch of the Gauss-Newton matrix on a part of the data; None where there are no data or no damping."""
    if not isinstance(operator, DampedOperator) or not isinstance(operator.base, DataOperator):
        return None
    if not (operator.damping > 0).all():
        return None
    objective, data = operator.base.objective, operator.base.data
    drawn = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    part = data.select(drawn[: max(SKETCH_EXAMPLES, len(data) // SKETCH_FRACTION)])
    curvature = GaussNewtonOperator(objective, part, operator.base.batch_size)
    try:
        return nystrom_preconditioner(curvature, operator.damping, SKETCH_RANK)
    except IndefiniteCurvatureError:
        logger.info("no preconditioner: the Gauss-Newton matrix is indefinite, the likelihood not convex")
        return None


def _noted(solver: Solve, reason: str) -> Solve:
    """Adds to the solution's note what was chosen, and why."""

    def noted(rhs: Tensor) -> Solution:
        solution = solver(rhs)
        note = f"auto chose {solution.method}: {reason}"
        return replace(solution, note=f"{note}; {solution.note}" if solution.note else note)

    return noted
