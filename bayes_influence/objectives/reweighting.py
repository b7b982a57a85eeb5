"""Which examples are removed, and the data weights that say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bayes_influence.arguments import check_whole
from bayes_influence.data.dataset import Dataset, check_dataset
from bayes_influence.data.identities import example_ids
from bayes_influence.objectives.members import check_objective
from bayes_influence.objectives.objective import Objective

BATCH_SIZE = 1024
"""Examples whose losses are computed at a time."""

Convention = Literal["fixed", "renormalised"]
"""What becomes of the mean when m of n examples go.

`"fixed"` keeps 1/n (Koh & Liang 2017); `"renormalised"` is the mean over the n - m that remain (Basu et al. 2020).
Against a regulariser the two differ, the more the larger m/n.
"""


def largest_losses(objective: Objective, train: Dataset, count: int) -> Int[Tensor, " k"]:
    """Ids of the training examples with the largest loss where the objective stands, largest first.

    Raises:
        TypeError: If these are no objective and data set, or the count no whole number.
        ValueError: If there are not so many examples.
    """
    check_objective(objective, "what has losses")
    check_dataset(train, "the training examples")
    check_whole(count=count)
    if not 1 <= count <= len(train):
        raise ValueError(f"between 1 and {len(train)} examples can be removed one at a time, got {count}")
    order = torch.argsort(example_losses(objective, train), descending=True, stable=True)
    return train.ids[order[:count]]


def example_losses(objective: Objective, data: Dataset) -> Float[Tensor, " n"]:
    """Loss of every example where the objective stands, `BATCH_SIZE` at a time, in the dtype of the parameters.

    Raises:
        ValueError: If one is not finite, or the likelihood reduces over the batch.
    """
    dtype = next(iter(objective.params.values())).dtype
    objective.check(data.select([0]).to(dtype=dtype).batch())
    with torch.no_grad():
        parts = [
            objective.losses(objective.params, data.select(rows).to(dtype=dtype).batch())
            for rows in torch.arange(len(data)).split(BATCH_SIZE)
        ]
    losses = torch.cat(parts)
    bad = ~torch.isfinite(losses)
    if bad.any():
        raise ValueError(f"{int(bad.sum())} of {len(losses)} losses are not finite")
    return losses


@dataclass(frozen=True, eq=False)
class Removals:
    """For each of S seeds k groups of training examples; one refit per group, and a control that removes nothing.

    Attributes:
        groups: S sequences of k groups, each the ids of the examples that go together.
        convention: What becomes of the mean, see `Convention`.

    Raises:
        TypeError: If ids are not whole numbers.
        ValueError: If there is no seed or no group, seeds differ in their number of groups, a group is empty or names
            an example twice, or the convention is unknown.
    """

    groups: tuple[tuple[Int[Tensor, " _"], ...], ...]
    convention: Convention = "fixed"

    def __post_init__(self) -> None:
        check_convention(self.convention)
        counts = {len(groups) for groups in self.groups}
        if len(counts) != 1 or counts == {0}:
            raise ValueError(f"every seed needs the same number of removals, at least one, got {sorted(counts)}")
        groups = tuple(tuple(example_ids(group) for group in groups) for groups in self.groups)
        object.__setattr__(self, "groups", groups)
        for group in (group for groups in self.groups for group in groups):
            if len(group) == 0 or len(torch.unique(group)) != len(group):
                raise ValueError(f"a group names each removed example once, and at least one, got {group.tolist()}")

    @classmethod
    def one_at_a_time(cls, ids: Int[Tensor, "S k"], convention: Convention = "fixed") -> Removals:
        """Leave-one-out: each example is a group of its own."""
        return cls(tuple(tuple(row.unsqueeze(1)) for row in ids), convention)

    @classmethod
    def of_groups(cls, groups: Sequence[Int[Tensor, " _"]], seeds: int, convention: Convention = "fixed") -> Removals:
        """Leave-group-out: the same groups for every seed."""
        return cls((tuple(groups),) * seeds, convention)

    @property
    def count(self) -> int:
        """k, the removals per seed."""
        return len(self.groups[0])

    @property
    def single(self) -> bool:
        """Whether every group is one example."""
        return all(len(group) == 1 for groups in self.groups for group in groups)

    def of_seeds(self, rows: Sequence[int]) -> Removals:
        """The removals of some of the seeds."""
        return replace(self, groups=tuple(self.groups[row] for row in rows))

    def positions(self, train: Dataset) -> Int[Tensor, "S k"]:
        """Where the removed examples stand in the training set, if every group is one example.

        Raises:
            ValueError: If an id is not in the training set.
        """
        ids = torch.stack([torch.cat(groups) for groups in self.groups])
        return train.positions(ids.reshape(-1)).reshape(ids.shape)

    def data_weights(self, train: Dataset, dtype: torch.dtype = torch.float64) -> Float[Tensor, "S k_plus_1 n"]:
        """The w of J(theta, w) = (1/n) sum_i w_i l_i + R: the control's, then each removal's.

        A removed example has weight 0; the m removed ones leave the others at 1, or renormalised at n / (n - m).

        Raises:
            ValueError: If an id is not in the training set, or a group is all of it.
        """
        shape = len(self.groups), self.count + 1, len(train)
        weights = torch.ones(shape, dtype=dtype, device=train.ids.device)
        for seed, groups in enumerate(self.groups):
            for index, group in enumerate(groups, start=1):
                weights[seed, index] += removal_weights(train.positions(group), self.convention, weights[seed, index])
        return weights


def check_convention(convention: str) -> None:
    """Refuses anything else.

    Raises:
        ValueError: If it is none.
    """
    if convention not in get_args(Convention):
        raise ValueError(f"the convention must be one of {', '.join(get_args(Convention))}, got {convention!r}")


def removal_weights(
    positions: Int[Tensor, " m"], convention: Convention, like: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Dw of J(theta, 1 + dw): -1 on the group; elsewhere 0 ("fixed") or m / (n - m) ("renormalised").

    Args:
        positions: Where the group's examples stand.
        convention: What becomes of the mean.
        like: For its length n, dtype and device.

    Raises:
        ValueError: If the convention is unknown, an example is named twice, or the group is everything or nothing.
    """
    check_convention(convention)
    n, m = len(like), len(positions)
    if m == 0:
        raise ValueError("a group needs at least one example, got none")
    if len(torch.unique(positions)) != m:
        raise ValueError("a group names each example once, but an id occurs twice")
    if m >= n:
        raise ValueError(f"a removal of {m} of {n} training examples leaves none to refit on; keep at least one")
    weights = like.new_full((n,), m / (n - m) if convention == "renormalised" else 0.0)
    weights[positions] = -1.0
    return weights


def as_removals(removed: Removals | Int[Tensor, "*S k"], members: int) -> Removals:
    """Removals as they are, or ids to be left out one at a time with 1/n fixed: (S, k), or (k,) the same for all.

    Args:
        removed: What to remove.
        members: How many networks are refitted.

    Raises:
        TypeError: If ids are not whole numbers.
        ValueError: If the removals are for another number of networks, or an id comes twice.
    """
    if not isinstance(removed, Removals):
        ids = removed if isinstance(removed, Tensor) and removed.ndim == 2 else example_ids(removed)
        rows = ids.expand(members, -1) if ids.ndim == 1 else ids
        if any(len(row.unique()) < len(row) for row in rows):
            raise ValueError(f"each example is removed once, but an id occurs twice in {rows.tolist()}")
        removed = Removals.one_at_a_time(rows)
    if len(removed.groups) != members:
        raise ValueError(f"removals for {len(removed.groups)} networks, but {members} are refitted; give one list each")
    return removed
