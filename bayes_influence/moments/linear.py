"""Linear maps of moments: with fixed weights, with Gaussian weights, and products of matrices."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor

from bayes_influence.moments.arithmetic import check_fixed, mean_of, shared_approximation
from bayes_influence.moments.linear_maps import LinearMap
from bayes_influence.moments.moments import Approximation, Moments
from bayes_influence.moments.registry import rule
from bayes_influence.moments.transforms import plain_formulas_needed


def fixed_weights(operation: Callable[..., Tensor], x: Any, weight: Any, bias: Any) -> Moments:
    """Moments through a linear map with fixed weights: op(m, w) + b and op(v, w^2).

    Raises:
        UnsupportedOperationError: If weights or biases are random.
    """
    check_fixed("a linear layer or convolution as a function", weight=weight, bias=bias)
    return Moments(
        operation(x.expectation, weight, bias), operation(x.variance, weight.square(), None), x.approximation
    )


def gaussian_weights(
    operation: LinearMap,
    x: Tensor | Moments,
    weight: Float[Tensor, "*weight"],
    bias: Float[Tensor, " out"] | None,
    weight_rho: Float[Tensor, "*weight"],
    bias_rho: Float[Tensor, " out"] | None,
    approximation: Approximation,
) -> Moments:
    """Moments through a linear map with independent weights N(mu, sigma^2) and biases N(b, sigma_b^2).

    For a fixed input x: op(x, mu) + b and op(x^2, sigma^2) + sigma_b^2. For a random one (m, v): op(m, mu) + b and
    op(m^2, sigma^2) + op(v, mu^2 + sigma^2) + sigma_b^2, which is exact for independent entries (Dera, Rasool,
    Bouaynaya 2019) and two products of the size of the mean's. The backward pass keeps x, mu and rho only.

    Args:
        operation: The linear map.
        x: Its input.
        weight: mu.
        bias: b, or None.
        weight_rho: log sigma.
        bias_rho: log sigma_b, or None.
        approximation: What the output carries on to the next rules.
    """
    mean, variance = (x.expectation, x.variance) if isinstance(x, Moments) else (x, None)
    compute: Callable[..., tuple[Tensor, Tensor]] = _moments if plain_formulas_needed() else _GaussianWeights.apply
    moments = compute(mean, variance, weight, bias, weight_rho, bias_rho, operation)
    return Moments(moments[0], moments[1], approximation)


def _moments(
    mean: Tensor,
    variance: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    weight_rho: Tensor,
    bias_rho: Tensor | None,
    operation: LinearMap,
) -> tuple[Tensor, Tensor]:
    bias_variance = None if bias_rho is None else torch.exp(2 * bias_rho)
    weight_variance = torch.exp(2 * weight_rho)
    spread = operation(mean.square(), weight_variance, bias_variance)
    if variance is not None:
        spread = spread + operation(variance, weight.square() + weight_variance, None)
    return operation(mean, weight, bias), spread


class _GaussianWeights(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, Tensor]:
        return _moments(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        *tensors, ctx.operation = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        mean, variance, weight, bias, weight_rho, bias_rho = ctx.saved_tensors
        by_mean, by_variance = gradients
        operation: LinearMap = ctx.operation
        weight_variance = torch.exp(2 * weight_rho)
        wanted = ctx.needs_input_grad[0]
        to_mean, to_weight = operation.adjoints(by_mean, mean, weight, wanted)
        to_square, to_weight_variance = operation.adjoints(by_variance, mean.square(), weight_variance, wanted)
        if to_mean is not None and to_square is not None:
            to_mean = to_mean + 2 * mean * to_square
        to_variance = None
        if variance is not None:
            second_moment = weight.square() + weight_variance
            to_variance, to_second = operation.adjoints(by_variance, variance, second_moment, ctx.needs_input_grad[1])
            to_weight = to_weight + 2 * weight * to_second
            to_weight_variance = to_weight_variance + to_second
        to_rho = 2 * weight_variance * to_weight_variance
        to_bias = None if bias is None else operation.to_bias(by_mean)
        to_bias_rho = None if bias_rho is None else 2 * torch.exp(2 * bias_rho) * operation.to_bias(by_variance)
        return to_mean, to_variance, to_weight, to_bias, to_rho, to_bias_rho, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, Tensor]:
        mean, variance, weight, _, weight_rho, bias_rho = ctx.saved_tensors
        of_mean, of_variance, of_weight, of_bias, of_rho, of_bias_rho, _ = tangents
        operation: LinearMap = ctx.operation
        weight_variance = torch.exp(2 * weight_rho)
        of_weight_variance = 2 * weight_variance * of_rho
        of_bias_variance = None if bias_rho is None else 2 * torch.exp(2 * bias_rho) * of_bias_rho
        first = operation(of_mean, weight, None) + operation(mean, of_weight, of_bias)
        second = operation(2 * mean * of_mean, weight_variance, None)
        second = second + operation(mean.square(), of_weight_variance, of_bias_variance)
        if variance is not None:
            second = second + operation(of_variance, weight.square() + weight_variance, None)
            second = second + operation(variance, 2 * weight * of_weight + of_weight_variance, None)
        return first, second


@rule("linear")
def linear(input: Any, weight: Any, bias: Any = None) -> Moments:
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
        variance = left.expectation.square() @ right.variance + left.variance @ (
            right.expectation.square() + right.variance
        )
    return Moments(mean, variance, shared_approximation(left, right))


def _convolution(
    function: Callable[..., Tensor], x: Any, weight: Any, bias: Any = None, *args: Any, **kwargs: Any
) -> Moments:
    """A convolution with fixed weights, or a transposed one: op(m, w) + b and op(v, w^2)."""
    return fixed_weights(lambda x, weight, bias: function(x, weight, bias, *args, **kwargs), x, weight, bias)


for _name in ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"):
    rule(_name)(partial(_convolution, getattr(F, _name)))
