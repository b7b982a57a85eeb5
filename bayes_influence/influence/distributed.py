"""Influence over training examples that are spread over processes, by `torch.distributed`.

Every process holds a shard of the training set and the whole set of parameters. A product with the curvature is the
sum of the shards' products, one all-reduce; all processes then take the same solver steps on the same numbers. Each
scores its own examples: `values` are right at once, `removal` (1/n of them) when `gather_scores` has put the shards
side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor

from bayes_influence.curvature.operators.base import LinearOperator
from bayes_influence.curvature.operators.gauss_newton import GaussNewtonOperator
from bayes_influence.curvature.operators.hessian import HessianOperator
from bayes_influence.curvature.operators.regulariser import RegulariserOperator
from bayes_influence.data.dataset import Dataset
from bayes_influence.influence.response import MakeCurvature
from bayes_influence.influence.scores import InfluenceScores
from bayes_influence.objectives.objective import Objective


class ShardedOperator(LinearOperator):
    """(1/n) sum over all processes' examples of M_i, plus s grad^2 R once. One all-reduce of P K numbers per product.

    Args:
        objective: The same in every process.
        shard: This process' examples.
        make: The kind of curvature, linear in the examples: an operator class of `curvature.operators`.

    Attributes:
        n_train: Examples in all processes.

    Raises:
        RuntimeError: If `torch.distributed` is not initialised.
    """

    def __init__(self, objective: Objective, shard: Dataset, make: MakeCurvature = HessianOperator) -> None:
        theta = objective.layout.flatten(objective.params)
        super().__init__(theta.numel(), theta.dtype, theta.device)
        self.n_train = total_examples(shard)
        self._share = len(shard) / self.n_train
        self._local = make(replace(objective, regulariser_weight=0.0), shard)
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
class Sharded:
    """A kind of curvature over all processes' shards, for `Influence(..., curvature=Sharded())`.

    Every process must ask for the same things in the same order, since each product waits for all of them. Automatic
    damping looks at the whole training set, and comes to the same delta everywhere.

    Attributes:
        make: The kind of curvature, linear in the examples: an operator class of `curvature.operators`.
    """

    make: MakeCurvature = HessianOperator

    @property
    def __name__(self) -> str:
        """What the curvature is called in scores."""
        return f"sharded {getattr(self.make, '__name__', repr(self.make))}"

    def __call__(self, objective: Objective, shard: Dataset) -> ShardedOperator:
        """The curvature of all shards."""
        return ShardedOperator(objective, shard, self.make)

    def gauss_newton(self, objective: Objective, shard: Dataset) -> ShardedOperator:
        """The Gauss-Newton matrix of all shards, for automatic damping of whatever curvature."""
        return ShardedOperator(objective, shard, GaussNewtonOperator)


def gather_scores(local: InfluenceScores) -> InfluenceScores:
    """The scores of all shards side by side, in the order of the processes, in every process. Memory t n.

    Args:
        local: This process' scores, of an influence whose curvature is sharded.

    Raises:
        RuntimeError: If `torch.distributed` is not initialised.
    """
    world = dist.get_world_size()
    parts: list[InfluenceScores | None] = [None] * world
    dist.all_gather_object(parts, local)
    whole = [part for part in parts if part is not None]
    norms = [part.gradient_norms for part in whole if part.gradient_norms is not None]
    return replace(
        local,
        values=torch.cat([part.values for part in whole], dim=1),
        train_ids=torch.cat([part.train_ids for part in whole]),
        gradient_norms=torch.cat(norms) if len(norms) == world else None,
    )
