"""Operations that only move entries: the same operation on the mean and on the variance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from bayes_influence.moments.arithmetic import mean_of, shared_approximation
from bayes_influence.moments.joint import at_leading, descend
from bayes_influence.moments.moments import Moments, same_storage, without_covariance, without_covariance_rule
from bayes_influence.moments.registry import UnsupportedOperationError, functions_named, rule
from bayes_influence.moments.sources import Covariance

MOVING = (
    "broadcast_to",
    "channel_shuffle",
    "chunk",
    "clone",
    "contiguous",
    "detach",
    "expand",
    "flatten",
    "flip",
    "gather",
    "index_select",
    "movedim",
    "narrow",
    "native_channel_shuffle",
    "permute",
    "pixel_shuffle",
    "pixel_unshuffle",
    "ravel",
    "repeat",
    "reshape",
    "roll",
    "select",
    "split",
    "squeeze",
    "swapaxes",
    "tile",
    "transpose",
    "unbind",
    "unflatten",
    "unsqueeze",
    "view",
    "cpu",
    "cuda",
    "double",
    "float",
    "to",
)
"""Torch functions that move, copy, select or convert entries without combining them."""


CONVERTING = ("clone", "contiguous", "cpu", "cuda", "detach", "double", "float", "to")
"""Those that leave every entry in its place."""

RESHAPING = ("flatten", "ravel", "reshape", "view")
"""Those that do where the shape stays."""

KEEPING = ("clone", "contiguous", *RESHAPING)
"""Those after which the own parts of entries are what they were."""

COPYING = (
    "channel_shuffle",
    "clone",
    "flip",
    "gather",
    "index_select",
    "native_channel_shuffle",
    "repeat",
    "roll",
    "tile",
)
"""Those whose result never shares its entries with their input."""


def _moved(function: Callable[..., Any], copies: bool, x: Any, *args: Any, **kwargs: Any) -> Any:
    if not isinstance(x, Moments):
        raise UnsupportedOperationError(f"{function.__name__} takes Moments as its first argument only")
    mean, variance = function(x.expectation, *args, **kwargs), function(x.variance, *args, **kwargs)
    parts = [(mean, variance)] if isinstance(mean, Tensor) else list(zip(mean, variance, strict=True))
    covariance = _kept(function, x, parts[0][0].shape, args, kwargs)
    moved = tuple(Moments(m, v, x.approximation, covariance) for m, v in parts)
    if moved[0].shape == x.shape and function.__name__ in KEEPING:
        descend(moved[0], x, lambda: 1.0)
    if not copies:
        same_storage(x, *moved)
    return moved[0] if isinstance(mean, Tensor) else moved


def _kept(
    function: Callable[..., Any], x: Moments, shape: torch.Size, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Covariance | None:
    """The covariance where every entry stays in its place, as under `flatten(1)` of vectors; else it is refused."""
    if x.covariance is None:
        return None
    if function.__name__ in CONVERTING:
        columns, scale, variances, shared = (function(part, *args, **kwargs) for part in x.covariance.tensors)
        keeps = function.__name__ in KEEPING
        sources = x.covariance.sources if keeps else None
        return Covariance(columns, scale, variances, shared, sources, x.covariance.complete)
    if shape != x.shape:
        raise without_covariance_rule(f"{function.__name__} to another shape", x.approximation)
    return x.covariance


for _name in MOVING:
    for _function in functions_named(_name):
        rule(_function, entrywise=True, covariant=_name in (*CONVERTING, *RESHAPING))(
            partial(_moved, _function, _name in COPYING)
        )


@rule(Tensor.__getitem__, entrywise=True, covariant=True)
def index(x: Any, position: Any) -> Moments:
    """The entries at a fixed position, with their variances.

    Raises:
        UnsupportedOperationError: If the position is random.
    """
    if any(isinstance(part, Moments) for part in (position if isinstance(position, tuple) else (position,))):
        raise UnsupportedOperationError("Moments cannot be an index; an index must be fixed numbers")
    covariance = None if x.covariance is None else at_leading(x, position)
    if covariance is None:
        x = without_covariance("an index that may reach the last axis", x)
    result = Moments(x.expectation[position], x.variance[position], x.approximation, covariance)
    same_storage(x, result)
    return result


def _joined(function: Callable[..., Tensor], parts: Sequence[Any], dim: int = 0) -> Moments:
    means = [mean_of(part) for part in parts]
    variances = [part.variance if isinstance(part, Moments) else torch.zeros_like(part) for part in parts]
    return Moments(function(means, dim), function(variances, dim), shared_approximation(*parts, mixed=False))


@rule("cat", "concat", "concatenate", entrywise=True)
def cat(tensors: Sequence[Any], dim: int = 0) -> Moments:
    """Concatenation; a tensor among the parts has zero variance."""
    return _joined(torch.cat, tensors, dim)


@rule("stack", entrywise=True)
def stack(tensors: Sequence[Any], dim: int = 0) -> Moments:
    """Stacking on a new axis; a tensor among the parts has zero variance."""
    return _joined(torch.stack, tensors, dim)


@rule("pad", entrywise=True)
def pad(input: Moments, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Moments:
    """Padding: constants have zero variance, other modes copy mean and variance."""
    mean = F.pad(input.expectation, pad, mode, value)
    return Moments(mean, F.pad(input.variance, pad, mode), input.approximation)


@rule("where", entrywise=True)
def where(condition: Any, input: Any, other: Any) -> Moments:
    """Entries of one or the other by a fixed condition.

    Raises:
        UnsupportedOperationError: If the condition is random.
    """
    if isinstance(condition, Moments):
        raise UnsupportedOperationError("the condition of where must be fixed, got Moments")
    means = [mean_of(x) for x in (input, other)]
    variances = [x.variance if isinstance(x, Moments) else 0.0 for x in (input, other)]
    mean = torch.where(condition, means[0], means[1])
    variance = torch.where(condition, variances[0], variances[1]).expand(mean.shape).to(mean.dtype)
    return Moments(mean, variance, shared_approximation(input, other, mixed=False))
