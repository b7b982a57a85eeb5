"""Average and maximum over windows, and sums and means over axes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor

from bayes_influence.moments.moments import Moments
from bayes_influence.moments.registry import rule
from bayes_influence.moments.transforms import plain_formulas_needed

Sizes = int | tuple[int, ...]


@rule("sum")
def total(input: Moments, dim: Any = None, keepdim: bool = False) -> Moments:
    """Sums of means and of variances, entries independent."""
    mean, variance = (x.sum(dim, keepdim=keepdim) for x in (input.expectation, input.variance))
    return Moments(mean, variance, input.approximation)


@rule("mean")
def average(input: Moments, dim: Any = None, keepdim: bool = False) -> Moments:
    """Mean of the means, and mean of the variances divided by the number of entries, entries independent."""
    mean, variance = (x.mean(dim, keepdim=keepdim) for x in (input.expectation, input.variance))
    return Moments(mean, variance * (mean.numel() / input.numel()), input.approximation)


def _average_pool(
    function: Callable[..., Tensor],
    spatial: int,
    input: Moments,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Moments:
    """Mean of m over each window, and sum of v / divisor^2: right for independent entries."""
    kernel, strides, paddings = (per_dimension(size, spatial) for size in (kernel_size, stride or kernel_size, padding))
    options: list[Any] = [kernel, strides, paddings, ceil_mode, count_include_pad]
    if spatial > 1:
        options.append(divisor_override)
    mean, variance = (_pooled(function, x, options) for x in (input.expectation, input.variance))
    if any(paddings) or ceil_mode:
        reciprocal: Tensor | float = _reciprocal_divisor(
            input.variance, kernel, strides, paddings, ceil_mode, count_include_pad
        )
    else:
        reciprocal = 1 / prod(kernel)
    if divisor_override is not None:
        reciprocal = 1 / divisor_override
    return Moments(mean, variance * reciprocal, input.approximation)


class _AveragePool(torch.autograd.Function):
    """Average pooling that does not keep its input, as torch's does: its derivative depends on the shape only."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, function: Callable[..., Tensor], options: list[Any]) -> Tensor:
        return function(x, *options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.function, ctx.options = inputs
        ctx.shape = x.shape

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        like = gradient.new_zeros(()).expand(ctx.shape)
        return _POOL_BACKWARD[ctx.function](gradient, like, *ctx.options), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        pooled: Tensor = ctx.function(tangents[0], *ctx.options)
        return pooled


_POOL_BACKWARD: dict[Callable[..., Tensor], Callable[..., Tensor]] = {
    F.avg_pool2d: torch.ops.aten.avg_pool2d_backward,
    F.avg_pool3d: torch.ops.aten.avg_pool3d_backward,
}


def _pooled(function: Callable[..., Tensor], x: Tensor, options: list[Any]) -> Tensor:
    if function not in _POOL_BACKWARD or plain_formulas_needed():
        return function(x, *options)
    pooled: Tensor = _AveragePool.apply(x, function, options)
    return pooled


def _reciprocal_divisor(
    like: Tensor,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    paddings: tuple[int, ...],
    ceil_mode: bool,
    count_include_pad: bool,
) -> Tensor:
    """1 / (what torch divides each window by): a mean of ones over their number."""
    spatial = len(kernel)
    ones = torch.ones(1, 1, *like.shape[-spatial:], dtype=like.dtype, device=like.device)
    if spatial == 1:  # avg_pool1d has no divisor_override
        ones, kernel, strides, paddings = ones[..., None, :], (1, *kernel), (1, *strides), (0, *paddings)
    pool = F.avg_pool3d if spatial == 3 else F.avg_pool2d
    share = pool(ones, kernel, strides, paddings, ceil_mode, count_include_pad)
    count = pool(ones, kernel, strides, paddings, ceil_mode, count_include_pad, divisor_override=1)
    return (share / count).reshape(share.shape[-spatial:])


def _adaptive_average_pool(function: Callable[..., Tensor], spatial: int, input: Moments, output_size: Any) -> Moments:
    """Mean of m over windows that tile the input, and mean of v over the window's size."""
    mean, variance = function(input.expectation, output_size), function(input.variance, output_size)
    for dim in range(-spatial, 0):
        counts = [end - start for start, end in adaptive_windows(input.shape[dim], mean.shape[dim])]
        variance = variance / _along(variance.new_tensor([float(count) for count in counts]), dim)
    return Moments(mean, variance, input.approximation)


def _along(values: Float[Tensor, " n"], dim: int) -> Float[Tensor, "n *ones"]:
    return values.reshape(-1, *[1] * (-dim - 1))


def adaptive_windows(length: int, outputs: int) -> list[tuple[int, int]]:
    """Where torch's adaptive pooling starts and ends each of its windows."""
    return [(i * length // outputs, -(-(i + 1) * length // outputs)) for i in range(outputs)]


def per_dimension(size: Any, spatial: int) -> tuple[Any, ...]:
    """A size for each spatial dimension, from one number or one per dimension."""
    sizes = (size,) if size is None or isinstance(size, int | float) else tuple(size)
    return sizes * spatial if len(sizes) == 1 else sizes


for _spatial, _suffix in enumerate(("1d", "2d", "3d"), start=1):
    _name = f"avg_pool{_suffix}"
    rule(_name)(partial(_average_pool, getattr(F, _name), _spatial))
    rule(f"adaptive_{_name}")(partial(_adaptive_average_pool, getattr(F, f"adaptive_{_name}"), _spatial))
