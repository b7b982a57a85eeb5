"""Variances, standard deviations and lengths over axes: quadratic in the entries, and their roots."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from bayes_influence.moments.moments import VARIANCE_FLOOR, Moments
from bayes_influence.moments.registry import UnsupportedOperationError, rule


@rule("var")
def sample_variance(
    input: Moments, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = None
) -> Moments:
    """Moments of sum_j (x_j - mean x)^2 / (D - c) over D independent Gaussian entries, exact.

    Of the quadratic form x' A x with A = (I - 1 1'/D) / (D - c): tr(A V) + m' A m, and 2 tr(A V A V) + 4 m' A V A m.
    """
    c = (1.0 if unbiased else 0.0) if correction is None else correction
    count = _count(input, dim)
    mean, v = input.expectation, input.variance

    def total(values: Tensor) -> Tensor:
        return values.sum(dim, keepdim=keepdim)

    centred = mean - mean.mean(dim, keepdim=True)
    expectation = total(centred.square() + (1 - 1 / count) * v) / (count - c)
    trace = (1 - 2 / count) * total(v.square()) + total(v).square() / count**2
    return Moments(expectation, (2 * trace + 4 * total(centred.square() * v)) / (count - c) ** 2, input.approximation)


@rule("std")
def sample_deviation(
    input: Moments, dim: Any = None, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = None
) -> Moments:
    """Root of the sample variance s^2: variance Var(s^2) / (4 E s^2) to first order, and the mean that leaves E s^2.

    So the second moment is exact, whatever the spread; that of s^2 is `sample_variance`'s.
    """
    squares = sample_variance(input, dim, unbiased, keepdim, correction=correction)
    second = squares.expectation.clamp(min=VARIANCE_FLOOR)
    spread = torch.minimum(squares.variance / (4 * second), second)
    return Moments((second - spread).sqrt(), spread, input.approximation)


@rule(F.normalize)
def normalised(input: Moments, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: Tensor | None = None) -> Moments:
    """H = m / |m|, |m| at least eps, to first order with the full Jacobian (I - h h') / |m|.

    The variance is [v_i (1 - 2 h_i^2) + h_i^2 C] / |m|^2, C the sum over j of h_j^2 v_j.

    Raises:
        UnsupportedOperationError: If p is another number than 2.
    """
    if p != 2:
        raise UnsupportedOperationError(f"normalize of Moments has a rule for p=2, got p={p!r}")
    mean = F.normalize(input.expectation, p, dim, eps)
    squared = input.expectation.square().sum(dim, keepdim=True).clamp(min=eps**2)
    shared = (mean.square() * input.variance).sum(dim, keepdim=True)
    variance = input.variance * (1 - 2 * mean.square()) + mean.square() * shared
    return Moments(mean, variance.clamp(min=0) / squared, input.approximation)


@rule("norm")
def length(input: Moments, p: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Moments:
    """Euclidean length |m| and, to first order, sum_j m_j^2 v_j / |m|^2.

    Raises:
        UnsupportedOperationError: If p is another number than 2, or a dtype is asked for.
    """
    if p not in (2, "fro"):
        raise UnsupportedOperationError(f"norms of Moments have a rule for p=2, got p={p!r}")
    if dtype is not None:
        raise UnsupportedOperationError(f"norms of Moments keep their dtype, got dtype={dtype}; convert the result")
    squares = input.expectation.square()
    squared = squares.sum(dim, keepdim=keepdim)
    spread = (squares * input.variance).sum(dim, keepdim=keepdim) / squared.clamp(min=VARIANCE_FLOOR)
    return Moments(torch.linalg.vector_norm(input.expectation, 2, dim, keepdim), spread, input.approximation)


def _count(x: Moments, dim: Any) -> int:
    axes = range(x.ndim) if dim is None else (dim,) if isinstance(dim, int) else dim
    return torch.Size(x.shape[axis] for axis in axes).numel()
