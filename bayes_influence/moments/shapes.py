"""Operations that only move entries: the same operation on the mean and on the variance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from bayes_influence.moments.arithmetic import shared_approximation
from bayes_influence.moments.moments import Moments
from bayes_influence.moments.registry import functions_named, rule

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
    "reshape",
    "roll",
    "select",
    "split",
    "squeeze",
    "swapaxes",
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


def _moved(function: Callable[..., Any], x: Moments, *args: Any, **kwargs: Any) -> Any:
    mean, variance = function(x.expectation, *args, **kwargs), function(x.variance, *args, **kwargs)
    if isinstance(mean, Tensor):
        return Moments(mean, variance, x.approximation)
    return tuple(Moments(m, v, x.approximation) for m, v in zip(mean, variance, strict=True))


for _name in MOVING:
    for _function in functions_named(_name):
        rule(_function)(partial(_moved, _function))


@rule(Tensor.__getitem__)
def index(x: Moments, position: Any) -> Moments:
    """The entries at a position, with their variances."""
    return x[position]


def _joined(function: Callable[..., Tensor], parts: Sequence[Any], dim: int = 0) -> Moments:
    means = [part.expectation if isinstance(part, Moments) else part for part in parts]
    variances = [part.variance if isinstance(part, Moments) else torch.zeros_like(part) for part in parts]
    return Moments(function(means, dim), function(variances, dim), shared_approximation(*parts))


@rule("cat", "concat", "concatenate")
def cat(tensors: Sequence[Any], dim: int = 0) -> Moments:
    """Concatenation; a tensor among the parts has zero variance."""
    return _joined(torch.cat, tensors, dim)


@rule("stack")
def stack(tensors: Sequence[Any], dim: int = 0) -> Moments:
    """Stacking on a new axis; a tensor among the parts has zero variance."""
    return _joined(torch.stack, tensors, dim)


@rule("pad")
def pad(input: Moments, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Moments:
    """Padding: constants have zero variance, other modes copy mean and variance."""
    mean = F.pad(input.expectation, pad, mode, value)
    return Moments(mean, F.pad(input.variance, pad, mode, 0.0 if mode == "constant" else None), input.approximation)


@rule("where")
def where(condition: Tensor, input: Any, other: Any) -> Moments:
    """Entries of one or the other by a fixed condition."""
    means = [x.expectation if isinstance(x, Moments) else x for x in (input, other)]
    variances = [x.variance if isinstance(x, Moments) else 0.0 for x in (input, other)]
    mean = torch.where(condition, means[0], means[1])
    variance = torch.where(condition, variances[0], variances[1]).expand(mean.shape).to(mean.dtype)
    return Moments(mean, variance, shared_approximation(input, other))
