"""Damping metrics: what is added to a curvature matrix before it is inverted, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.arguments import check_number, shown
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import RHO


@runtime_checkable
class Damping(Protocol):
    """A positive diagonal metric M, delta times over: the solve is of (H + delta M) x = v."""

    @property
    def delta(self) -> float:
        """The multiple."""

    def diagonal(self, objective: Objective) -> Float[Tensor, " P"]:
        """The diagonal of delta M, in the objective's selected parameters."""


def _check_delta(delta: float) -> None:
    check_number(**{"the damping delta": delta})
    if not 0 <= delta < float("inf"):
        raise ValueError(f"the damping delta must be finite and at least 0, got {delta}")


@dataclass(frozen=True)
class IdentityDamping:
    """M = I. Not for variational parameters: it holds the variances fixed, see `FisherDamping`.

    Attributes:
        delta: The multiple, at least 0.
    """

    delta: float

    def __post_init__(self) -> None:
        _check_delta(self.delta)

    def diagonal(self, objective: Objective) -> Float[Tensor, " P"]:
        """Delta everywhere."""
        return torch.full_like(objective.layout.flatten(objective.params), self.delta)


@dataclass(frozen=True, eq=False)
class DiagonalDamping:
    """M = diag(m), for a metric of the caller's own.

    Attributes:
        delta: The multiple, at least 0.
        metric: m of shape (P,), at least 0, laid out as the objective's selected parameters.
    """

    delta: float
    metric: Float[Tensor, " P"]

    def __post_init__(self) -> None:
        _check_delta(self.delta)
        if not isinstance(self.metric, Tensor) or self.metric.ndim != 1:
            raise TypeError(f"the damping metric must be a vector, one number per parameter, got {shown(self.metric)}")
        if not (torch.isfinite(self.metric) & (self.metric >= 0)).all():
            raise ValueError(f"the damping metric must be finite and at least 0, got {float(self.metric.min()):.3g}")

    def diagonal(self, objective: Objective) -> Float[Tensor, " P"]:
        """Delta m.

        Raises:
            ValueError: If m has not one entry per selected parameter.
        """
        if self.metric.shape != (objective.layout.total,):
            raise ValueError(
                f"the damping metric has shape {tuple(self.metric.shape)}, but the objective selects "
                f"{objective.layout.total} parameters"
            )
        return self.delta * self.metric


@dataclass(frozen=True)
class FisherDamping:
    """M = the Fisher information of q = N(mu, exp(rho)^2) in (mu, rho): 1/sigma^2 for a mean, 2 for a rho.

    In mean scale the Hessian's rho-block is about 2/n, so the identity would hold the variances fixed where this
    metric treats means and variances alike. A parameter without a `_rho` beside it is not variational: M is 1 there.

    Attributes:
        delta: The multiple, at least 0.
    """

    delta: float

    def __post_init__(self) -> None:
        _check_delta(self.delta)

    def diagonal(self, objective: Objective) -> Float[Tensor, " P"]:
        """Delta times the Fisher information of q at the objective's parameters."""
        return self.delta * fisher_metric(objective)


def fisher_metric(objective: Objective) -> Float[Tensor, " P"]:
    """The diagonal of F_q in the objective's selected parameters: 1/sigma^2 (means), 2 (rho), 1 (not variational)."""
    params = objective.params

    def entry(name: str) -> Tensor:
        if name.endswith(RHO):
            return torch.full_like(params[name], 2.0)
        if name + RHO in params:
            return torch.exp(-2 * params[name + RHO])
        return torch.ones_like(params[name])

    return objective.layout.flatten({name: entry(name) for name in objective.names})


def check_damping(damping: Any) -> None:
    """Refuses what can be no damping of any objective.

    Raises:
        TypeError: If it is neither a number nor a `Damping`.
        ValueError: If it is a number that is negative or not finite.
    """
    if isinstance(damping, type):
        raise TypeError(f"damping must be a number or a Damping, got the class {damping.__name__}; give it its delta")
    if not isinstance(damping, Damping):
        _check_delta(damping)


def as_damping(objective: Objective, damping: float | Damping) -> Damping:
    """What a number means as a damping: delta in the metric of the selected parameters themselves.

    That is the Fisher information of q for the parameters of a Gaussian posterior, and the identity for others. A
    `Damping` is taken as it is.

    Raises:
        ValueError: If the number is negative or not finite.
        TypeError: If it is neither.
    """
    if isinstance(damping, int | float) and not isinstance(damping, bool):
        variational = any(name.endswith(RHO) or name + RHO in objective.params for name in objective.names)
        return FisherDamping(damping) if variational else IdentityDamping(damping)
    if isinstance(damping, type) or not isinstance(damping, Damping):
        raise TypeError(f"damping must be 'auto', a number or a Damping, got {type(damping).__name__}")
    return damping


def automatic_delta(smallest_eigenvalue: float, gauss_newton_trace: float, n_parameters: int) -> float:
    """Delta = max(1.1 max(0, -lambda_min), 0.1 tr(G) / P).

    The first term makes H + delta M positive definite, the second keeps delta at a tenth of the mean curvature.

    Args:
        smallest_eigenvalue: The smallest algebraic eigenvalue of H (of M^{-1/2} H M^{-1/2} for a metric M).
        gauss_newton_trace: tr(G) (of M^{-1/2} G M^{-1/2} for a metric M).
        n_parameters: P.

    Raises:
        ValueError: If the trace is negative or P is below 1.
    """
    if not (gauss_newton_trace >= 0 and n_parameters >= 1):
        raise ValueError(
            f"automatic damping needs tr(G) >= 0 and P >= 1, got tr(G) = {gauss_newton_trace} and P = {n_parameters}"
        )
    return max(1.1 * max(0.0, -smallest_eigenvalue), 0.1 * gauss_newton_trace / n_parameters)
