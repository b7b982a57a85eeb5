"""The Hessian of an objective, by products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.func import grad, vmap

from bayes_influence.curvature.operators.base import LinearOperator
from bayes_influence.curvature.operators.batched import DataOperator
from bayes_influence.curvature.operators.gauss_newton import GaussNewton, GaussNewtonOperator
from bayes_influence.curvature.operators.kind import Curvature
from bayes_influence.curvature.operators.last_layer import last_layer_or_none
from bayes_influence.data.batch import Batch
from bayes_influence.data.dataset import Dataset
from bayes_influence.forward_mode import jvp
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.reduction import is_linear_layer
from bayes_influence.objectives.ways import reverse_products


class HessianOperator(DataOperator):
    """H = (1/n) sum_i grad^2 l_i + s grad^2 R at the objective's parameters, in its selected ones.

    A product with K vectors is the forward derivative of the gradient along all of them at once. Floor for a linear
    layer of shape (out, in): 6 K matrix products of n x in x out multiplications and additions (2 K where the layer's
    inputs do not depend on the parameters), and 3 more where the linearisation is not kept.
    """

    def _batch_product(self, theta: Tensor, batch: Batch, vectors: Tensor) -> Tensor:
        gradient = grad(self._mean_loss(batch))
        return vmap(lambda vector: jvp(gradient, (theta,), (vector,))[1], in_dims=1)(vectors).T

    def _patient_product(self, theta: Tensor, batch: Batch, vectors: Tensor) -> Tensor:
        return reverse_products(self._mean_loss(batch), theta, vectors)

    def _mean_loss(self, batch: Batch) -> Callable[[Tensor], Tensor]:
        flat = self.objective.flat
        return lambda theta: flat.losses(theta, batch).mean()

    def semidefinite_part(self, count: int) -> LinearOperator:
        """The Gauss-Newton matrix of some examples."""
        return GaussNewtonOperator(self.objective, self._random_examples(count), self.batch_size)


@dataclass(frozen=True)
class Hessian(Curvature):
    """The Hessian of the training objective; in closed form for a linear last layer."""

    name = "hessian"
    is_exact_hessian = True

    def operator(self, objective: Objective, data: Dataset, batch_size: int | None = None) -> LinearOperator:
        """A `LastLayerOperator` where there is nothing but a linear layer, else a `HessianOperator`."""
        return last_layer_or_none(objective, data) or HessianOperator(objective, data, batch_size)

    def gauss_newton(
        self, objective: Objective, data: Dataset, operator: LinearOperator, batch_size: int | None = None
    ) -> LinearOperator:
        """The Gauss-Newton matrix; in a linear layer that is the Hessian itself."""
        if is_linear_layer(objective, data.example.inputs):
            return operator
        return GaussNewton().operator(objective, data, batch_size)
