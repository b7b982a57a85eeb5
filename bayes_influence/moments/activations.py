"""Derivatives of the common activations; every other elementwise function by name."""

from __future__ import annotations

from math import pi, sqrt
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from bayes_influence.moments.elementwise_functions import (
    derivative_of,
    propagate,
    register_elementwise,
    second_derivative_of,
    without_moments,
)
from bayes_influence.moments.gaussian import GAUSS_HERMITE_NODES, normal_density, normal_distribution
from bayes_influence.moments.moments import Moments
from bayes_influence.moments.registry import UnsupportedOperationError, rule

SELU_SCALE = 1.0507009873554805
SELU_ALPHA = 1.6732632423543772

register_elementwise(
    "abs",
    "asinh",
    "atan",
    "clamp",
    "cos",
    "erf",
    "erfc",
    "expm1",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "relu6",
    "sin",
    "sinh",
    "softshrink",
    "tanhshrink",
    "threshold",
)


def whole_power(exponent: Any) -> bool:
    """Whether x to that power is a polynomial of which the quadrature gives exact moments."""
    return isinstance(exponent, int | float) and exponent in range(GAUSS_HERMITE_NODES)


without_moments("log", "log1p", "reciprocal", "rsqrt", "sqrt", "tan")
without_moments("pow", unless=whole_power)


@derivative_of("relu")
def relu(mean: Tensor) -> tuple[Tensor, Tensor]:
    """Rectifier max(m, 0); its derivative is 1 for m > 0, else 0."""
    return F.relu(mean), (mean > 0).to(mean.dtype)


@second_derivative_of(relu)
def relu_curvature(mean: Tensor, value: Tensor, derivative: Tensor) -> None:
    """Zero, on both sides of the kink."""


@derivative_of("leaky_relu")
def leaky_relu(mean: Tensor, negative_slope: float = 0.01) -> tuple[Tensor, Tensor]:
    """Leaky rectifier: m for m > 0, else s m; its derivative is 1 or s."""
    return F.leaky_relu(mean, negative_slope), negative_slope + (1 - negative_slope) * (mean > 0).to(mean.dtype)


@second_derivative_of(leaky_relu)
def leaky_relu_curvature(mean: Tensor, value: Tensor, derivative: Tensor) -> None:
    """Zero, on both sides of the kink."""


@rule(F.rrelu, entrywise=True)
def rrelu(
    input: Moments, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False
) -> Moments:
    """Leaky rectifier with the mean of the two slopes, as in evaluation mode.

    Raises:
        UnsupportedOperationError: In training mode, where every entry draws a slope of its own.
    """
    if training:
        raise UnsupportedOperationError("RReLU of Moments has no rule in training mode; call .eval() on the network")
    return propagate(F.leaky_relu, input, (lower + upper) / 2, inplace=inplace)


def leaky_rectifier(x: Tensor, slopes: Tensor) -> Tensor:
    """The leaky rectifier of slopes that are a tensor: x for x > 0, else s x."""
    return torch.where(x > 0, x, slopes * x)


@rule("prelu", entrywise=True, covariant=True)
def prelu(input: Moments, weight: Tensor) -> Moments:
    """Leaky rectifier with a trained slope, or one for each channel on the second axis."""
    if input.ndim < 2:
        return propagate(leaky_rectifier, input, weight.squeeze())
    return propagate(leaky_rectifier, input, weight.expand(input.shape[1]).reshape(-1, *[1] * (input.ndim - 2)))


@derivative_of("tanh")
def tanh(mean: Tensor) -> tuple[Tensor, Tensor]:
    """Hyperbolic tangent; its derivative is 1 - tanh^2 m."""
    value = torch.tanh(mean)
    return value, 1 - value.square()


@second_derivative_of(tanh)
def tanh_curvature(mean: Tensor, value: Tensor, derivative: Tensor) -> Tensor:
    """-2 f f'."""
    return -2 * value * derivative


@derivative_of("sigmoid")
def sigmoid(mean: Tensor) -> tuple[Tensor, Tensor]:
    """Logistic function s; its derivative is s (1 - s)."""
    value = torch.sigmoid(mean)
    return value, value * (1 - value)


@second_derivative_of(sigmoid)
def sigmoid_curvature(mean: Tensor, value: Tensor, derivative: Tensor) -> Tensor:
    """(1 - 2 f) f'."""
    return derivative * (1 - 2 * value)


