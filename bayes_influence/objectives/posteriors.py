"""Gaussian posteriors over the weights of deterministic networks, and what their outputs are under one.

A Bayesian network carries its posterior in its parameters; that of Laplace's approximation or of SWAG stands beside a
network that was trained without one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.moments.moments import Moments
from bayes_influence.moments.prediction import JACOBIAN_ENTRIES
from bayes_influence.moments.sampling import SAMPLES_AT_ONCE
from bayes_influence.moments.sources import own_part
from bayes_influence.objectives.derivatives import per_example_jacobians
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import Flattening, Params
from bayes_influence.objectives.quasi_random import sobol_normals
from bayes_influence.objectives.ways import over_members
from bayes_influence.torch_internals import tree_leaves, tree_map


class WeightPosterior(ABC):
    """N(mean, Sigma) over some of a deterministic network's parameters, the others held.

    Attributes:
        layout: Which parameters, and their order in a flat vector.
        mean: (P,) where the network was fitted.
        usual_mode: How its predictions are made when nothing is said, see `predict`.
    """

    layout: Flattening
    mean: Float[Tensor, " P"]
    usual_mode: ClassVar[Literal["linearized", "sampled"]] = "linearized"

    @property
    @abstractmethod
    def variance(self) -> Float[Tensor, " P"]:
        """Sigma's diagonal."""

    @abstractmethod
    def covariance(self) -> Float[Tensor, "P P"]:
        """Sigma, for small P."""

    @abstractmethod
    def deviations_drawn(self, n_samples: int, generator: torch.Generator) -> Float[Tensor, "S P"]:
        """Draws of N(0, Sigma). The generator is one of the CPU."""

    @abstractmethod
    def output_covariance(self, jacobian: Float[Tensor, "*lead C P"]) -> Float[Tensor, "*lead C C"]:
        """J Sigma J' for every Jacobian J."""

    def sample(self, n_samples: int, generator: torch.Generator) -> Params:
        """Draws of the parameters of `layout`, stacked on a leading axis. The generator is one of the CPU."""
        return self.layout.unflatten(self.mean + self.deviations_drawn(n_samples, generator))

    def standing(self, objective: Objective) -> Objective:
        """The objective at the posterior's mean, with its parameters selected.

        Args:
            objective: Of the network that the posterior is of.

        Raises:
            TypeError: If its network is Bayesian and has a posterior of its own.
            ValueError: If it has no such parameters.
        """
        if objective.is_bayesian:
            raise TypeError(
                "a posterior of weights is for a deterministic network, but this one is Bayesian and carries its own; "
                "leave the posterior out"
            )
        if unknown := [name for name in self.layout.names if name not in objective.params]:
            raise ValueError(
                f"the posterior is of other parameters than the network's {sorted(objective.params)}, got {unknown}"
            )
        moved = objective.at({**objective.params, **self.layout.unflatten(self.mean)})
        return moved.taking(self.layout.names)


@dataclass(frozen=True, eq=False)
class GaussianOutputs:
    """Gaussian outputs of n examples.

    Attributes:
        mean: Of the outputs, for a linearised network those at the posterior's mean.
        covariance: Of each example's C outputs, flat; J Sigma J' of a linearised network.
    """

    mean: Float[Tensor, "n *out"]
    covariance: Float[Tensor, "n C C"]

    @classmethod
    def of_moments(cls, outputs: Moments) -> GaussianOutputs:
        """Of propagated moments that carry what outputs have in common; the rest of each variance is its own."""
        own, common = torch.diag_embed(own_part(outputs.variance, outputs.covariance)), outputs.covariance
        if common is None:
            return cls(outputs.expectation, own)
        columns = common.scale.unsqueeze(-1) * common.columns
        return cls(outputs.expectation, (columns * common.variances.unsqueeze(-2)) @ columns.mT + own)

    @property
    def moments(self) -> Moments:
        """Means and variances alone."""
        return Moments(self.mean, self.covariance.diagonal(dim1=1, dim2=2).reshape(self.mean.shape))

    def draws(self, n_samples: int) -> Float[Tensor, "S n *out"]:
        """Quasi-random draws of the outputs of an example together, the same normals for all examples.

        What outputs have in common is kept: a softmax does not see it, and of independent logits with the same
        variances it would be flattened by it.
        """
        values, vectors = torch.linalg.eigh(self.covariance)
        roots = vectors * values.clamp(min=0).sqrt().unsqueeze(1)
        normals = torch.from_numpy(sobol_normals(n_samples, roots.shape[-1], seed=0)).to(self.mean)
        return self.mean + torch.einsum("ncd,sd->snc", roots, normals).reshape(n_samples, *self.mean.shape)


def linearized_outputs(objective: Objective, posterior: WeightPosterior, inputs: Any) -> GaussianOutputs:
    """The outputs at the posterior's mean, and J Sigma J' with J their Jacobian in its parameters.

    Exact where the outputs are linear in them, as in a last layer. Memory: outputs x parameters for as many examples
    as fit into `JACOBIAN_ENTRIES`, at least one; time: a backward pass per output.

    Args:
        objective: Of a deterministic network with tensor outputs.
        posterior: Of its weights.
        inputs: A batch.

    Raises:
        TypeError: If the network is Bayesian.
        ValueError: If the posterior is of other parameters.
    """
    there = posterior.standing(objective)
    with torch.no_grad():
        mean = there.outputs(there.params, inputs)
    at_once = max(1, JACOBIAN_ENTRIES // (posterior.layout.total * mean[0].numel()))
    covariances = [
        posterior.output_covariance(per_example_jacobians(there, _rows(inputs, start, at_once)))
        for start in range(0, len(mean), at_once)
    ]
    return GaussianOutputs(mean, torch.cat(covariances))


def drawn_outputs(
    objective: Objective, posterior: WeightPosterior, inputs: Any, n_samples: int, generator: torch.Generator | None
) -> Iterator[Float[Tensor, "S n *out"]]:
    """The network's outputs at drawn weights, at most `SAMPLES_AT_ONCE` draws at a time.

    Args:
        objective: Of a deterministic network with tensor outputs.
        posterior: Of its weights.
        inputs: A batch.
        n_samples: Draws of the weights.
        generator: Source of the draws; seeded with 0 if not given.

    Raises:
        TypeError: If the network is Bayesian.
        ValueError: If the posterior is of other parameters, or there are fewer than two draws.
    """
    if n_samples < 2:
        raise ValueError(f"n_samples must be at least 2 to have a variance, got {n_samples}")
    there = posterior.standing(objective)

    def outputs(drawn: Params) -> Tensor:
        return there.outputs({**there.params, **drawn}, inputs)

    draws = posterior.sample(n_samples, torch.Generator().manual_seed(0) if generator is None else generator)
    for start in range(0, n_samples, SAMPLES_AT_ONCE):
        members = {name: value[start : start + SAMPLES_AT_ONCE] for name, value in draws.items()}
        with torch.no_grad():
            yield over_members(there.network, outputs, (members,), (0,))


def _rows(inputs: Any, start: int, count: int) -> Any:
    return inputs if count >= len(tree_leaves(inputs)[0]) else tree_map(lambda x: x[start : start + count], inputs)
