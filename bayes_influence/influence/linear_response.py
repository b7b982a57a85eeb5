"""Linear-response covariances of a variational posterior (Giordano, Broderick & Jordan 2018), by influence's solve.

At an optimum of F = n J, tilting q by t'phi moves E_q phi by Cov_LR(phi) t with Cov_LR = grad E phi' (grad^2 F)^-1
grad E phi. For phi = theta that is the block of (grad^2 F)^-1 = A^-1 / n that belongs to the means: it holds the
correlations that the mean-field q has not, and corrects its variances.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.influence.response import Response
from bayes_influence.objectives.parameters import RHO


def linear_response_covariance(response: Response) -> Float[Tensor, "M M"]:
    """The corrected posterior covariance of all selected weights, in the order of the objective's means.

    Use an undamped response in means and log standard deviations; with means only, it is the posterior-mean version.

    Raises:
        ValueError: If no mean with a log standard deviation is selected.
    """
    objective = response.problem.reduced
    chosen = {
        name: torch.full_like(objective.params[name], float(name + RHO in objective.params)) for name in objective.names
    }
    positions = objective.layout.flatten(chosen).nonzero()[:, 0]
    if len(positions) == 0:
        raise ValueError(
            f"a linear-response covariance needs variational means among the selected parameters, got "
            f"{list(objective.names)}; convert the network with to_bayesian"
        )
    units = torch.eye(response.problem.size, dtype=response.problem.dtype, device=positions.device)[:, positions]
    covariance = response.solve(units).value[positions] / response.n_train
    return 0.5 * (covariance + covariance.T)
