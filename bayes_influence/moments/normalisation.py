"""Normalisation layers: batch norm with its running statistics, and the norms of one example to first order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor

from bayes_influence.moments.arithmetic import check_fixed
from bayes_influence.moments.covariance import check_columns
from bayes_influence.moments.joint import descend, linearised, own_variance
from bayes_influence.moments.moments import Moments, without_covariance_rule
from bayes_influence.moments.registry import UnsupportedOperationError, rule


@rule(F.batch_norm, entrywise=True, covariant=True)
def batch_norm(
    input: Any,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Moments:
    """With running statistics: affine in m, and v gamma^2 / (running_var + eps).

    Raises:
        UnsupportedOperationError: In training mode, or without running statistics: a batch's own statistics tie its
            examples together.
    """
    check_fixed("batch_norm", weight=weight, bias=bias)
    if training or running_mean is None or running_var is None:
        raise UnsupportedOperationError(
            "batch normalisation of Moments takes running statistics; call .eval() on a network that tracks them "
            "(its statistics come from the deterministic network's training)"
        )
    mean = F.batch_norm(input.expectation, running_mean, running_var, weight, bias, False, momentum, eps)
    scale = _per_channel((running_var + eps).rsqrt() * (1.0 if weight is None else weight), input.ndim)
    covariance = input.covariance and input.covariance.scaled(scale)
    result = Moments(mean, input.variance * scale.square(), input.approximation, covariance)
    return descend(result, input, lambda: scale)


@rule(F.layer_norm, covariant=True)
def layer_norm(
    input: Any,
    normalized_shape: Sequence[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
) -> Moments:
    """Linearised at the mean: LN(m), and the variance by the Jacobian (delta_ij - 1/D - h_i h_j / D) gamma_i / s.

    With h = (m - mean m) / s, s^2 = var m + eps over the D normalised entries, and A, B, C the means over j of v_j,
    h_j v_j and h_j^2 v_j:  (gamma_i / s)^2 [v_i (1 - 2/D - 2 h_i^2 / D) + (A + 2 h_i B + h_i^2 C) / D].

    By another method than first order, s^2 is its expectation, var m + (1 - 1/D) mean v + eps for independent entries:
    what varies makes the spread wider by which all entries are divided.

    Where covariances are followed and one axis is normalised, they go through the Jacobian and count in the expected
    spread: var m + mean v - Var(mean x) + eps.

    Raises:
        UnsupportedOperationError: If a covariance is followed and more than one axis is normalised.
    """
    check_fixed("layer_norm", weight=weight, bias=bias)
    if input.approximation.covariant and (len(normalized_shape) == 1 or input.covariance is not None):
        return _covariant_layer_norm(input, normalized_shape, weight, bias, eps)
    dims = tuple(range(-len(normalized_shape), 0))
    function = partial(F.layer_norm, normalized_shape=normalized_shape, eps=eps)
    return _affine(function, input, _standardised(input, dims, eps), weight, bias)


@rule(F.group_norm)
def group_norm(input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Moments:
    """Layer norm within each group of channels, with a factor and an offset per channel."""
    check_fixed("group_norm", weight=weight, bias=bias)
    function = partial(F.group_norm, num_groups=num_groups, eps=eps)
    return _affine(function, input, _in_groups(input, num_groups, eps), weight, bias, per_channel=True)


@rule(F.instance_norm)
def instance_norm(
    input: Any,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Moments:
    """Group norm of single channels; with running statistics, batch norm."""
    check_fixed("instance_norm", weight=weight, bias=bias)
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    function = partial(F.instance_norm, eps=eps)
    return _affine(function, input, _in_groups(input, input.shape[1], eps), weight, bias, per_channel=True)


@rule(F.rms_norm)
def rms_norm(input: Any, normalized_shape: Sequence[int], weight: Any = None, eps: float | None = None) -> Moments:
    """Divided by s, s^2 = mean m^2 + eps; the Jacobian is (delta_ij - h_i h_j / D) gamma_i / s with h = m / s.

    The variance is (gamma_i / s)^2 [v_i (1 - 2 h_i^2 / D) + h_i^2 C / D], C the mean over j of h_j^2 v_j. By another
    method than first order, s^2 is its expectation, mean (m^2 + v) + eps.
    """
    check_fixed("rms_norm", weight=weight)
    dims = tuple(range(-len(normalized_shape), 0))
    floor = torch.finfo(input.dtype).eps if eps is None else eps
    squares = input.expectation.square()
    second = squares if input.approximation.method == "first-order" else squares + input.variance
    squared_scale = second.mean(dims, keepdim=True) + floor
    h_squared = squares / squared_scale
    count = _count(input.expectation, dims)
    shared = (h_squared * input.variance).mean(dims, keepdim=True)
    variance = input.variance * (1 - 2 * h_squared / count) + h_squared * shared / count
    result = Moments(
        input.expectation * squared_scale.rsqrt(), variance.clamp(min=0) / squared_scale, input.approximation
    )
    function = partial(F.rms_norm, normalized_shape=normalized_shape, eps=eps)
    return _affine(function, input, result, weight)


def _covariant_layer_norm(
    x: Moments, normalized_shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> Moments:
    if len(normalized_shape) > 1:
        raise without_covariance_rule("layer_norm over several axes", x.approximation)
    check_columns("a layer norm's outputs", x, x.shape[-1])
    count, gamma = x.shape[-1], 1.0 if weight is None else weight
    spread, centre = torch.var_mean(x.expectation, -1, correction=0, keepdim=True)
    squared_scale = spread + eps
    if x.approximation.method != "first-order":
        squared_scale = squared_scale + x.variance.mean(-1, keepdim=True) - _variance_of_mean(x)
    h = (x.expectation - centre) * squared_scale.rsqrt()
    factor = (gamma * squared_scale.rsqrt()).unsqueeze(-1)

    def jacobian(columns: Tensor) -> Tensor:
        along = (h.unsqueeze(-1) * columns).mean(-2, keepdim=True)
        return factor * (columns - columns.mean(-2, keepdim=True) - h.unsqueeze(-1) * along)

    if x.approximation.method == "first-order":
        mean = F.layer_norm(x.expectation, (count,), weight, bias, eps)
    else:
        mean = h * gamma if bias is None else h * gamma + bias
    return linearised(x, mean, jacobian)


def _variance_of_mean(x: Moments) -> Float[Tensor, "*lead 1"]:
    """That of the mean over the last axis."""
    variance = own_variance(x).mean(-1, keepdim=True) / x.shape[-1]
    if x.covariance is None:
        return variance
    sums = (x.covariance.columns * x.covariance.scale.unsqueeze(-1)).mean(-2)
    return variance + (sums.square() * x.covariance.variances).sum(-1, keepdim=True)


def _in_groups(x: Moments, num_groups: int, eps: float) -> Moments:
    groups = x.marginal.reshape(x.shape[0], num_groups, -1)
    return _standardised(groups, (-1,), eps).reshape(x.shape)


def _standardised(x: Moments, dims: tuple[int, ...], eps: float) -> Moments:
    """Moments of (x - mean x) / s over the given dimensions, see `layer_norm`."""
    count = _count(x.expectation, dims)
    spread, centre = torch.var_mean(x.expectation, dims, correction=0, keepdim=True)
    a = x.variance.mean(dims, keepdim=True)
    squared_scale = spread + eps
    if x.approximation.method != "first-order":
        squared_scale = squared_scale + (1 - 1 / count) * a
    h = (x.expectation - centre) * squared_scale.rsqrt()
    weighted = h * x.variance
    b = weighted.mean(dims, keepdim=True)
    c = (h * weighted).mean(dims, keepdim=True)
    shared = a + h * (2 * b + h * c)
    own = x.variance * (1 - (2 + 2 * h.square()) / count)
    return Moments(h, (own + shared / count).clamp(min=0) / squared_scale, x.approximation)


def _affine(
    function: Callable[..., Tensor],
    x: Moments,
    standardised: Moments,
    weight: Tensor | None,
    bias: Tensor | None = None,
    per_channel: bool = False,
) -> Moments:
    """Times weight, and bias added; to first order the mean is what the function makes of that of x, to the bit."""
    options = {name: value for name, value in (("weight", weight), ("bias", bias)) if value is not None}
    broadcast = {name: _per_channel(value, x.ndim) if per_channel else value for name, value in options.items()}
    scale, offset = broadcast.get("weight", 1.0), broadcast.get("bias", 0.0)
    if x.approximation.method == "first-order":
        mean = function(x.expectation, **options)
    else:
        mean = standardised.expectation * scale + offset
    return Moments(mean, standardised.variance * scale**2, x.approximation)


def _count(x: Tensor, dims: tuple[int, ...]) -> int:
    return torch.Size(x.shape[dim] for dim in dims).numel()


def _per_channel(values: Float[Tensor, " channels"], ndim: int) -> Float[Tensor, "1 channels *ones"]:
    return values.reshape(1, -1, *[1] * (ndim - 2))
