"""Linear maps of moments: with fixed weights, with Gaussian weights, and products of matrices."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor

from bayes_influence.moments.arithmetic import mean_of, shared_approximation
from bayes_influence.moments.moments import Approximation, Moments
from bayes_influence.moments.registry import rule

LinearMap = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""op(x, weight, bias), linear in x and in the weight: `F.linear`, or a convolution with its geometry fixed."""


def fixed_weights(operation: LinearMap, x: Moments, weight: Tensor, bias: Tensor | None) -> Moments:
    """Moments through a linear map with fixed weights: op(m, w) + b and op(v, w^2)."""
    return Moments(operation(x.mean, weight, bias), operation(x.variance, weight.square(), None), x.approximation)


def gaussian_weights(
    operation: LinearMap,
    x: Tensor | Moments,
    weight: Float[Tensor, "*weight"],
    bias: Float[Tensor, " out"] | None,
    weight_variance: Float[Tensor, "*weight"],
    bias_variance: Float[Tensor, " out"] | None,
    approximation: Approximation,
) -> Moments:
    """Moments through a linear map with independent weights N(mu, sigma^2) and biases N(b, sigma_b^2).

    For a fixed input x: op(x, mu) + b and op(x^2, sigma^2) + sigma_b^2. For a random one (m, v): op(m, mu) + b and
    op(m^2, sigma^2) + op(v, mu^2 + sigma^2) + sigma_b^2, which is exact for independent entries (Dera, Rasool,
    Bouaynaya 2019) and two products of the size of the mean's.

    Args:
        operation: The linear map.
        x: Its input.
        weight: mu.
        bias: b, or None.
        weight_variance: sigma^2.
        bias_variance: sigma_b^2, or None.
        approximation: What the output carries on to the next rules.
    """
    if isinstance(x, Moments):
        mean = operation(x.mean, weight, bias)
        variance = operation(x.mean.square(), weight_variance, bias_variance)
        variance = variance + operation(x.variance, weight.square() + weight_variance, None)
    else:
        mean = operation(x, weight, bias)
        variance = operation(x.square(), weight_variance, bias_variance)
    return Moments(mean, variance, approximation)


@rule("linear")
def linear(input: Moments, weight: Tensor, bias: Tensor | None = None) -> Moments:
    """Fixed weights: W m + b and W^2 v, the square elementwise."""
    return fixed_weights(F.linear, input, weight, bias)


@rule("matmul", "mm", "bmm", torch.Tensor.__matmul__, torch.Tensor.__rmatmul__)
def matmul(left: Any, right: Any) -> Moments:
    """Product of independent matrices: M_1 M_2, and M_1^2 V_2 + V_1 M_2^2 + V_1 V_2 with elementwise squares."""
    mean = mean_of(left) @ mean_of(right)
    if not isinstance(right, Moments):
        variance = left.variance @ right.square()
    elif not isinstance(left, Moments):
        variance = left.square() @ right.variance
    else:
        variance = left.mean.square() @ right.variance + left.variance @ (right.mean.square() + right.variance)
    return Moments(mean, variance, shared_approximation(left, right))


def _convolution(
    function: Callable[..., Tensor], x: Moments, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any
) -> Moments:
    """A convolution with fixed weights, or a transposed one: op(m, w) + b and op(v, w^2)."""
    return fixed_weights(lambda x, weight, bias: function(x, weight, bias, *args, **kwargs), x, weight, bias)


for _name in ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"):
    rule(_name)(partial(_convolution, getattr(F, _name)))
