"""A spectrum's density, by stochastic Lanczos quadrature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import pi, sqrt

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.curvature.operators.base import LinearOperator, as_operator
from bayes_influence.curvature.spectrum.lanczos import gaussian_vectors, lanczos

PROBES_AT_A_TIME = 4
"""Probes whose Lanczos bases are held at once: memory 4 x steps x P."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """A mean over random probes.

    Attributes:
        value: The estimate.
        standard_error: Its standard error over the probes; infinite for a single one.
        products: Products with single vectors that it took.
    """

    value: float
    standard_error: float
    products: int


@dataclass(frozen=True, eq=False)
class SpectralDensity:
    """(1/P) sum_j delta(lambda - lambda_j), as R quadratures of m nodes each.

    Attributes:
        nodes: (R, m) Ritz values.
        weights: (R, m) their weights, each row summing to 1.
        size: P.
    """

    nodes: Float[Tensor, "R m"]
    weights: Float[Tensor, "R m"]
    size: int

    def mean(self, function: Callable[[Tensor], Tensor]) -> Estimate:
        """(1/P) sum_j f(lambda_j) for an elementwise f; exact up to degree 2 m - 1 but for the choice of probes."""
        values = (self.weights * function(self.nodes)).sum(dim=1)
        error = float(values.std() / len(values) ** 0.5) if len(values) > 1 else float("inf")
        return Estimate(float(values.mean()), error, self.nodes.numel())

    def moment(self, order: int) -> Estimate:
        """(1/P) sum_j lambda_j^order = tr(A^order) / P."""
        return self.mean(lambda nodes: nodes**order)

    def effective_dimension(self, delta: float) -> Estimate:
        """d(delta) = tr[A (A + delta I)^{-1}]: in how many directions the curvature outweighs the damping.

        Raises:
            ValueError: If delta is not positive, or a Ritz value is as negative.
        """
        check_delta(delta, float(self.nodes[self.weights > 0].min()))
        mean = self.mean(lambda nodes: nodes / (nodes + delta))
        return Estimate(self.size * mean.value, self.size * mean.standard_error, mean.products)

    def smoothed(self, grid: Float[Tensor, " g"], width: float) -> Float[Tensor, " g"]:
        """The density on a grid, every eigenvalue a Gaussian of the given standard deviation; it integrates to 1."""
        distances = (grid.to(self.nodes)[:, None, None] - self.nodes) / width
        bells = torch.exp(-0.5 * distances.square()) / (width * sqrt(2 * pi))
        return (bells * self.weights).sum(dim=2).mean(dim=1)


def spectral_density(
    operator: LinearOperator | Float[Tensor, "P P"], *, probes: int = 16, steps: int = 80, seed: int = 0
) -> SpectralDensity:
    """Stochastic Lanczos quadrature (Ubaru, Chen, Saad 2017; Ghorbani, Krishnan, Xiao 2019).

    From a random unit vector v, m Lanczos steps give T = S diag(theta) S'; the theta with weights S_1j^2 are a
    quadrature for v'f(A)v, whose mean over v is tr f(A) / P. Full reorthogonalisation; T is decomposed in float64.
    R m products, taken for four probes at a time.

    Args:
        operator: A.
        probes: R.
        steps: m, at most P.
        seed: Of the probes.

    Raises:
        ValueError: If there is no probe or no step.
    """
    operator = as_operator(operator)
    if probes < 1:
        raise ValueError(f"the density needs at least 1 probe, got {probes}")
    starts = gaussian_vectors(operator, probes, seed)
    nodes, weights = [], []
    for part in starts.split(PROBES_AT_A_TIME, dim=1):
        found = lanczos(operator, part, steps)
        values, vectors = found.eigensystems()
        missing = min(steps, operator.size) - values.shape[1]
        nodes.append(torch.nn.functional.pad(values, (0, missing)))
        weights.append(torch.nn.functional.pad(vectors[:, 0].square(), (0, missing)))
    return SpectralDensity(torch.cat(nodes), torch.cat(weights), operator.size)


def effective_dimension(operator: LinearOperator | Float[Tensor, "P P"], delta: float) -> float:
    """d(delta) = tr[A (A + delta I)^{-1}], exactly, from the dense float64 matrix; see `SpectralDensity` for large P.

    Raises:
        ValueError: If delta is not positive, or A + delta I is not positive definite.
    """
    eigenvalues = torch.linalg.eigvalsh(as_operator(operator).dense().to(torch.float64))
    check_delta(delta, float(eigenvalues[0]))
    return float((eigenvalues / (eigenvalues + delta)).sum())


def check_delta(delta: float, smallest: float) -> None:
    """Whether A + delta I is positive definite, so that d(delta) counts directions.

    Raises:
        ValueError: If it is not.
    """
    if not delta > max(0.0, -smallest):
        raise ValueError(
            f"the effective dimension needs a positive delta above -lambda_min = {-smallest:.6g}, got {delta}"
        )
