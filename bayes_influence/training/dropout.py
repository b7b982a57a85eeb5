"""Dropout for any network: in front of every fully connected layer but the first layer with weights."""

from __future__ import annotations

import copy

from torch import Tensor, nn

DROPOUT = 0.2
"""Probability with which an input of a layer is dropped. The published 0.5 is for layers of a thousand units; of five
units it leaves none every 32nd time."""


class DroppedLinear(nn.Linear):
    """`nn.Linear` that drops inputs in training mode; parameters keep their names and their values.

    Args:
        layer: The layer whose place it takes.
        probability: p of dropping an input; the others are divided by 1 - p.
    """

    def __init__(self, layer: nn.Linear, probability: float) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.dropout = nn.Dropout(probability)

    def forward(self, input: Tensor) -> Tensor:
        """W d(x) + b, with d the identity in evaluation mode."""
        return super().forward(self.dropout(input))


def with_dropout(network: nn.Module, probability: float = DROPOUT) -> nn.Module:
    """A copy of the network with dropout in front of every `nn.Linear` but the first layer with weights.

    Args:
        network: Left as it is.
        probability: p of dropping an input.

    Raises:
        ValueError: If no layer is left to drop inputs of, or p is not in (0, 1).
    """
    if not 0 < probability < 1:
        raise ValueError(f"the dropout probability must lie in (0, 1), got {probability}")
    twin = copy.deepcopy(network)
    weighted = [path for path, module in twin.named_modules() if list(module.parameters(recurse=False))]
    later = [path for path in weighted[1:] if type(twin.get_submodule(path)) is nn.Linear]
    if not later:
        raise ValueError(
            f"{type(network).__name__} has no fully connected layer behind its first layer, so there is nothing to "
            "drop; add a hidden layer or choose another scheme"
        )
    for path in later:
        parent, _, name = path.rpartition(".")
        layer = twin.get_submodule(path)
        assert isinstance(layer, nn.Linear)
        setattr(twin.get_submodule(parent), name, DroppedLinear(layer, probability).train(layer.training))
    return twin
