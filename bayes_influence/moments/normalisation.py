"""Normalisation layers: batch norm with its running statistics, and the norms of one example to first order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor

from bayes_influence.moments.arithmetic import check_fixed
from bayes_influence.moments.moments import Moments
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
    return Moments(mean, input.variance * scale.square(), input.approximation, covariance)


@rule(F.layer_norm)
def layer_norm(
    input: Any,
    normalized_shape: Sequence[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
) -> Moments:
    """LN(m), and to first order the variance that the Jacobian (delta_ij - 1/D - h_i h_j / D) gamma_i / s gives.

    With h = (m - mean m) / s, s^2 = var m + eps over the D normalised entries, and A, B, C the means over j of v_j,
    h_j v_j and h_j^2 v_j:  (gamma_i / s)^2 [v_i (1 - 2/D - 2 h_i^2 / D) + (A + 2 h_i B + h_i^2 C) / D].
    """
    check_fixed("layer_norm", weight=weight, bias=bias)
    mean = F.layer_norm(input.expectation, normalized_shape, weight, bias, eps)
    dims = tuple(range(-len(normalized_shape), 0))
    variance = _standardised_variance(input, dims, eps)
    return Moments(mean, variance if weight is None else variance * weight.square(), input.approximation)


@rule(F.group_norm)
def group_norm(input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Moments:
    """Layer norm within each group of channels, with a factor and an offset per channel."""
    check_fixed("group_norm", weight=weight, bias=bias)
    mean = F.group_norm(input.expectation, num_groups, weight, bias, eps)
    return Moments(mean, _grouped_variance(input, num_groups, weight, eps), input.approximation)


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
    mean = F.instance_norm(input.expectation, None, None, weight, bias, True, momentum, eps)
    return Moments(mean, _grouped_variance(input, input.shape[1], weight, eps), input.approximation)


@rule(F.rms_norm)
def rms_norm(input: Any, normalized_shape: Sequence[int], weight: Any = None, eps: float | None = None) -> Moments:
    """Divided by s, s^2 = mean m^2 + eps; the Jacobian is (delta_ij - h_i h_j / D) gamma_i / s with h = m / s.

    The first-order variance is (gamma_i / s)^2 [v_i (1 - 2 h_i^2 / D) + h_i^2 C / D], C the mean over j of h_j^2 v_j.
    """
    check_fixed("rms_norm", weight=weight)
    mean = F.rms_norm(input.expectation, normalized_shape, weight, eps)
    dims = tuple(range(-len(normalized_shape), 0))
    floor = torch.finfo(input.dtype).eps if eps is None else eps
    squared_scale = input.expectation.square().mean(dims, keepdim=True) + floor
    h_squared = input.expectation.square() / squared_scale
    count = _count(input.expectation, dims)
    shared = (h_squared * input.variance).mean(dims, keepdim=True)
    variance = input.variance * (1 - 2 * h_squared / count) + h_squared * shared / count
    variance = variance.clamp(min=0) / squared_scale
    return Moments(mean, variance if weight is None else variance * weight.square(), input.approximation)


def _grouped_variance(
    x: Moments, num_groups: int, weight: Float[Tensor, " channels"] | None, eps: float
) -> Float[Tensor, "*shape"]:
    groups = x.reshape(x.shape[0], num_groups, -1)
    variance = _standardised_variance(groups, (-1,), eps).reshape(x.shape)
    return variance if weight is None else variance * _per_channel(weight.square(), x.ndim)


def _standardised_variance(x: Moments, dims: tuple[int, ...], eps: float) -> Float[Tensor, "*shape"]:
    """First-order variance of (m - mean m) / s over the given dimensions, see `layer_norm`."""
    count = _count(x.expectation, dims)
    spread, centre = torch.var_mean(x.expectation, dims, correction=0, keepdim=True)
    squared_scale = spread + eps
    h = (x.expectation - centre) * squared_scale.rsqrt()
    weighted = h * x.variance
    a = x.variance.mean(dims, keepdim=True)
    b = weighted.mean(dims, keepdim=True)
    c = (h * weighted).mean(dims, keepdim=True)
    shared = a + h * (2 * b + h * c)
    own = x.variance * (1 - (2 + 2 * h.square()) / count)
    return (own + shared / count).clamp(min=0) / squared_scale


def _count(x: Tensor, dims: tuple[int, ...]) -> int:
    return torch.Size(x.shape[dim] for dim in dims).numel()


def _per_channel(values: Float[Tensor, " channels"], ndim: int) -> Float[Tensor, "1 channels *ones"]:
    return values.reshape(1, -1, *[1] * (ndim - 2))
