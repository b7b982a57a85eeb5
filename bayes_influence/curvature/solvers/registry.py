"""The solvers by name, the one function that parses what stands for a solver, and `solve`."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from bayes_influence.curvature.choice import chosen
from bayes_influence.curvature.operators.base import LinearOperator, as_operator
from bayes_influence.curvature.solvers.automatic import Auto
from bayes_influence.curvature.solvers.conjugate_gradients import ConjugateGradients
from bayes_influence.curvature.solvers.dense import Cholesky, Eigendecomposition
from bayes_influence.curvature.solvers.kronecker_inverse import KroneckerInverse
from bayes_influence.curvature.solvers.krylov_functions import Absolute, LowRank
from bayes_influence.curvature.solvers.lissa import LiSSA
from bayes_influence.curvature.solvers.minres import MINRES
from bayes_influence.curvature.solvers.solution import Solution
from bayes_influence.curvature.solvers.solver import CustomSolver, Solver

SOLVERS: dict[str, type[Solver]] = {
    "auto": Auto,
    "cholesky": Cholesky,
    "eigendecomposition": Eigendecomposition,
    "conjugate-gradients": ConjugateGradients,
    "minres": MINRES,
    "lissa": LiSSA,
    "low-rank": LowRank,
    "absolute": Absolute,
    "ekfac": KroneckerInverse,
}
"""Every solver by name; `"absolute"` is a heuristic for an indefinite matrix."""

SolverLike = Solver | type[Solver] | Callable[[LinearOperator, Tensor], Solution] | str
"""What stands for a solver: the solver, its class, its name, or a function `(operator, rhs) -> Solution`."""


def as_solver(solver: SolverLike) -> Solver:
    """The solver that is meant: `Cholesky()`, `Cholesky` and `"cholesky"` are the same.

    Raises:
        ValueError: If the name is unknown.
        TypeError: If it is none of these.
    """
    found = chosen(
        solver,
        Solver,  # type: ignore[type-abstract]
        SOLVERS,
        what="solver is an object such as ConjugateGradients(tolerance=1e-6)",
        function="(operator, rhs) -> Solution",
    )
    return found if isinstance(found, Solver) else CustomSolver(function=found)


def solve(
    operator: LinearOperator | Float[Tensor, "P P"], rhs: Float[Tensor, " P *K"], solver: SolverLike = "auto"
) -> Solution:
    """A^{-1} V, once; `as_solver(solver).prepare(operator)` serves further right-hand sides.

    Args:
        operator: A, with the damping inside.
        rhs: V.
        solver: A `Solver`, its class or name, or a function.

    Raises:
        IndefiniteCurvatureError: If the solver needs a positive definite A and it is not.
        NotConvergedError: If a residual stays above the tolerance and the solver's `on_failure` is `"raise"`.
    """
    return as_solver(solver).prepare(as_operator(operator))(rhs)
