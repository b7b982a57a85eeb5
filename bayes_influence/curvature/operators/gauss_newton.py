"""The generalised Gauss-Newton matrix, and the empirical Fisher, which is a different matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vjp, vmap

from bayes_influence.curvature.operators.base import LinearOperator
from bayes_influence.curvature.operators.batched import DataOperator
from bayes_influence.curvature.operators.kind import Curvature
from bayes_influence.curvature.operators.last_layer import last_layer_or_none
from bayes_influence.curvature.operators.output_curvature import OutputLosses
from bayes_influence.data.batch import Batch
from bayes_influence.data.dataset import Dataset
from bayes_influence.forward_mode import jvp
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.ways import reverse_along, reverse_pulled


class GaussNewtonOperator(DataOperator):
    """G = (1/n) sum_i J_i' Lambda_i J_i + s grad^2 R (Schraudolph 2002).

    J_i is the Jacobian of the network's outputs for example i and Lambda_i = grad^2 of its loss in those outputs. The
    Hessian is G plus the loss' gradient times the network's curvature. G is positive semidefinite wherever the
    likelihood is convex in the outputs (cross-entropy, squared error) and the regulariser is convex. Outputs may be any
    pytree of tensors: for the means and variances of a Bayesian network, Lambda_i is taken in both.

    Floor for a linear layer of shape (out, in): 4 K matrix products of n x in x out multiplications and additions (2 K
    where the layer's inputs do not depend on the parameters), and 1 more where the linearisation is not kept.
    """

    def _batch_product(self, theta: Tensor, batch: Batch, vectors: Tensor) -> Tensor:
        objective, flat = self.objective, self.objective.flat
        loss_gradient = grad(lambda outputs: objective.losses_of(outputs, batch).mean())

        def outputs_at(at: Tensor) -> Any:
            return flat.outputs(at, batch.inputs)

        def product(vector: Tensor) -> Tensor:
            forward = jvp(outputs_at, (theta,), (vector,))
            cotangents = jvp(loss_gradient, (forward[0],), (forward[1],))[1]
            return vjp(outputs_at, theta)[1](cotangents)[0]

        return vmap(product, in_dims=1)(vectors).T

    def _patient_product(self, theta: Tensor, batch: Batch, vectors: Tensor) -> Tensor:
        objective, flat = self.objective, self.objective.flat
        with torch.no_grad():
            losses = OutputLosses(objective, batch, flat.outputs(theta, batch.inputs))

        def outputs_at(at: Tensor) -> Tensor:
            return losses.join(flat.outputs(at, batch.inputs))

        pushed = torch.stack([reverse_along(outputs_at, theta, vector) for vector in vectors.T], dim=1)
        cotangents = losses.products(pushed) / len(batch.targets)
        return torch.stack([reverse_pulled(outputs_at, theta, column) for column in cotangents.T], dim=1)

    def semidefinite_part(self, count: int) -> LinearOperator:
        """The Gauss-Newton matrix of some examples."""
        return GaussNewtonOperator(self.objective, self._random_examples(count), self.batch_size)


class EmpiricalFisherOperator(DataOperator):
    """(1/n) sum_i w_i g_i g_i' + s grad^2 R, with the gradients g_i of the losses at the observed targets.

    A sample weight w_i counts once, as it does in J: an example of weight 2 is one that is there twice.

    Neither the Gauss-Newton matrix nor the Fisher information, whose targets are drawn from the model; it tends to 0
    where the training losses do (Kunstner, Balles, Hennig 2019). Costs as much as a Gauss-Newton product.
    """

    def _batch_product(self, theta: Tensor, batch: Batch, vectors: Tensor) -> Tensor:
        losses_at = self._losses_at(batch)

        def product(vector: Tensor) -> Tensor:
            slopes = jvp(losses_at, (theta,), (vector,))[1]
            return vjp(losses_at, theta)[1](slopes / torch.numel(slopes))[0]

        return vmap(product, in_dims=1)(vectors).T

    def _patient_product(self, theta: Tensor, batch: Batch, vectors: Tensor) -> Tensor:
        losses_at = self._losses_at(batch)
        slopes = [reverse_along(losses_at, theta, vector) / len(batch.targets) for vector in vectors.T]
        return torch.stack([reverse_pulled(losses_at, theta, slope) for slope in slopes], dim=1)

    def _losses_at(self, batch: Batch) -> Callable[[Tensor], Tensor]:
        flat, rooted = self.objective.flat, batch.with_root_weights()
        return lambda theta: flat.losses(theta, rooted)

    def semidefinite_part(self, count: int) -> LinearOperator:
        """The Gauss-Newton matrix of some examples."""
        return GaussNewtonOperator(self.objective, self._random_examples(count), self.batch_size)


@dataclass(frozen=True)
class GaussNewton(Curvature):
    """The generalised Gauss-Newton matrix; in closed form for a linear last layer, where it is the Hessian."""

    name = "ggn"
    is_semidefinite = True

    def operator(self, objective: Objective, data: Dataset, batch_size: int | None = None) -> LinearOperator:
        """A `LastLayerOperator` where there is nothing but a linear layer, else a `GaussNewtonOperator`."""
        return last_layer_or_none(objective, data) or GaussNewtonOperator(objective, data, batch_size)


@dataclass(frozen=True)
class EmpiricalFisher(Curvature):
    """The empirical Fisher, from gradients at the observed targets."""

    name = "empirical-fisher"
    is_semidefinite = True

    def operator(self, objective: Objective, data: Dataset, batch_size: int | None = None) -> EmpiricalFisherOperator:
        """An `EmpiricalFisherOperator`."""
        return EmpiricalFisherOperator(objective, data, batch_size)
