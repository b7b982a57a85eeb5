"""What one example holds while it is differentiated: the unit that plans of work on networks count in."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bayes_influence.data.batch import Batch
from bayes_influence.objectives.objective import Objective
from bayes_influence.torch_internals import TorchDispatchMode, is_zerotensor, tree_leaves, tree_map


def held_per_example(objective: Objective, batch: Batch) -> int:
    """Numbers that a gradient of J makes on its way there and back, for each example that there are more of.

    Seen on the first examples, two and four of them. Inputs, parameters and what does not grow with the examples are
    not among them; what several operations share counts once.

    Args:
        objective: At its parameters; the gradient is that in the selected ones.
        batch: Examples.
    """
    fewer, more = (_numbers(objective, batch, count) for count in (2, 4))
    return max(1, (more - fewer) // 2)


class _Made(TorchDispatchMode):
    """While active, keeps every tensor that an operation makes, so that no address is given out twice.

    The zero tangents of forward mode have no memory, and are left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[Tensor] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        leaves = (leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        self.tensors.extend(leaf for leaf in leaves if not is_zerotensor(leaf))
        return result


def _numbers(objective: Objective, batch: Batch, count: int) -> int:
    rows = torch.arange(count, device=batch.targets.device) % len(batch.targets)
    examples = objective.fitting(tree_map(lambda leaf: leaf[rows], batch))
    state = {name: value.detach() for name, value in objective.params.items()}
    selected = [state[name].requires_grad_() for name in objective.names]
    with torch.enable_grad(), _Made() as made:
        total = objective.losses(state, examples).sum()
        if total.requires_grad:
            torch.autograd.grad(total, selected, allow_unused=True)
    old = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves((examples, list(state.values())))}
    sizes = {
        leaf.untyped_storage().data_ptr(): leaf.untyped_storage().nbytes() // leaf.itemsize for leaf in made.tensors
    }
    return sum(size for address, size in sizes.items() if address not in old)
