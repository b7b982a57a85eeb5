"""`Members`: networks of one architecture and objective on a leading axis, with a label each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from bayes_influence.arguments import check_whole, kind_of, shown
from bayes_influence.data.identities import example_positions
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import Params
from bayes_influence.torch_internals import tree_map

Stack = TypeVar("Stack", bound="Members")


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Members:
    """What training returns, and what influence and retraining take: E trained networks, stacked.

    A bare `Objective` is a stack of one, see `Members.of`.

    Attributes:
        objective: What all of them minimise, standing at the first one's parameters.
        params: Stacked parameters, (E, ...) each.
        buffers: Stacked buffers where members differ in them; others are the objective's.
        labels: What the members are called in tables and messages, e.g. "weight-decay, seed 3".
        seeds: Numbers that tell them apart: of their initialisation where that is known; 0, 1, ... when not given.

    Raises:
        TypeError: If labels are no strings, or seeds no whole numbers.
        ValueError: If there is no member, or labels, parameters and buffers are not of one length.
    """

    objective: Objective
    params: Params
    labels: tuple[str, ...]
    buffers: Params = field(default_factory=dict)
    seeds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.labels, str) or not all(isinstance(label, str) for label in self.labels):
            raise TypeError(f"labels must be a tuple of strings, got {shown(self.labels)}; give each member one")
        for seed in self.seeds:
            check_whole(**{"each seed": seed})
        if not self.seeds:
            object.__setattr__(self, "seeds", tuple(range(len(self.labels))))
        lengths = {len(value) for value in [*self.params.values(), *self.buffers.values()]} | {
            len(self.labels),
            len(self.seeds),
        }
        if len(lengths) != 1 or not self.labels:
            raise ValueError(f"members need as many labels and seeds as parameters, got lengths {sorted(lengths)}")

    @classmethod
    def of(
        cls,
        trained: Members | Objective | Sequence[Objective],
        labels: Sequence[str] | None = None,
        seeds: Sequence[int] = (),
    ) -> Members:
        """A stack as it is, or objectives as one.

        Args:
            trained: Networks of one architecture and objective, each where it was fitted.
            labels: What they are called; "network 0", ... when not given.
            seeds: Numbers that tell them apart.

        Raises:
            TypeError: If these are no objectives.
            ValueError: If the objectives differ in layers, parameters, likelihood, regulariser or its weight.
        """
        if isinstance(trained, Members):
            return trained
        if isinstance(labels, str):
            raise TypeError(f"labels must be a list of strings, got {labels!r}; give each member one")
        if not isinstance(trained, Objective | Sequence):
            raise TypeError(
                f"trained networks must be a Members or Fits, an Objective, or a list of them, got {kind_of(trained)}; "
                "make one, Objective(network, CrossEntropy(), ...)"
            )
        each = [trained] if isinstance(trained, Objective) else list(trained)
        for one in each:
            check_objective(one, "each trained network")
        if not each:
            raise ValueError("members need at least one objective, got none")
        if any(set(one.params) != set(each[0].params) or one.names != each[0].names for one in each):
            raise ValueError("members must share one architecture and take influence in the same parameters")
        for what in ("likelihood", "regulariser", "regulariser_weight"):
            if any(getattr(one, what) != getattr(each[0], what) for one in each):
                raise ValueError(f"members must share one objective, but they differ in their {what}; stack them apart")
        if any(repr(one.network) != repr(each[0].network) for one in each):
            raise ValueError("members must share one architecture, but their networks have other layers")
        return Members(
            objective=each[0],
            params=stack_members([one.params for one in each]),
            buffers=differing(stack_members([one.buffers for one in each])),
            labels=tuple(labels or (f"network {index}" for index in range(len(each)))),
            seeds=tuple(seeds),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Objective]:
        return (self.at(index) for index in range(len(self)))

    def __repr__(self) -> str:
        shown = ", ".join(self.labels[:3]) + (", ..." if len(self) > 3 else "")
        return f"{type(self).__name__}({len(self)} of {self.objective!r}: {shown})"

    @property
    def state(self) -> Params:
        """Stacked parameters and buffers, as functions of single members are mapped over."""
        return {**self.params, **self.buffers}

    def at(self, index: int) -> Objective:
        """The objective where one member stands.

        Raises:
            TypeError: If the index is no whole number.
            ValueError: If there is no such member.
        """
        check_whole(**{"a member's index": index})
        if not 0 <= index < len(self):
            raise ValueError(f"there are {len(self)} members: their index lies in 0..{len(self) - 1}, got {index}")
        return self.objective.at(member(self.params, index), member(self.buffers, index))

    def select(self: Stack, rows: Sequence[int] | Tensor) -> Stack:
        """Some of the members, in the given order.

        Raises:
            TypeError: If the rows are not whole numbers; see `example_positions`.
            ValueError: If none is given, or one outside 0..E - 1.
        """
        found = example_positions(rows, len(self)).tolist()
        if not found:
            raise ValueError(f"choose at least one of the {len(self)} members, got none")
        return self._replaced(found)

    def to(self: Stack, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Stack:
        """The same members in another floating-point dtype or on another device."""
        moved = self.objective.to(dtype=dtype, device=device)
        parts = {
            "params": {name: value.to(moved.params[name]) for name, value in self.params.items()},
            "buffers": {name: value.to(moved.buffers[name]) for name, value in self.buffers.items()},
        }
        return type(self)(**{**vars(self), "objective": moved, **parts})

    def taking(self: Stack, parameters: str | Sequence[str]) -> Stack:
        """The same members with influence taken in other parameters."""
        return type(self)(**{**vars(self), "objective": self.objective.taking(parameters)})

    def _replaced(self: Stack, rows: list[int], **changes: Any) -> Stack:
        """The members in the given rows: everything that has a member axis is taken from."""
        parts = {
            "objective": self.at(rows[0]),
            "params": tree_map(lambda leaf: leaf[rows], self.params),
            "buffers": tree_map(lambda leaf: leaf[rows], self.buffers),
            "labels": tuple(self.labels[row] for row in rows),
            "seeds": tuple(self.seeds[row] for row in rows),
        }
        return type(self)(**{**vars(self), **parts, **changes})


def stack_members(each: Sequence[Params]) -> Params:
    """Tensors of several networks of one architecture on a leading member axis E; of a single one without a copy."""
    if len(each) == 1:
        return {name: value.unsqueeze(0) for name, value in each[0].items()}
    return {name: torch.stack([one[name] for one in each]) for name in each[0]}


def member(stacked: Params, index: int) -> Params:
    """One network's tensors out of a stack."""
    return {name: value[index] for name, value in stacked.items()}


def differing(stacked: Params) -> Params:
    """Those of the stacked tensors in which members differ."""
    return {
        name: value
        for name, value in stacked.items()
        if len(value) > 1 and not torch.equal(value, value[:1].expand_as(value))
    }


def check_objective(value: Any, what: str) -> None:
    """Refuses what is no `Objective` where one is needed.

    Args:
        value: What came.
        what: What it should be.

    Raises:
        TypeError: If it is something else; the message says how to come to an `Objective`.
    """
    if not isinstance(value, Objective):
        several = isinstance(value, Sequence) or hasattr(value, "at")
        advice = "take one of them, such as .at(0)" if several else "make one, Objective(network, CrossEntropy(), ...)"
        raise TypeError(f"{what} must be one Objective, got {kind_of(value)}; {advice}")
