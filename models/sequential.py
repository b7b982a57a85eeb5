"""A sequence of modules that knows the shape of one input."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn


class ShapedSequential(nn.Sequential):
    """`nn.Sequential` that refuses inputs of another shape by name, before a layer inside it fails on them.

    Args:
        input_shape: Shape of one input, without the batch axis.
        modules: The modules, called in this order.
    """

    def __init__(self, input_shape: Sequence[int], modules: Iterable[nn.Module]) -> None:
        super().__init__(*modules)
        self.input_shape = tuple(input_shape)

    def forward(self, input: Any) -> Any:
        """Outputs of shape (B, n_outputs) for inputs of shape (B, *input_shape).

        Raises:
            ValueError: If the inputs have another shape.
        """
        if tuple(input.shape[1:]) != self.input_shape:
            raise ValueError(
                f"{type(self).__name__} expects inputs of shape (B, {', '.join(map(str, self.input_shape))}), "
                f"got {tuple(input.shape)}; build the network for the shape of the data"
            )
        return super().forward(input)
