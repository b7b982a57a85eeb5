"""How removal effects depend on the damping: every delta from one eigendecomposition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.curvature.damping import fisher_metric
from bayes_influence.curvature.operators.hessian import Hessian
from bayes_influence.data.dataset import Dataset
from bayes_influence.influence.problem import FittedProblem
from bayes_influence.objectives.objective import Objective


@dataclass(frozen=True, eq=False)
class DampingSweep:
    """Removal effects as functions of the damping delta M.

    With M^{-1/2} H M^{-1/2} = Q diag(lambda) Q' and the gradients in that basis, a score at any delta is
    sum_k a_k b_k / (lambda_k + delta).

    Attributes:
        eigenvalues: (P,) lambda, ascending; delta must exceed -lambda_1 for a score to mean a response.
        removal: (D, n_test, n_train) removal effects, NaN where H + delta M is not positive definite.
        sensitivity: (D, n_test, n_train) d removal / d log delta, -(delta/n) g_t' A^-1 M A^-1 g_i with A = H + delta M.
        deltas: (D,).
    """

    eigenvalues: Float[Tensor, " P"]
    removal: Float[Tensor, "D t n"]
    sensitivity: Float[Tensor, "D t n"]
    deltas: Float[Tensor, " D"]


def damping_sweep(
    objective: Objective,
    train: Dataset,
    test: Dataset,
    deltas: Sequence[float],
    *,
    hessian: Float[Tensor, "P P"] | None = None,
) -> DampingSweep:
    """Removal effects of every training example on every test loss at many dampings.

    M is the identity, or for variational parameters the Fisher information of q. In float64. Data go through the
    network in batches: memory P^2, t P, one block of per-example gradients, and D t n for each result.

    Args:
        objective: Standing at its fitted parameters.
        train: The training examples of its mean.
        test: Test examples.
        deltas: Dampings, each positive.
        hessian: H, where it is known already.

    Raises:
        ValueError: If a delta is not positive.
    """
    if not deltas or not all(delta > 0 for delta in deltas):
        raise ValueError(f"a damping sweep needs positive deltas, got {list(deltas)}")
    problem = FittedProblem(objective, train)
    root = fisher_metric(problem.reduced).sqrt()
    if hessian is None:
        hessian = Hessian().operator(problem.reduced, problem.data, problem.batch_size).dense()
    eigenvalues, vectors = torch.linalg.eigh(hessian / torch.outer(root, root))
    grid = torch.as_tensor(list(deltas), dtype=eigenvalues.dtype, device=eigenvalues.device).unsqueeze(1)
    damped = eigenvalues + grid
    damped = torch.where(damped[:, :1] > 0, damped, torch.nan)
    tests = (problem.gradients(*problem.taken(test)) / root) @ vectors / len(train)
    removals, slopes = [], []
    for gradients in problem.gradient_blocks(problem.data):
        examples = (gradients / root) @ vectors
        removals.append(torch.einsum("tp,dp,np->dtn", tests, 1 / damped, examples))
        slopes.append(torch.einsum("tp,dp,np->dtn", tests, -grid / damped.square(), examples))
    return DampingSweep(eigenvalues, torch.cat(removals, dim=2), torch.cat(slopes, dim=2), grid.squeeze(1))