@derivative_of("logsigmoid")
def log_sigmoid(mean: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithm of the logistic function; its derivative is sigmoid(-m)."""
    return F.logsigmoid(mean), torch.sigmoid(-mean)


@derivative_of("softsign")
def softsign(mean: Tensor) -> tuple[Tensor, Tensor]:
    """Softsign m / (1 + |m|); its derivative is 1 / (1 + |m|)^2."""
    return F.softsign(mean), (1 + mean.abs()).square().reciprocal()


@derivative_of("softplus")
def softplus(mean: Tensor, beta: float = 1.0, threshold: float = 20.0) -> tuple[Tensor, Tensor]:
    """Softplus log(1 + exp(beta m)) / beta; its derivative is sigmoid(beta m)."""
    return F.softplus(mean, beta, threshold), torch.sigmoid(beta * mean)


@derivative_of("elu")
def elu(mean: Tensor, alpha: float = 1.0) -> tuple[Tensor, Tensor]:
    """ELU: m for m > 0, else alpha (exp m - 1); its derivative is 1, or f(m) + alpha."""
    value = F.elu(mean, alpha)
    return value, torch.where(mean > 0, 1.0, value + alpha)


@derivative_of("selu")
def selu(mean: Tensor) -> tuple[Tensor, Tensor]:
    """SELU: s m for m > 0, else s alpha (exp m - 1); its derivative is s, or f(m) + s alpha."""
    value = F.selu(mean)
    return value, torch.where(mean > 0, SELU_SCALE, value + SELU_SCALE * SELU_ALPHA)


@second_derivative_of(selu)
def selu_curvature(mean: Tensor, value: Tensor, derivative: Tensor) -> Tensor:
    """Below zero f', above zero."""
    return torch.where(value > 0, 0.0, derivative)


@derivative_of("silu")
def silu(mean: Tensor) -> tuple[Tensor, Tensor]:
    """SiLU m s with s = sigmoid m; its derivative is s (1 + m (1 - s))."""
    gate = torch.sigmoid(mean)
    return F.silu(mean), gate * (1 + mean * (1 - gate))


@derivative_of("mish")
def mish(mean: Tensor) -> tuple[Tensor, Tensor]:
    """Mish m t with t = tanh(softplus m); its derivative is t + m t' with t' = sigmoid(m) (1 - t^2)."""
    gate = torch.tanh(F.softplus(mean))
    return F.mish(mean), gate + mean * torch.sigmoid(mean) * (1 - gate.square())


@second_derivative_of(mish)
def mish_curvature(mean: Tensor, value: Tensor, derivative: Tensor) -> Tensor:
    """2 t' + m t' (1 - s - 2 t s) with s = sigmoid m."""
    gate, sigmoid = torch.tanh(F.softplus(mean)), torch.sigmoid(mean)
    slope = sigmoid * (1 - gate.square())
    return slope * (2 + mean * (1 - sigmoid - 2 * gate * sigmoid))


@derivative_of("gelu")
def gelu(mean: Tensor, approximate: str = "none") -> tuple[Tensor, Tensor]:
    """GELU m Phi(m); its derivative is Phi(m) + m phi(m). With `approximate="tanh"`, the derivative of that formula."""
    value = F.gelu(mean, approximate=approximate)
    if approximate == "none":
        return value, normal_distribution(mean) + mean * normal_density(mean)
    inner = sqrt(2 / pi) * (mean + 0.044715 * mean**3)
    gate = torch.tanh(inner)
    slope = sqrt(2 / pi) * (1 + 3 * 0.044715 * mean.square())
    return value, 0.5 * (1 + gate) + 0.5 * mean * (1 - gate.square()) * slope


@derivative_of("exp")
def exp(mean: Tensor) -> tuple[Tensor, Tensor]:
    """Exponential; it is its own derivative."""
    value = torch.exp(mean)
    return value, value


@second_derivative_of(exp)
def exp_curvature(mean: Tensor, value: Tensor, derivative: Tensor) -> Tensor:
    """As f itself."""
    return value


@derivative_of("square")
def square(mean: Tensor) -> tuple[Tensor, Tensor]:
    """Square; its derivative is 2 m."""
    return mean.square(), 2 * mean
