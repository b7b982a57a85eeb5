"""The Hessian of an objective, by products."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from bayes_influence.curvature.operators.batched import DataOperator
from bayes_influence.data.dataset import Batch, Dataset
from bayes_influence.objectives.objective import Objective

CACHE_BYTES = 1 << 30
"""Default bound on what an operator keeps between products: 1 GiB."""


class HessianOperator(DataOperator):
    """H = (1/n) sum_i grad^2 l_i + s grad^2 R at the objective's parameters, in its selected ones.

    A product with K vectors differentiates the gradient along all of them at once. As long as the saved
    intermediate values of all batches fit into `cache_bytes`, the graph of each batch's gradient is built once and
    kept, and a product only walks it; otherwise every product rebuilds it, batch by batch.

    Attributes:
        objective: Whose Hessian this is.
        data: The n examples of the mean.
        batch_size: Examples per product; all of them when None.
        cache_bytes: How much may be kept between products; 0 keeps nothing.
        kept_bytes: How much is.
    """

    def __init__(
        self, objective: Objective, data: Dataset, batch_size: int | None = None, cache_bytes: int = CACHE_BYTES
    ) -> None:
        super().__init__(objective, data, batch_size)
        self.cache_bytes = cache_bytes
        self.kept_bytes = 0
        self._graphs: list[tuple[Tensor, Tensor]] = []
        if cache_bytes > 0:
            self._keep_graphs()

    def _keep_graphs(self) -> None:
        for batch in self._batches:
            graph, size = self._gradient_graph(batch)
            # The last batch may be smaller, no other is larger: the first one already tells whether all will fit.
            if size * len(self._batches) > self.cache_bytes and not self._graphs:
                return
            self._graphs.append(graph)
            self.kept_bytes += size

    def _gradient_graph(self, batch: Batch) -> tuple[tuple[Tensor, Tensor], int]:
        sizes: dict[int, int] = {}

        def weigh(saved: Tensor) -> Tensor:
            storage = saved.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return saved

        theta = self._theta.detach().clone().requires_grad_()
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(weigh, lambda saved: saved):
            value = self._mean_loss(batch)(theta)
            (gradient,) = torch.autograd.grad(value, theta, create_graph=True)
        return (theta, gradient), sum(sizes.values())

    def _mean_loss(self, batch: Batch) -> Callable[[Tensor], Tensor]:
        fixed, layout = self.objective.params, self.objective.layout
        return lambda theta: self.objective.losses({**fixed, **layout.unflatten(theta)}, batch).mean()

    def _batch_product(self, index: int, vectors: Tensor) -> Tensor:
        if self._graphs:
            theta, gradient = self._graphs[index]
            rows = vectors.T.contiguous()
            return torch.autograd.grad(gradient, theta, rows, retain_graph=True, is_grads_batched=True)[0].T
        gradient_of = grad(self._mean_loss(self._batches[index]))
        return vmap(lambda vector: jvp(gradient_of, (self._theta,), (vector,))[1], in_dims=1, out_dims=1)(vectors)
