"""Curvature of training examples that are spread over processes, by `torch.distributed`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.distributed as dist
from torch import Tensor

from bayes_influence.curvature.operators.base import LinearOperator
from bayes_influence.curvature.operators.gauss_newton import GaussNewton
from bayes_influence.curvature.operators.hessian import Hessian
from bayes_influence.curvature.operators.kind import Curvature
from bayes_influence.curvature.operators.regulariser import RegulariserOperator
from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.objective import Objective


class ShardedOperator(LinearOperator):
    """(1/n) sum over all processes' examples of M_i, plus s grad^2 R once. One all-reduce of P K numbers per product.

    Args:
        objective: The same in every process.
        shard: This process' examples.
        kind: The kind of curvature, a mean over the examples.
        batch_size: Most examples that go through the network at a time.

    Raises:
        RuntimeError: If `torch.distributed` is not initialised.
    """

    def __init__(self, objective: Objective, shard: Dataset, kind: Curvature, batch_size: int | None = None) -> None:
        theta = objective.layout.flatten(objective.params)
        super().__init__(theta.numel(), theta.dtype, theta.device)
        self._share = len(shard) / total_examples(shard)
        self._local = kind.operator(replace(objective, regulariser_weight=0.0), shard, batch_size)
        self._regulariser = RegulariserOperator(objective)

    def _product(self, vectors: Tensor) -> Tensor:
        total = (self._share * (self._local @ vectors)).contiguous()
        dist.all_reduce(total)
        return total + self._regulariser @ vectors


def total_examples(shard: Dataset) -> int:
    """The number of training examples in all processes.

    Raises:
        RuntimeError: If `torch.distributed` is not initialised.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError(
            "sharded influence needs torch.distributed; call torch.distributed.init_process_group in every process"
        )
    count = torch.tensor(len(shard), device=shard.ids.device)
    dist.all_reduce(count)
    return int(count)


@dataclass(frozen=True)
class Sharded(Curvature):
    """A kind of curvature over all processes' shards, for `Influence(..., curvature=Sharded())`.

    Every process must ask for the same things in the same order, since each product waits for all of them. Automatic
    damping looks at the whole training set, and comes to the same delta everywhere.

    Attributes:
        kind: The kind of curvature, a mean over the examples.

    Raises:
        ValueError: If the kind is no mean over the examples, as EK-FAC's product of two means is not.
    """

    kind: Curvature = field(default_factory=Hessian)

    def __post_init__(self) -> None:
        if not self.kind.is_mean_over_examples:
            raise ValueError(
                f"sharded curvature is the mean of the shards' curvatures, which {self.kind.name!r} is not; take "
                f"Hessian(), GaussNewton() or EmpiricalFisher()"
            )

    @property
    def name(self) -> str:
        """What scores call it."""
        return f"sharded {self.kind.name}"

    @property
    def is_exact_hessian(self) -> bool:  # type: ignore[override]
        """Whether the shards' is."""
        return self.kind.is_exact_hessian

    @property
    def is_semidefinite(self) -> bool:  # type: ignore[override]
        """Whether the shards' is."""
        return self.kind.is_semidefinite

    def operator(self, objective: Objective, data: Dataset, batch_size: int | None = None) -> ShardedOperator:
        """The curvature of all shards, of which `data` is this process'."""
        return ShardedOperator(objective, data, self.kind, batch_size)

    def gauss_newton(
        self, objective: Objective, data: Dataset, operator: LinearOperator, batch_size: int | None = None
    ) -> LinearOperator:
        """The Gauss-Newton matrix of all shards, for automatic damping of whatever curvature."""
        return ShardedOperator(objective, data, GaussNewton(), batch_size)

    def examples(self, data: Dataset) -> int:
        """Those of all processes."""
        return total_examples(data)
