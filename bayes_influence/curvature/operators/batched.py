"""What the operators of an objective on a dataset share: batches, the mean over them, and the regulariser."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

from torch import Tensor
from torch.func import grad, jvp, vmap

from bayes_influence.curvature.operators.base import LinearOperator
from bayes_influence.data.dataset import Batch, Dataset
from bayes_influence.objectives.objective import Objective


class DataOperator(LinearOperator):
    """(1/n) sum_i M_i + s grad^2 R: a mean over the data, batch by batch, with the regulariser counted once.

    Attributes:
        objective: Whose curvature this is: at `objective.params`, in its selected parameters. An objective with
            `regulariser_weight=0` gives the data term alone.
        data: The n examples.
        batch_size: Examples per product; all of them when None.

    Raises:
        ValueError: If the batch size is below 1, or the objective's losses are not one finite number per example.
    """

    def __init__(self, objective: Objective, data: Dataset, batch_size: int | None = None) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"the batch size must be at least 1, got {batch_size}")
        theta = objective.layout.flatten(objective.params)
        super().__init__(theta.numel(), theta.dtype, theta.device)
        self.objective = objective
        self.data = data
        self.batch_size = len(data) if batch_size is None else min(batch_size, len(data))
        self._theta = theta
        self._batches: list[Batch] = list(data.batches(self.batch_size))
        objective.check(self._batches[0])

    @abstractmethod
    def _batch_product(self, index: int, vectors: Tensor) -> Tensor:
        """The mean of M_i over batch number `index`, times V of shape (P, K)."""

    def _product(self, vectors: Tensor) -> Tensor:
        total = self._regulariser_product(vectors)
        for index, batch in enumerate(self._batches):
            total = total + len(batch.targets) / len(self.data) * self._batch_product(index, vectors)
        return total

    def _regulariser_product(self, vectors: Tensor) -> Tensor:
        """The s grad^2 R of the formula, times V."""
        gradient = grad(regulariser_value(self.objective))
        products = vmap(lambda vector: jvp(gradient, (self._theta,), (vector,))[1], in_dims=1, out_dims=1)(vectors)
        return self.objective.regulariser_weight * products


def regulariser_value(objective: Objective) -> Callable[[Tensor], Tensor]:
    """R as a function of the flat selected parameters, every other parameter held where the objective stands."""
    fixed, layout = objective.params, objective.layout
    return lambda theta: objective.regulariser({**fixed, **layout.unflatten(theta)})
