"""What goes wrong in a solve, and what to do about it."""

from __future__ import annotations


class NotConvergedWarning(UserWarning):
    """A solver stopped above its tolerance; the message holds the relative residual that it reached."""


class NotConvergedError(RuntimeError):
    """The same, where the caller asked for an error (`on_failure="raise"`)."""


class IndefiniteCurvatureError(ValueError):
    """A matrix that must be positive definite is not.

    Attributes:
        smallest_eigenvalue: lambda_min, or an upper bound of it (a Ritz value, or a Rayleigh quotient p'Ap / p'p).
    """

    def __init__(self, smallest_eigenvalue: float, where: str) -> None:
        self.smallest_eigenvalue = smallest_eigenvalue
        state = "indefinite" if smallest_eigenvalue < 0 else "singular to working precision"
        super().__init__(
            f"{where}: the curvature is {state}, its smallest eigenvalue is {smallest_eigenvalue:.6g}. In this order: "
            f"(1) use the Gauss-Newton matrix with damping; (2) raise the damping by at least "
            f"{max(1.1 * abs(smallest_eigenvalue), 1e-12):.3g}; (3) solve with MINRES, which needs no definiteness, "
            f"but at a saddle there is no retraining response; (4) use |H|^-1, a heuristic"
        )
