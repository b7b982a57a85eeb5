"""The Hessian of an objective, by products."""

from __future__ import annotations

from torch import Tensor
from torch.func import grad, jvp, vmap

from bayes_influence.curvature.operators.batched import DataOperator, example_losses
from bayes_influence.data.dataset import Batch


class HessianOperator(DataOperator):
    """H = (1/n) sum_i grad^2 l_i + s grad^2 R at the objective's parameters, in its selected ones.

    A product with K vectors is the forward derivative of the gradient along all of them at once. Floor for a linear
    layer of shape (out, in): 6 K matrix products of n x in x out multiplications and additions (2 K where the layer's
    inputs do not depend on the parameters), and 3 more where the linearisation is not kept.
    """

    def _batch_product(self, theta: Tensor, batch: Batch, vectors: Tensor) -> Tensor:
        losses = example_losses(self.objective, batch)
        gradient = grad(lambda parameters: losses(parameters).mean())
        return vmap(lambda vector: jvp(gradient, (theta,), (vector,))[1], in_dims=1)(vectors).T
