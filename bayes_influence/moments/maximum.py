"""Maxima over windows: co-pooling, and Clark's moments of the maximum of independent Gaussians."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

from bayes_influence.moments.arithmetic import mean_of, shared_approximation
from bayes_influence.moments.gaussian import normal_density, normal_distribution
from bayes_influence.moments.moments import VARIANCE_FLOOR, Moments
from bayes_influence.moments.pooling import Sizes, adaptive_windows, per_dimension
from bayes_influence.moments.registry import UnsupportedOperationError, rule
from bayes_influence.moments.shapes import stack, where

_NEVER = -1e9
"""Mean of a padded entry: below every activation, and its square is still finite in float32."""


def clark(x: Moments, y: Moments) -> Moments:
    """Moments of max(x, y) for independent Gaussians (Clark 1961).

    With theta^2 = v_x + v_y, a = (m_x - m_y) / theta, s_plus = phi(a) + a Phi(a) and s_minus = phi(a) - a Phi(-a):
    mean m_x Phi(a) + m_y Phi(-a) + theta phi(a), variance v_x Phi(a) + v_y Phi(-a) - theta^2 s_plus s_minus. The
    published difference of squares is the same number and cancels in float32.
    """
    dtype = torch.promote_types(x.dtype, y.dtype)
    x, y = _in_single(x), _in_single(y)
    theta = (x.variance + y.variance).clamp(min=VARIANCE_FLOOR).sqrt()
    a = (x.expectation - y.expectation) / theta
    density, above, below = normal_density(a), normal_distribution(a), normal_distribution(-a)
    mean = x.expectation * above + y.expectation * below + theta * density
    overlap = (density + a * above) * (density - a * below)
    variance = x.variance * above + y.variance * below - (x.variance + y.variance) * overlap
    return _of_dtype(Moments(mean, variance.clamp(min=0), x.approximation), dtype)


def _in_single(x: Moments) -> Moments:
    """In single precision at least, which the closed form and the mean of a padded entry take."""
    return _of_dtype(x, torch.promote_types(x.dtype, torch.float32))


def _of_dtype(x: Moments, dtype: torch.dtype) -> Moments:
    return Moments(x.expectation.to(dtype), x.variance.to(dtype), x.approximation)


def _largest(entries: Sequence[Moments]) -> Moments:
    """Moments of the maximum of independent entries, pair by pair as in a tournament."""
    while len(entries) > 1:
        pairs = [clark(x, y) for x, y in zip(entries[::2], entries[1::2], strict=False)]
        entries = [*pairs, *entries[2 * len(pairs) :]]
    return entries[0]


def _co_pooled(pool: Callable[..., Any], spatial: int, x: Moments, *geometry: Any) -> Moments:
    mean, position = pool(x.expectation, *geometry, return_indices=True)
    variance = x.variance.flatten(-spatial).gather(-1, position.flatten(-spatial)).reshape(mean.shape)
    return Moments(mean, variance, x.approximation)


def _max_pool(
    function: Callable[..., Any],
    spatial: int,
    input: Moments,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Moments:
    """Maximum over windows, by co-pooling or by Clark's moments, as `Approximation.max_pooling` says."""
    _refuse_indices(return_indices)
    if input.approximation.max_pooling == "co-pooling":
        return _co_pooled(function, spatial, input, kernel_size, stride, padding, dilation, ceil_mode)
    sizes = (kernel_size, stride or kernel_size, padding, dilation)
    kernel, strides, paddings, dilations = (per_dimension(size, spatial) for size in sizes)
    outputs: list[int] = []
    border: list[int] = []
    for length, k, s, p, d in zip(input.shape[-spatial:], kernel, strides, paddings, dilations, strict=True):
        outputs.append(_positions(length, k, s, p, d, ceil_mode))
        border[:0] = [p, max(0, (outputs[-1] - 1) * s + d * (k - 1) + 1 - length - p)]
    wide = _in_single(input)
    padded = Moments(
        F.pad(wide.expectation, border, value=_NEVER), F.pad(wide.variance, border, value=0.0), input.approximation
    )
    entries = []
    for offsets in product(*map(range, kernel)):
        starts = [offset * d for offset, d in zip(offsets, dilations, strict=True)]
        ends = [start + (n - 1) * s + 1 for start, n, s in zip(starts, outputs, strides, strict=True)]
        entries.append(padded[(..., *map(slice, starts, ends, strides))])
    return _of_dtype(_largest(entries), input.dtype)


