"""Softmax and its relatives, first order with the full Jacobian."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bayes_influence.moments.arithmetic import multiply, negate
from bayes_influence.moments.moments import Moments
from bayes_influence.moments.registry import apply_rule, rule


def _centred_variance(probabilities: Tensor, variance: Tensor, dim: int) -> Tensor:
    """Variance of z_i - sum_j p_j z_j: (1 - p_i)^2 v_i + sum_{j != i} p_j^2 v_j."""
    weighted = probabilities.square() * variance
    others = (weighted.sum(dim, keepdim=True) - weighted).clamp(min=0)
    return (1 - probabilities).square() * variance + others


def _explicit(dim: int | None) -> int:
    if dim is None:
        raise ValueError("softmax of Moments needs an explicit dim; torch's implicit choice is deprecated")
    return dim


@rule("softmax")
def softmax(
    input: Moments,
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
) -> Moments:
    """First order with the full Jacobian: p at the mean, and p_i^2 [(1 - p_i)^2 v_i + sum_{j != i} p_j^2 v_j].

    A linearised softmax collapses once the logits' standard deviation passes about one; stay on the logits where you
    can. Every method uses this rule.
    """
    probabilities = torch.softmax(input.expectation, _explicit(dim), dtype=dtype)
    spread = _centred_variance(probabilities, input.variance.to(probabilities.dtype), _explicit(dim))
    return Moments(probabilities, probabilities.square() * spread, input.approximation)


@rule("log_softmax")
def log_softmax(
    input: Moments,
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
) -> Moments:
    """First order with the full Jacobian: log p at the mean, and (1 - p_i)^2 v_i + sum_{j != i} p_j^2 v_j."""
    logarithms = torch.log_softmax(input.expectation, _explicit(dim), dtype=dtype)
    spread = _centred_variance(logarithms.exp(), input.variance.to(logarithms.dtype), _explicit(dim))
    return Moments(logarithms, spread, input.approximation)


@rule("softmin")
def softmin(input: Moments, dim: int | None = None, **options: Any) -> Moments:
    """Softmax of -x."""
    return softmax(negate(input), dim, **options)


@rule("glu")
def glu(input: Moments, dim: int = -1) -> Moments:
    """First half times sigmoid of the second half, the halves independent."""
    values, gates = apply_rule(torch.chunk, (input, 2, dim))
    return multiply(values, apply_rule(torch.sigmoid, (gates,)))
