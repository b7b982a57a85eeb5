"""Laplace's approximation: a Gaussian around a network that was trained with weight decay, from its curvature there.

N(theta*, (n G + delta I)^-1), with G the mean Gauss-Newton matrix of the losses and delta the prior precision (MacKay
1992; Daxberger et al. 2021). Each structure of the covariance is diagonal in an orthogonal basis Q, so that every
formula is one of eigenvalues: Sigma = Q diag(1 / (c + delta)) Q'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import log
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.curvature.cost import TooLargeError
from bayes_influence.curvature.operators.ekfac import EKFAC
from bayes_influence.curvature.operators.gauss_newton import GaussNewton
from bayes_influence.curvature.operators.kronecker_block import KroneckerBlock
from bayes_influence.curvature.operators.output_curvature import output_hessians
from bayes_influence.data.dataset import Dataset
from bayes_influence.moments.prediction import JACOBIAN_ENTRIES
from bayes_influence.objectives.derivatives import per_example_jacobians
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import Flattening
from bayes_influence.objectives.posteriors import WeightPosterior
from bayes_influence.objectives.reduction import reduce
from bayes_influence.objectives.regularisers import NoRegulariser, WeightDecay

Covariance = Literal["diagonal", "kronecker", "full"]
"""What of the curvature is kept: its diagonal; each layer's Kronecker-factored eigenvectors with the exact diagonal in
them (EK-FAC); all of it, memory P^2."""

Evidence = Literal["weight-decay", "marginal-likelihood"]
"""Where the prior precision comes from: the weight decay that was trained with, or the largest marginal likelihood."""

BISECTIONS = 200
"""Halvings of an interval of log delta: down to rounding."""

BATCH_SIZE = 512
"""Examples that are linearised at a time, fewer where their Jacobians are larger than `JACOBIAN_ENTRIES`."""


class Basis:
    """The orthogonal matrix Q of a structure; itself the identity, that of a diagonal one."""

    def coordinates(self, rows: Float[Tensor, "*lead P"]) -> Float[Tensor, "*lead P"]:
        """V Q for every row v."""
        return rows

    def back(self, rows: Float[Tensor, "*lead P"]) -> Float[Tensor, "*lead P"]:
        """V Q' for every row v."""
        return rows

    def diagonal(self, values: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        """The diagonal of Q diag(values) Q'."""
        return values


@dataclass(frozen=True, eq=False)
class DenseBasis(Basis):
    """All eigenvectors.

    Attributes:
        matrix: Q.
    """

    matrix: Float[Tensor, "P P"]

    def coordinates(self, rows: Float[Tensor, "*lead P"]) -> Float[Tensor, "*lead P"]:
        """V Q for every row v."""
        return rows @ self.matrix

    def back(self, rows: Float[Tensor, "*lead P"]) -> Float[Tensor, "*lead P"]:
        """V Q' for every row v."""
        return rows @ self.matrix.T

    def diagonal(self, values: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        """The diagonal of Q diag(values) Q'."""
        return self.matrix.square() @ values


@dataclass(frozen=True, eq=False)
class KroneckerBasis(Basis):
    """Q_B (x) Q_A for every layer, 0 between layers.

    Attributes:
        blocks: The layers, whose eigenvalues are not looked at.
    """

    blocks: tuple[KroneckerBlock, ...]

    def coordinates(self, rows: Float[Tensor, "*lead P"]) -> Float[Tensor, "*lead P"]:
        """V Q for every row v: Q_B' V Q_A of each layer's entries V."""
        turned = torch.empty_like(rows)
        for block in self.blocks:
            turned[..., block.positions] = block.output_basis.T @ rows[..., block.positions] @ block.input_basis
        return turned

    def back(self, rows: Float[Tensor, "*lead P"]) -> Float[Tensor, "*lead P"]:
        """V Q' for every row v: Q_B V Q_A' of each layer's entries V."""
        turned = torch.empty_like(rows)
        for block in self.blocks:
            turned[..., block.positions] = block.output_basis @ rows[..., block.positions] @ block.input_basis.T
        return turned

    def diagonal(self, values: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        """The diagonal of Q diag(values) Q'."""
        turned = torch.empty_like(values)
        for block in self.blocks:
            turned[block.positions] = block.in_coordinates(values[block.positions])
        return turned


@dataclass(frozen=True, eq=False)
class LaplacePosterior(WeightPosterior):
    """N(theta*, Q diag(1 / (c + delta)) Q') over the parameters of `layout`, the others held.

    Attributes:
        layout: Order of the parameters in a flat vector.
        mean: theta*.
        basis: Q.
        curvature: c, the eigenvalues of the data's Gauss-Newton matrix, summed over the examples.
        prior_precision: delta.
        log_likelihood: -sum_i l_i at theta*.
    """

    layout: Flattening
    mean: Float[Tensor, " P"]
    basis: Basis
    curvature: Float[Tensor, " P"]
    prior_precision: float
    log_likelihood: float

    @property
    def variance(self) -> Float[Tensor, " P"]:
        """The covariance's diagonal."""
        return self.basis.diagonal(self._eigenvalues)

    @property
    def _eigenvalues(self) -> Float[Tensor, " P"]:
        """Of the covariance."""
        return 1 / (self.curvature + self.prior_precision)

    def covariance(self) -> Float[Tensor, "P P"]:
        """The dense covariance, for small P."""
        return self.basis.back(self.basis.coordinates(torch.eye(len(self.mean)).to(self.mean)) * self._eigenvalues)

    def deviations_drawn(self, n_samples: int, generator: torch.Generator) -> Float[Tensor, "S P"]:
        """Draws of N(0, Sigma). The generator is one of the CPU."""
        normals = torch.randn(n_samples, len(self.mean), generator=generator, dtype=self.mean.dtype).to(self.mean)
        return self.basis.back(normals * self._eigenvalues.sqrt())

    def output_covariance(self, jacobian: Float[Tensor, "*lead C P"]) -> Float[Tensor, "*lead C C"]:
        """J Sigma J' for every Jacobian J."""
        rows = self.basis.coordinates(jacobian) * self._eigenvalues.sqrt()
        return rows @ rows.mT

    def log_marginal_likelihood(self, prior_precision: float | None = None) -> float:
        """Log p(D | delta) = -sum_i l_i - delta/2 |theta*|^2 + P/2 log delta - 1/2 log det(n G + delta I), in nats.

        MacKay 1992; up to constants of the likelihood that the losses leave out. The parameters that are held count as
        known.

        Args:
            prior_precision: delta; the posterior's own when not given.
        """
        delta = self.prior_precision if prior_precision is None else prior_precision
        curvature, size = self.curvature.double(), len(self.mean)
        determinant = float(torch.log(curvature + delta).sum())
        penalty = delta * float(self.mean.double().square().sum())
        return self.log_likelihood - 0.5 * penalty + 0.5 * size * log(delta) - 0.5 * determinant

    def with_prior_precision(self, prior_precision: float) -> LaplacePosterior:
        """The same curvature and mean under another prior.

        Args:
            prior_precision: delta.

        Raises:
            ValueError: If it is not positive.
        """
        if not prior_precision > 0:
            raise ValueError(f"the prior precision must be positive, got {prior_precision}")
        return replace(self, prior_precision=float(prior_precision))

    def with_most_evidence(self) -> LaplacePosterior:
        """The same under the prior precision of the largest marginal likelihood, mean and curvature held.

        There sum_j c_j / (c_j + delta) = delta |theta*|^2 (MacKay 1992): the left side falls and the right one rises
        in delta, so that it is the only one.

        Raises:
            ValueError: If there is none: the parameters are all 0, or the curvature is.
        """
        square, curvature = float(self.mean.double().square().sum()), self.curvature.double()
        if not (square > 0 and float(curvature.max()) > 0):
            raise ValueError(
                "no prior precision has the largest marginal likelihood: "
                + ("all parameters are 0" if square == 0 else "the losses have no curvature in these parameters")
                + "; give one, or keep that of the weight decay"
            )
        low, high = -100.0, log(float((curvature > 0).sum()) / square) + 1.0
        for _ in range(BISECTIONS):
            middle = 0.5 * (low + high)
            delta = float(torch.tensor(middle, dtype=torch.float64).exp())
            below = float((curvature / (curvature + delta)).sum()) > delta * square
            low, high = (middle, high) if below else (low, middle)
        return self.with_prior_precision(float(torch.tensor(low, dtype=torch.float64).exp()))


def laplace(
    objective: Objective,
    train: Dataset,
    *,
    covariance: Covariance = "full",
    parameters: str | Sequence[str] = "last-layer",
    prior_precision: float | Evidence = "weight-decay",
) -> LaplacePosterior:
    """Laplace's approximation where an objective stands, which ought to be its minimum.

    Args:
        objective: Of a deterministic network, where it was fitted.
        train: The n training examples.
        covariance: What of the curvature is kept, see `Covariance`.
        parameters: Those that are random, as `Objective` takes them.
        prior_precision: delta; or `"weight-decay"` for n s lambda, under which the fitted parameters are the most
            probable ones; or `"marginal-likelihood"`, see `LaplacePosterior.with_most_evidence`.

    Raises:
        TypeError: If the network is Bayesian.
        ValueError: If a word is unknown, delta is not positive, there is no weight decay to take it from, a loss is not
            convex in the outputs there, or, of Kronecker factors, a parameter belongs to another layer than these.
        TooLargeError: If the full matrix does not fit into memory.
    """
    if objective.is_bayesian:
        raise TypeError(
            "Laplace's approximation is of a deterministic network, but this one is Bayesian and has a posterior; "
            "take the network it was made of, see to_deterministic"
        )
    if covariance not in get_args(Covariance):
        raise ValueError(f"the covariance must be one of {', '.join(get_args(Covariance))}, got {covariance!r}")
    delta = _prior_precision(objective, len(train), prior_precision)
    train = train.to(device=objective.device, dtype=objective.dtype)
    chosen = replace(objective.taking(parameters), regulariser=NoRegulariser())
    reduction = reduce(chosen, train)
    whole = reduction.members.objective
    basis, mean_curvature = _CURVATURES[covariance](reduction.problem.at(0), reduction.examples())
    curvature = len(train) * mean_curvature
    if float(curvature.min()) < -(torch.finfo(curvature.dtype).eps ** 0.5) * float(curvature.abs().max()):
        raise ValueError(
            f"Laplace's precision needs losses that are convex in the outputs, but the curvature falls to "
            f"{float(curvature.min()):.3g}; take a likelihood that is, or covariance='diagonal' of other parameters"
        )
    with torch.no_grad():
        losses = [float(whole.losses(whole.params, batch).double().sum()) for batch in train.batches(BATCH_SIZE)]
    found = LaplacePosterior(
        whole.layout, whole.flat.theta.detach(), basis, curvature.clamp(min=0), delta, -sum(losses)
    )
    return found.with_most_evidence() if prior_precision == "marginal-likelihood" else found


def _prior_precision(objective: Objective, n: int, asked: float | Evidence) -> float:
    """delta; 1 where it is yet to be found."""
    if asked == "marginal-likelihood":
        return 1.0
    if isinstance(asked, str):
        if asked != "weight-decay":
            raise ValueError(
                f"prior_precision must be a number or one of {', '.join(get_args(Evidence))}, got {asked!r}"
            )
        decay = objective.regulariser.decay if isinstance(objective.regulariser, WeightDecay) else 0.0
        if not decay * objective.regulariser_weight > 0:
            raise ValueError(
                "the objective has no weight decay that the prior precision could be taken from; give a number, or "
                "prior_precision='marginal-likelihood'"
            )
        return n * objective.regulariser_weight * decay
    if not asked > 0:
        raise ValueError(f"the prior precision must be positive, got {asked}")
    return float(asked)


def _full(problem: Objective, data: Dataset) -> tuple[Basis, Tensor]:
    try:
        matrix = GaussNewton().operator(problem, data).dense()
    except TooLargeError as error:
        raise TooLargeError(
            f"{str(error).partition(';')[0]}; take covariance='kronecker' or 'diagonal', or parameters='last-layer'"
        ) from error
    values, vectors = torch.linalg.eigh(matrix.double())
    return DenseBasis(vectors.to(problem.dtype)), values.to(problem.dtype)


def _kronecker(problem: Objective, data: Dataset) -> tuple[Basis, Tensor]:
    blocks: tuple[KroneckerBlock, ...] = EKFAC().operator(problem, data).blocks
    values = problem.flat.theta.new_zeros(problem.layout.total)
    for block in blocks:
        values[block.positions] = block.eigenvalues
    return KroneckerBasis(blocks), values


def _diagonal(problem: Objective, data: Dataset) -> tuple[Basis, Tensor]:
    """The mean of the diagonals of J_i' Lambda_i J_i."""
    total = problem.flat.theta.new_zeros(problem.layout.total)
    with torch.no_grad():
        outputs = problem.outputs(problem.params, problem.fitting(data.select([0]).batch()).inputs).numel()
    at_once = min(BATCH_SIZE, max(1, JACOBIAN_ENTRIES // (outputs * len(total))))
    for batch in data.batches(at_once):
        held = problem.fitting(batch)
        with torch.no_grad():
            hessians = output_hessians(problem, problem.outputs(problem.params, held.inputs), held)
        jacobians = per_example_jacobians(problem, held.inputs)
        total += torch.einsum("bcp,bcp->p", hessians @ jacobians, jacobians)
    return Basis(), total / len(data)


_CURVATURES: dict[str, Callable[[Objective, Dataset], tuple[Basis, Tensor]]] = {
    "diagonal": _diagonal,
    "kronecker": _kronecker,
    "full": _full,
}
