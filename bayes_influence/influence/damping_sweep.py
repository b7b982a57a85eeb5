"""How removal effects depend on the damping: every delta from one eigendecomposition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.curvature.damping import fisher_metric
from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.derivatives import dense_hessian, per_example_gradients
from bayes_influence.objectives.head import reduced_problem
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


def damping_sweep(objective: Objective, train: Dataset, test: Dataset, deltas: Sequence[float]) -> DampingSweep:
    """Removal effects of every training example on every test loss at many dampings.

    M is the identity, or for variational parameters the Fisher information of q. In float64.

    Args:
        objective: Standing at its fitted parameters.
        train: The training examples of its mean.
        test: Test examples.
        deltas: Dampings, each positive.

    Raises:
        ValueError: If a delta is not positive.
    """
    if not deltas or not all(delta > 0 for delta in deltas):
        raise ValueError(f"a damping sweep needs positive deltas, got {list(deltas)}")
    objective, train, test = objective.double(), train.to(dtype=torch.float64), test.to(dtype=torch.float64)
    problem, batch = reduced_problem(objective, train.batch())
    _, test_batch = reduced_problem(objective, test.batch())
    root = fisher_metric(problem).sqrt()
    eigenvalues, vectors = torch.linalg.eigh(dense_hessian(problem, batch) / torch.outer(root, root))
    examples = (per_example_gradients(problem, batch) / root) @ vectors
    tests = (per_example_gradients(problem, test_batch) / root) @ vectors
    grid = torch.as_tensor(list(deltas), dtype=eigenvalues.dtype, device=eigenvalues.device)
    damped = eigenvalues + grid.unsqueeze(1)
    damped = torch.where(damped[:, :1] > 0, damped, torch.nan)
    scale = 1 / len(train)
    removal = torch.einsum("tp,dp,np->dtn", tests, 1 / damped, examples) * scale
    slope = torch.einsum("tp,dp,np->dtn", tests, -grid.unsqueeze(1) / damped.square(), examples) * scale
    return DampingSweep(eigenvalues, removal, slope, grid)
