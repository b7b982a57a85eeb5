"""The solver that suits the operator."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from torch import Tensor

from bayes_influence.curvature.cost import DENSE_SIZE, is_quickly_built
from bayes_influence.curvature.errors import IndefiniteCurvatureError
from bayes_influence.curvature.operators.base import LinearOperator
from bayes_influence.curvature.solvers.conjugate_gradients import (
    ADVICE,
    ConjugateGradients,
    run_conjugate_gradients,
)
from bayes_influence.curvature.solvers.dense import Cholesky, Eigendecomposition
from bayes_influence.curvature.solvers.kronecker_inverse import KroneckerInverse
from bayes_influence.curvature.solvers.krylov_functions import Absolute
from bayes_influence.curvature.solvers.minres import MINRES
from bayes_influence.curvature.solvers.preconditioners import Preconditioner, nystrom_preconditioner
from bayes_influence.curvature.solvers.solution import Solution, checked
from bayes_influence.curvature.solvers.solver import Solve, Solver

logger = logging.getLogger(__name__)

OnIndefinite = Literal["raise", "minres", "absolute"]
"""What `Auto` does where A is not positive definite."""

PLAIN_STEPS = 25
"""Steps that conjugate gradients may take before they are preconditioned."""

SKETCH_RANK, SKETCH_EXAMPLES, SKETCH_FRACTION = 100, 500, 10
"""The automatic preconditioner's rank, and its share of the data: a tenth, at least 500 examples."""


@dataclass(frozen=True, kw_only=True)
class Auto(Solver):
    """What suits the operator; the solution's note says what that was, and why.

    The inverse that an EK-FAC matrix has in closed form; else a float64 Cholesky factor for P <= 2000, unless P
    products with all examples are more than 1e13 operations; else block conjugate gradients. Where A is damped
    curvature on a dataset and 25 steps are not enough, these go on
    preconditioned by a Nystrom approximation of the Gauss-Newton matrix of a random tenth of the data: it costs
    rank / (10 K) of a product with K vectors, and halves to quarters the steps of badly conditioned systems, where it
    would lengthen those of well conditioned ones.

    Attributes:
        tolerance: Bound on the relative residual; that of the solver that is taken where not given.
        max_iterations: Of conjugate gradients; their own where not given.
        on_indefinite: What to do where A is not positive definite: `"raise"`; `"minres"`, which solves the system as it
            stands (at a saddle there is no retraining response); `"absolute"`, |A|^{-1} V, a heuristic. The better
            ways, the Gauss-Newton matrix and more damping, are a matter of which operator is given.

    Raises:
        ValueError: If `on_indefinite` is unknown.
        IndefiniteCurvatureError: By a factor, or later in a solve, if A is found not to be positive definite.
    """

    max_iterations: int | None = None
    on_indefinite: OnIndefinite = "raise"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.on_indefinite not in get_args(OnIndefinite):
            raise ValueError(
                f"on_indefinite must be one of {', '.join(get_args(OnIndefinite))}, got {self.on_indefinite!r}"
            )

    def factors(self, operator: LinearOperator) -> bool:
        """Whether A is small, quickly built, and has no inverse in closed form."""
        return not operator.undamped.has_inverse and is_quickly_built(operator.size, operator.examples)

    def prepare(self, operator: LinearOperator) -> Solve:
        """The chosen solver, prepared."""
        if operator.undamped.has_inverse:
            inverse = KroneckerInverse(**self._options())
            return _noted(inverse.prepare(operator), "EK-FAC is diagonal in its own basis")
        return self._direct(operator) if self.factors(operator) else self._iterative(operator)

    def _options(self) -> dict[str, Any]:
        """What is handed on to the solver that is taken."""
        return {"on_failure": self.on_failure} | ({} if self.tolerance is None else {"tolerance": self.tolerance})

    def _direct(self, operator: LinearOperator) -> Solve:
        small = f"P = {operator.size} <= {DENSE_SIZE}"
        try:
            return _noted(Cholesky(**self._options()).prepare(operator), small)
        except IndefiniteCurvatureError as error:
            if self.on_indefinite == "raise":
                raise
            way: Literal["solve", "absolute"] = "solve" if self.on_indefinite == "minres" else "absolute"
            reason = f"{small} and lambda_min = {error.smallest_eigenvalue:.6g}"
            return _noted(Eigendecomposition(on_indefinite=way, **self._options()).prepare(operator), reason)

    def _iterative(self, operator: LinearOperator) -> Solve:
        large = f"P = {operator.size}" + (f" > {DENSE_SIZE}" if operator.size > DENSE_SIZE else ", many examples")
        steps: dict[str, Any] = {} if self.max_iterations is None else {"max_iterations": self.max_iterations}
        descend = _noted(_AdaptiveDescent(ConjugateGradients(**self._options(), **steps), operator), large)

        def attempt(rhs: Tensor) -> Solution:
            try:
                return descend(rhs)
            except IndefiniteCurvatureError as error:
                if self.on_indefinite == "raise":
                    raise
                other = MINRES if self.on_indefinite == "minres" else Absolute
                reason = f"{large} and conjugate gradients met the curvature {error.smallest_eigenvalue:.6g}"
                return _noted(other(**self._options()).prepare(operator), reason)(rhs)

        return attempt


@dataclass
class _AdaptiveDescent:
    """Conjugate gradients that build a preconditioner, once, when a system turns out to need many steps."""

    solver: ConjugateGradients
    operator: LinearOperator
    preconditioner: Preconditioner | None = field(default=None, init=False)
    is_built: bool = field(default=False, init=False)

    def __call__(self, rhs: Tensor) -> Solution:
        tolerance, most = self.solver.tolerance, self.solver.max_iterations
        few = most if self.is_built else min(PLAIN_STEPS, most)
        solution = run_conjugate_gradients(self.operator, rhs, tolerance, few, self.preconditioner)
        if solution.converged or self.is_built or few == most:
            return checked(solution, self.solver.on_failure, ADVICE)
        self.preconditioner, self.is_built = _sketched_preconditioner(self.operator), True
        further = run_conjugate_gradients(
            self.operator, rhs, tolerance, most - few, self.preconditioner, solution.value
        )
        note = f"after {solution.iterations} plain steps {further.note}" if further.note else ""
        iterations = solution.iterations + further.iterations
        products = (solution.products or 0) + (further.products or 0)
        whole = replace(further, iterations=iterations, products=products, note=note)
        return checked(whole, self.solver.on_failure, ADVICE)


def _sketched_preconditioner(operator: LinearOperator) -> Preconditioner | None:
    """A sketch of the Gauss-Newton matrix on a part of the data; None where there are no data or no damping."""
    examples, damping = operator.examples, operator.damping
    if examples is None or damping is None or not (damping > 0).all():
        return None
    curvature = operator.undamped.semidefinite_part(max(SKETCH_EXAMPLES, examples // SKETCH_FRACTION))
    if curvature is None:
        return None
    try:
        return nystrom_preconditioner(curvature, damping, SKETCH_RANK)
    except IndefiniteCurvatureError:
        logger.info("no preconditioner: the Gauss-Newton matrix is indefinite, the likelihood not convex")
        return None


def _noted(solve: Solve, reason: str) -> Solve:
    """Adds to the solution's note what was chosen, and why."""

    def noted(rhs: Tensor) -> Solution:
        solution = solve(rhs)
        note = f"auto chose {solution.method}: {reason}"
        return replace(solution, note=f"{note}; {solution.note}" if solution.note else note)

    return noted
