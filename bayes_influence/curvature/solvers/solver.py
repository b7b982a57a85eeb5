"""`Solver`: how systems with a curvature are solved, as an object that holds its options."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from bayes_influence.arguments import check_positive
from bayes_influence.curvature.operators.base import LinearOperator
from bayes_influence.curvature.solvers.solution import Solution

Solve = Callable[[Tensor], Solution]
"""A^{-1} V for any number of right-hand sides, with everything that depends on A alone done."""

OnFailure = Literal["warn", "raise"]
"""What happens where a residual stays above the tolerance: a `NotConvergedWarning`, or a `NotConvergedError`."""


@dataclass(frozen=True, kw_only=True)
class Solver(ABC):
    """A way to solve A X = V. Subclasses are frozen dataclasses, their options are fields.

    Attributes:
        tolerance: Bound on the relative residual ||v - A x|| / ||v||.
        on_failure: What to do above it, `"warn"` or `"raise"`.

    Raises:
        TypeError: If the tolerance is no number.
        ValueError: If the tolerance is not positive, or `on_failure` is neither.
    """

    tolerance: float | None = None
    on_failure: OnFailure = "warn"

    def __post_init__(self) -> None:
        if self.tolerance is not None:
            check_positive(**{"the tolerance of a solver": self.tolerance})
        if self.on_failure not in get_args(OnFailure):
            raise ValueError(f"on_failure must be 'warn' or 'raise', got {self.on_failure!r}")

    @abstractmethod
    def prepare(self, operator: LinearOperator) -> Solve:
        """Does once what depends on A alone, such as a factor; the result serves any number of right-hand sides."""

    def factors(self, operator: LinearOperator) -> bool:
        """Whether it makes A a dense matrix, which should then be made once for everything that wants it."""
        return False


@dataclass(frozen=True, kw_only=True, repr=False)
class CustomSolver(Solver):
    """A function `(operator, rhs) -> Solution` as a solver.

    Attributes:
        function: The function; it says itself where it has not converged.
    """

    function: Callable[[LinearOperator, Tensor], Solution]

    def __repr__(self) -> str:
        return getattr(self.function, "__name__", repr(self.function))

    def prepare(self, operator: LinearOperator) -> Solve:
        """The function with its operator."""
        return lambda rhs: self.function(operator, rhs)