def _positions(length: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """Number of windows along one dimension; the last one of ceil_mode must start inside the input or before it."""
    room = length + 2 * padding - dilation * (kernel - 1) - 1
    positions = (-(-room // stride) if ceil_mode else room // stride) + 1
    return positions - 1 if ceil_mode and (positions - 1) * stride >= length + padding else positions


def _adaptive_max_pool(
    function: Callable[..., Any], spatial: int, input: Moments, output_size: Any, return_indices: bool = False
) -> Moments:
    """Maximum over windows that tile the input; Clark's moments one dimension after the other."""
    _refuse_indices(return_indices)
    if input.approximation.max_pooling == "co-pooling":
        return _co_pooled(function, spatial, input, output_size)
    result = input
    for dim, outputs in zip(range(-spatial, 0), per_dimension(output_size, spatial), strict=True):
        windows = adaptive_windows(input.shape[dim], outputs or input.shape[dim])
        largest = [_largest([result.select(dim, j) for j in range(start, end)]) for start, end in windows]
        result = stack(largest, dim)
    return result


@rule("amax")
def largest_entry(input: Moments, dim: Any = (), keepdim: bool = False) -> Moments:
    """Maximum over axes, by co-pooling or by Clark's moments, as `Approximation.max_pooling` says."""
    axes = [dim % input.ndim] if isinstance(dim, int) else sorted(axis % input.ndim for axis in dim)
    axes = axes or list(range(input.ndim))
    rest = [axis for axis in range(input.ndim) if axis not in axes]
    lead = [input.shape[axis] for axis in rest]
    mean, variance = (x.permute(*rest, *axes).reshape(*lead, -1) for x in (input.expectation, input.variance))
    if input.approximation.max_pooling == "co-pooling":
        top, position = mean.max(-1, keepdim=True)
        result = Moments(top.squeeze(-1), variance.gather(-1, position).squeeze(-1), input.approximation)
    else:
        columns = zip(mean.unbind(-1), variance.unbind(-1), strict=True)
        result = _largest([Moments(m, v, input.approximation) for m, v in columns])
    if not keepdim:
        return result
    shape = [1 if axis in axes else length for axis, length in enumerate(input.shape)]
    return Moments(result.expectation.reshape(shape), result.variance.reshape(shape), input.approximation)


@rule("maximum")
def larger(input: Any, other: Any) -> Moments:
    """The larger of two independent values, entry by entry; a tensor has no variance. As `largest_entry`."""
    approximation = shared_approximation(input, other)
    means = torch.broadcast_tensors(*map(mean_of, (input, other)))
    pair = [
        Moments(
            mean, (x.variance if isinstance(x, Moments) else torch.zeros_like(mean)).expand(mean.shape), approximation
        )
        for x, mean in zip((input, other), means, strict=True)
    ]
    if approximation.max_pooling == "clark":
        return clark(*pair)
    return where(means[0] >= means[1], *pair)


@rule("max")
def maximum_or_largest(input: Any, other: Any = None, *, dim: Any = None, keepdim: bool = False) -> Moments:
    """The largest entry of all, or the larger of two values.

    Raises:
        UnsupportedOperationError: Over an axis, where torch returns the position, too.
    """
    if dim is not None or isinstance(other, int):
        raise UnsupportedOperationError(
            "max over an axis returns which entry is the largest, and that is random; use torch.amax(x, dim)"
        )
    return largest_entry(input) if other is None else larger(input, other)


def _refuse_indices(return_indices: bool) -> None:
    if return_indices:
        raise UnsupportedOperationError(
            "max pooling of Moments has no indices: which entry is the largest is random; use return_indices=False"
        )


for _spatial, _suffix in enumerate(("1d", "2d", "3d"), start=1):
    _name = f"max_pool{_suffix}"
    rule(_name)(partial(_max_pool, getattr(F, _name), _spatial))
    rule(_name, f"{_name}_with_indices")(partial(_max_pool, getattr(F, _name), _spatial))
    _name = f"adaptive_{_name}"
    rule(_name, f"{_name}_with_indices")(partial(_adaptive_max_pool, getattr(F, _name), _spatial))
