"""What goes wrong in a solve, and what to do about it."""

from __future__ import annotations

from bayes_influence.errors import BayesInfluenceError


class NotConvergedWarning(UserWarning):
    """A solver stopped above its tolerance; the message holds the relative residual that it reached."""


class NotConvergedError(BayesInfluenceError, RuntimeError):
    """The same, where the caller asked for an error (`on_failure="raise"`)."""


class IndefiniteCurvatureWarning(UserWarning):
    """A matrix that should be positive definite is not, and something else was done; the message says what."""


class IndefiniteCurvatureError(BayesInfluenceError, ValueError):
    """A matrix that must be positive definite is not.

    Attributes:
        smallest_eigenvalue: lambda_min, or an upper bound of it (a Ritz value, or a Rayleigh quotient p'Ap / p'p).

    Args:
        smallest_eigenvalue: As above.
        where: Which solver found it.
        rounding: Up to which magnitude an eigenvalue cannot be told from 0.
    """

    def __init__(self, smallest_eigenvalue: float, where: str, rounding: float = 0.0) -> None:
        self.smallest_eigenvalue = smallest_eigenvalue
        state = "indefinite" if smallest_eigenvalue < -rounding else "singular to working precision"
        more = max(1.1 * abs(smallest_eigenvalue), 10 * rounding)
        super().__init__(
            f"{where}: the curvature is {state}, its smallest eigenvalue is {smallest_eigenvalue:.6g}. In this order: "
            f"(1) use the Gauss-Newton matrix with damping; (2) raise the damping by at least {more:.3g}; (3) solve "
            f"with MINRES, which needs no definiteness, but at a saddle there is no retraining response; (4) use "
            f"|H|^-1, a heuristic"
        )
