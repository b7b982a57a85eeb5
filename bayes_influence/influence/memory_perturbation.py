"""The memory-perturbation equation (Nickl et al. 2023): how a Gaussian posterior moves when an example leaves.

For q = N(m, S^-1) with S the precision of the whole posterior (sums over the data, not means), removing example i
gives S_i = S - E grad^2 l_i and m_i = m + S_i^-1 E grad l_i. Its outputs move by about v_i e_i: v_i = J_i S^-1 J_i' is
the posterior variance of its outputs and e_i the gradient of its loss in them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad

from bayes_influence.curvature.operators.gauss_newton import GaussNewton
from bayes_influence.curvature.operators.output_curvature import output_hessians
from bayes_influence.data.batch import Batch
from bayes_influence.data.dataset import Dataset
from bayes_influence.influence.problem import FittedProblem
from bayes_influence.moments.arithmetic import mean_of
from bayes_influence.moments.moments import Moments
from bayes_influence.objectives.derivatives import (
    per_example_gradients,
    per_example_hessians,
    per_example_jacobians,
)
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import RHO
from bayes_influence.objectives.ways import first_way, reverse_gradient

STRUCTURES = ("full", "diagonal")


@dataclass(frozen=True, eq=False)
class GaussianPosterior:
    """N(m, S^-1) over the selected parameters.

    Attributes:
        objective: What is differentiated, with the selected parameters at the mean m.
        data: The n examples as it takes them.
        precision: S of shape (P, P), or its diagonal of shape (P,).
        variational: Whether the losses are expectations under q, so that their Hessian is E grad^2 l_i; otherwise the
            Gauss-Newton matrix of each example stands for it.
    """

    objective: Objective
    data: Dataset
    precision: Float[Tensor, "*shape"]
    variational: bool

    @property
    def is_diagonal(self) -> bool:
        """Whether S is held as its diagonal."""
        return self.precision.ndim == 1


@dataclass(frozen=True, eq=False)
class MemoryPerturbation:
    """What removing single examples does to a Gaussian posterior.

    Attributes:
        mean_change: (k, P) m_i - m.
        precision: S_i, (k, P, P) or (k, P).
        output_change: (k, C) v_i e_i, the predicted change of the example's own outputs.
    """

    mean_change: Float[Tensor, "k P"]
    precision: Float[Tensor, "k *shape"]
    output_change: Float[Tensor, "k C"]


def laplace_posterior(
    objective: Objective, train: Dataset, structure: str = "full", *, parameters: str | None = None
) -> GaussianPosterior:
    """Laplace's approximation at a minimum of J = (1/n) sum_i l_i + R: S = n (G_data + grad^2 R), or its diagonal.

    With `parameters="last-layer"` it is the last-layer Laplace approximation.

    Args:
        objective: At its fitted parameters, with tensor outputs.
        train: Training examples.
        structure: `"full"`, memory P^2, or `"diagonal"`.
        parameters: Overrides the objective's selection.

    Raises:
        ValueError: If the structure is unknown.
    """
    if structure not in STRUCTURES:
        raise ValueError(f"structure must be one of {', '.join(STRUCTURES)}, got {structure!r}")
    problem = FittedProblem(objective.taking(parameters), train)
    operator = GaussNewton().operator(problem.reduced, problem.data)
    curvature = operator.dense() if structure == "full" else operator.diagonal()
    return GaussianPosterior(problem.reduced, problem.data, len(train) * curvature, variational=False)


def mean_field_posterior(objective: Objective, train: Dataset) -> GaussianPosterior:
    """The mean-field q of a variational objective: m its selected means, S = diag(1/sigma^2).

    The objective's losses stand for E l_i; their first and second derivatives in the means are E grad l_i and
    E grad^2 l_i (Bonnet's and Price's theorems).

    Raises:
        ValueError: If a selected mean has no log standard deviation beside it.
    """
    means = [name for name in objective.names if not name.endswith(RHO)]
    missing = [name for name in means if name + RHO not in objective.params]
    if missing:
        raise ValueError(f"a mean-field posterior needs a '{RHO}' beside every mean, which {missing} have not")
    problem = FittedProblem(objective.taking(means), train)
    layout, params = problem.reduced.layout, problem.reduced.params
    precision = layout.flatten({name: torch.exp(-2 * params[name + RHO]) for name in layout.names})
    return GaussianPosterior(problem.reduced, problem.data, precision, variational=True)


def memory_perturbation(
    posterior: GaussianPosterior, ids: int | Iterable[int] | Tensor | None = None
) -> MemoryPerturbation:
    """Mean, precision and outputs after removing each example by itself.

    Under Laplace's S, with S in S_i's place, the change of the mean is Gauss-Newton influence.

    Args:
        posterior: Before the removal.
        ids: Of k examples; all when not given. Memory k P^2.

    Raises:
        ValueError: If an id is unknown, or a removal leaves no positive definite precision.
    """
    data = posterior.data if ids is None else posterior.data.at(ids)
    gradients = per_example_gradients(posterior.objective, data.batch())
    jacobians = per_example_jacobians(posterior.objective, data.inputs)
    precisions = posterior.precision - _example_curvatures(posterior, data, jacobians)
    if posterior.is_diagonal:
        failed = precisions.amin(dim=1) <= 0
        changes = gradients / precisions
    else:
        factors, info = torch.linalg.cholesky_ex(precisions)
        failed = info > 0
        changes = torch.cholesky_solve(gradients.unsqueeze(2), factors).squeeze(2)
    if failed.any():
        raise ValueError(
            f"removing the examples {data.ids[failed][:5].tolist()} leaves no positive definite precision; they carry "
            f"the posterior alone, so a stronger prior is needed"
        )
    return MemoryPerturbation(changes, precisions, _moved_outputs(posterior, data, jacobians))


def output_changes(
    posterior: GaussianPosterior, ids: int | Iterable[int] | Tensor | None = None
) -> Float[Tensor, "k C"]:
    """v_i e_i alone, the predicted change of an example's own outputs when it is removed.

    It takes the posterior as it is, so that no precision is found or factored for each example.

    Args:
        posterior: Before the removal.
        ids: Of k examples; all when not given. Memory k C P.

    Raises:
        ValueError: If an id is unknown.
    """
    data = posterior.data if ids is None else posterior.data.at(ids)
    return _moved_outputs(posterior, data, per_example_jacobians(posterior.objective, data.inputs))


def _moved_outputs(
    posterior: GaussianPosterior, data: Dataset, jacobians: Float[Tensor, "k C P"]
) -> Float[Tensor, "k C"]:
    if posterior.is_diagonal:
        variances = torch.einsum("kcp,p,kdp->kcd", jacobians, 1 / posterior.precision, jacobians)
    else:
        covariance = torch.cholesky_inverse(torch.linalg.cholesky(posterior.precision))
        variances = jacobians @ covariance @ jacobians.mT
    errors = _output_gradients(posterior.objective, data.batch())
    return torch.einsum("kcd,kd->kc", variances, errors)


def _example_curvatures(posterior: GaussianPosterior, data: Dataset, jacobians: Tensor) -> Float[Tensor, "k *shape"]:
    objective = posterior.objective
    if posterior.variational:
        return torch.diagonal(per_example_hessians(objective, data.batch()), dim1=1, dim2=2)
    with torch.no_grad():
        outputs = objective.outputs(objective.params, data.inputs)
    middle = output_hessians(objective, outputs, data.batch())
    if posterior.is_diagonal:
        return torch.einsum("kcp,kcd,kdp->kp", jacobians, middle, jacobians)
    return jacobians.mT @ middle @ jacobians


def _output_gradients(objective: Objective, batch: Batch) -> Float[Tensor, "k C"]:
    with torch.no_grad():
        outputs = objective.outputs(objective.params, batch.inputs)

    def total(means: Tensor) -> Tensor:
        moved = replace(outputs, expectation=means) if isinstance(outputs, Moments) else means
        return objective.losses_of(moved, batch).sum()

    means = mean_of(outputs)
    slopes = first_way(objective.network, "outputs", lambda: grad(total)(means), lambda: reverse_gradient(total, means))
    return slopes.flatten(1)
