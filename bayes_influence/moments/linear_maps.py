"""Maps that are linear in their input and in their weight, with both adjoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor

_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@runtime_checkable
class LinearMap(Protocol):
    """op(x, weight) + bias."""

    def __call__(
        self, x: Float[Tensor, "*shape"], weight: Float[Tensor, "*weight"], bias: Float[Tensor, " out"] | None
    ) -> Float[Tensor, "*out"]:
        """The map."""

    def adjoints(
        self,
        gradient: Float[Tensor, "*out"],
        x: Float[Tensor, "*shape"],
        weight: Float[Tensor, "*weight"],
        input_too: bool,
    ) -> tuple[Float[Tensor, "*shape"] | None, Float[Tensor, "*weight"]]:
        """Gradients of <gradient, op(x, weight)> in x, if that one is wanted, and in the weight."""

    def to_bias(self, gradient: Float[Tensor, "*out"]) -> Float[Tensor, " out"]:
        """Adjoint in the bias."""


class Affine:
    """W x + b over the last axis: weight (out, in), input (..., in)."""

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """W x + b."""
        return F.linear(x, weight, bias)

    def adjoints(self, gradient: Tensor, x: Tensor, weight: Tensor, input_too: bool) -> tuple[Tensor | None, Tensor]:
        """W^T g, and the sum over the leading axes of g x^T."""
        to_input = gradient @ weight if input_too else None
        return to_input, gradient.reshape(-1, weight.shape[0]).mT @ x.reshape(-1, weight.shape[1])

    def to_bias(self, gradient: Tensor) -> Tensor:
        """Sum over the leading axes."""
        return gradient.reshape(-1, gradient.shape[-1]).sum(0)


@dataclass(frozen=True)
class Convolution:
    """A convolution padded with zeros: weight (out, in per group, *kernel), input (batch, in, *spatial) or one example.

    Attributes:
        stride: One number per spatial dimension, as the others.
        padding: Zeros on either side.
        dilation: Distance of the kernel's entries.
        groups: Groups of channels.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def _is_transposed(self) -> bool:
        return False

    @property
    def _output_padding(self) -> tuple[int, ...]:
        return (0,) * len(self.stride)

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution."""
        function = _CONVOLUTIONS[len(self.stride)]
        return function(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def adjoints(self, gradient: Tensor, x: Tensor, weight: Tensor, input_too: bool) -> tuple[Tensor | None, Tensor]:
        """The map's transpose of the gradient, and the correlation of input and gradient."""
        to_input, to_weight, _ = torch.ops.aten.convolution_backward(
            self._batched(gradient),
            self._batched(x),
            weight,
            None,
            self.stride,
            self.padding,
            self.dilation,
            self._is_transposed,
            self._output_padding,
            self.groups,
            (input_too, True, False),
        )
        return to_input.reshape(x.shape) if input_too else None, to_weight

    def to_bias(self, gradient: Tensor) -> Tensor:
        """Sum over batch and positions."""
        gradient = self._batched(gradient)
        return gradient.reshape(*gradient.shape[:2], prod(gradient.shape[2:])).sum((0, 2))

    def _batched(self, x: Tensor) -> Tensor:
        return x if x.ndim == len(self.stride) + 2 else x.unsqueeze(0)


@dataclass(frozen=True)
class TransposedConvolution(Convolution):
    """The transpose of a convolution: weight (in, out per group, *kernel), input (batch, in, *spatial) or one example.

    Attributes:
        output_padding: Positions added on one side of the output.
    """

    output_padding: tuple[int, ...]

    @property
    def _is_transposed(self) -> bool:
        return True

    @property
    def _output_padding(self) -> tuple[int, ...]:
        return self.output_padding

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The transposed convolution."""
        function = _TRANSPOSED[len(self.stride)]
        return function(x, weight, bias, self.stride, self.padding, self.output_padding, self.groups, self.dilation)
