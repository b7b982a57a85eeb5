"""The curvature of a likelihood in the network's outputs, example by example."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, jvp, vmap

from bayes_influence.data.dataset import Batch
from bayes_influence.objectives.objective import Objective


def output_hessians(objective: Objective, outputs: Float[Tensor, "B *out"], batch: Batch) -> Float[Tensor, "B C C"]:
    """Lambda_i = grad^2 l_i in the C = prod(out) outputs of example i; diag p - p p' for softmax cross-entropy.

    An example's loss depends on its own outputs only, so one forward derivative along the same unit vector for all
    examples gives one row of every Lambda_i: C derivatives in all.
    """
    flat = outputs.detach().reshape(len(outputs), -1)

    def total(values: Tensor) -> Tensor:
        return objective.losses_of(values.reshape(outputs.shape), batch).sum()

    basis = torch.eye(flat.shape[1], dtype=flat.dtype, device=flat.device)
    rows = vmap(lambda unit: jvp(grad(total), (flat,), (unit.expand_as(flat),))[1])(basis)
    return rows.permute(1, 0, 2)


def output_hessian_roots(
    objective: Objective, outputs: Float[Tensor, "B *out"], batch: Batch
) -> Float[Tensor, "R B C"]:
    """Vectors s_ic with sum_c s_ic s_ic' = Lambda_i, at most C of them, without those that are 0 for every example.

    Raises:
        ValueError: If some Lambda_i has a negative eigenvalue.
    """
    eigenvalues, eigenvectors = torch.linalg.eigh(output_hessians(objective, outputs, batch))
    rounding = 100 * torch.finfo(eigenvalues.dtype).eps * float(eigenvalues.abs().max())
    if float(eigenvalues.min()) < -rounding:
        raise ValueError(
            f"the likelihood must be convex in the network's outputs, but its Hessian there has the eigenvalue "
            f"{float(eigenvalues.min()):.3g}; use fisher='empirical'"
        )
    scales = torch.where(eigenvalues > rounding, eigenvalues, 0.0).sqrt()
    roots = (eigenvectors * scales.unsqueeze(1)).permute(2, 0, 1)
    return roots[(scales > 0).any(dim=0)]
