"""Linear and convolutional layers: those whose parameter gradients are sums of outer products."""

from __future__ import annotations

from torch import nn

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Their types, without subclasses, which may compute something else; convolutions of one group."""

IN_WORDS = "nn.Linear, ungrouped nn.Conv1d, nn.Conv2d and nn.Conv3d, and GPT-2's Conv1D"
"""The same for messages; the last is a linear layer of Transformers whose weight is transposed."""


def is_layer(module: nn.Module) -> bool:
    """Whether a module looks like one; what passes through it is held against its gradient where it is taken apart."""
    plain = type(module) in LAYERS and getattr(module, "groups", 1) == 1
    return plain or is_transposed(module)


def is_transposed(module: nn.Module) -> bool:
    """Whether a module looks like GPT-2's Conv1D, a linear layer whose weight is (inputs, outputs)."""
    own = {name: tuple(value.shape) for name, value in module.named_parameters()}
    return (
        type(module).__name__ == "Conv1D"
        and set(own) == {"weight", "bias"}
        and len(own["weight"]) == 2
        and own["bias"] == own["weight"][1:]
    )
