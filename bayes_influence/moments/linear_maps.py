"""Maps that are linear in their input and in their weight, with both adjoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor

_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@runtime_checkable
class LinearMap(Protocol):
    """op(x, weight) + bias."""

    def __call__(
        self, x: Float[Tensor, "*shape"], weight: Float[Tensor, "*weight"], bias: Float[Tensor, " out"] | None
    ) -> Float[Tensor, "*out"]:
        """The map."""

    def to_input(
        self, gradient: Float[Tensor, "*out"], weight: Float[Tensor, "*weight"], shape: torch.Size
    ) -> Float[Tensor, "*shape"]:
        """Adjoint in the input: the gradient of <gradient, op(x, weight)> in x, which has this shape."""

    def to_weight(
        self, gradient: Float[Tensor, "*out"], x: Float[Tensor, "*shape"], shape: torch.Size
    ) -> Float[Tensor, "*weight"]:
        """Adjoint in the weight, which has this shape."""

    def to_bias(self, gradient: Float[Tensor, "*out"]) -> Float[Tensor, " out"]:
        """Adjoint in the bias."""


class Affine:
    """W x + b over the last axis: weight (out, in), input (..., in)."""

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """W x + b."""
        return F.linear(x, weight, bias)

    def to_input(self, gradient: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        """W^T g."""
        return gradient @ weight

    def to_weight(self, gradient: Tensor, x: Tensor, shape: torch.Size) -> Tensor:
        """Sum over the leading axes of g x^T."""
        return gradient.reshape(-1, shape[0]).mT @ x.reshape(-1, shape[1])

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

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution."""
        function = _CONVOLUTIONS[len(self.stride)]
        return function(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def to_input(self, gradient: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        """The transposed convolution of the gradient."""
        gradient = self._batched(gradient)
        # Only the shape of the other operand matters for either adjoint.
        like = gradient.new_zeros(()).expand(len(gradient), *shape[-len(self.stride) - 1 :])
        return self._adjoints(gradient, like, weight, (True, False, False))[0].reshape(shape)

    def to_weight(self, gradient: Tensor, x: Tensor, shape: torch.Size) -> Tensor:
        """The correlation of input and gradient, summed over the batch."""
        like = gradient.new_zeros(()).expand(shape)
        return self._adjoints(self._batched(gradient), self._batched(x), like, (False, True, False))[1]

    def to_bias(self, gradient: Tensor) -> Tensor:
        """Sum over batch and positions."""
        gradient = self._batched(gradient)
        return gradient.reshape(*gradient.shape[:2], prod(gradient.shape[2:])).sum((0, 2))

    def _batched(self, x: Tensor) -> Tensor:
        return x if x.ndim == len(self.stride) + 2 else x.unsqueeze(0)

    def _adjoints(self, gradient: Tensor, x: Tensor, weight: Tensor, mask: tuple[bool, bool, bool]) -> Any:
        no_output_padding = [0] * len(self.stride)
        return torch.ops.aten.convolution_backward(
            gradient,
            x,
            weight,
            None,
            self.stride,
            self.padding,
            self.dilation,
            False,
            no_output_padding,
            self.groups,
            mask,
        )
