"""Sums, products and linearised maps of activations that covary: what two branches share is found by its sources."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.moments.moments import Approximation, Moments
from bayes_influence.moments.sources import Blocks, Covariance, Source, blocks_of, joined, own_part, summed, traced_back


def own_source(x: Moments) -> Source:
    """The source of the entries' own parts, the same whenever it is asked for."""
    if x.own is None:
        object.__setattr__(x, "own", Source(partial(own_part, x.variance, x.covariance)))
    assert x.own is not None
    return x.own


def own_variance(x: Moments) -> Float[Tensor, "*shape"]:
    """The part of the variances that is each entry's own."""
    return own_part(x.variance, x.covariance)


def descend(result: Moments, x: Moments, find_slope: Callable[[], Tensor | float], affine: bool = True) -> Moments:
    """The result of an elementwise function of x, whose own parts are noted to go on from those of x.

    Args:
        result: What the function's rule gives.
        x: Its argument.
        find_slope: Its mean slope, found where it is needed.
        affine: Whether the function is.
    """
    if x.approximation.covariant:
        found = partial(own_part, result.variance, result.covariance)
        object.__setattr__(result, "own", Source(found, own_source(x), find_slope, affine))
    return result


def covary(x: Any, y: Any) -> bool:
    """Whether one of two branches has a covariance, or their own parts come from one activation."""
    if not (isinstance(x, Moments) and isinstance(y, Moments)):
        return False
    if x.covariance is not None or y.covariance is not None:
        return True
    return x.own is not None and y.own is not None and x.own.root is y.own.root


def branches(x: Moments, y: Moments) -> tuple[tuple[Blocks, Tensor], tuple[Blocks, Tensor]]:
    """Columns of two activations of one shape, and the variances of what is each entry's own beside them.

    Sources of the columns of both are the same or covary with nothing. Own parts that the other branch depends on, too,
    become columns.

    Raises:
        LookupError: If the sources of one are not known.
    """
    first, second = blocks_of(x.covariance), blocks_of(y.covariance)
    both = x.own is not None and y.own is not None and x.own.root is y.own.root
    found: list[tuple[Blocks, Tensor]] = []
    for moments, blocks, others in ((x, first, set(second)), (y, second, set(first))):
        variance, own = own_variance(moments), moments.own
        complete = moments.covariance is not None and moments.covariance.complete
        if own is not None and not complete and (both or own.root in {source.root for source in others}):
            unit = torch.eye(moments.shape[-1], dtype=moments.dtype, device=moments.device)
            blocks, variance = {**blocks, own: unit}, torch.zeros_like(variance)
        found.append((traced_back(blocks), variance))
    return found[0], found[1]


def added(x: Moments, y: Moments, alpha: float, approximation: Approximation) -> Moments:
    """X + alpha y with all that the two share: variances and covariances add up as those of one sum.

    Raises:
        LookupError: If the sources of one are not known.
    """
    (first, of_x), (second, of_y) = branches(x, y)
    total = summed(first, {source: alpha * columns for source, columns in second.items()})
    covariance = joined(total, torch.ones_like(x.expectation))
    variance = covariance.shared + of_x + alpha**2 * of_y
    return Moments(x.expectation + alpha * y.expectation, variance, approximation, covariance)


def multiplied_by(x: Moments, y: Moments, approximation: Approximation) -> Moments:
    """Product of two that covary, entry by entry, exact for Gaussians; its columns are m_y L_x + m_x L_y.

    With the covariance c of the two factors: mean m_x m_y + c, variance m_x^2 v_y + m_y^2 v_x + 2 m_x m_y c + v_x v_y +
    c^2.

    Raises:
        LookupError: If the sources of one are not known.
    """
    (first, _), (second, _) = branches(x, y)
    common = [
        ((first[source] * second[source]) @ source.variances.unsqueeze(-1)).squeeze(-1)
        for source in first
        if source in second
    ]
    c = sum(common, torch.zeros_like(x.expectation))
    m, n = x.expectation, y.expectation
    by_other = [
        {source: factor.unsqueeze(-1) * columns for source, columns in blocks.items()}
        for factor, blocks in ((n, first), (m, second))
    ]
    covariance = joined(summed(*by_other), torch.ones_like(m))
    variance = m.square() * y.variance + n.square() * x.variance + 2 * m * n * c + x.variance * y.variance + c.square()
    return Moments(m * n + c, variance, approximation, covariance)


def linearised(x: Moments, mean: Tensor, jacobian: Callable[[Tensor], Tensor]) -> Moments:
    """A map of the last axis to first order: all that varies goes through its Jacobian, and nothing is an entry's own.

    Args:
        x: What it is a map of.
        mean: Its value.
        jacobian: The Jacobian times columns (..., d, r).
    """
    before, parts, variances = x.covariance, [], []
    sources: tuple[Source, ...] | None = ()
    if before is not None:
        parts.append(jacobian((before.columns * before.scale.unsqueeze(-1)).expand(*x.shape, -1)))
        variances.append(before.variances)
        sources = before.sources
    if before is None or not before.complete:
        unit = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        parts.append(jacobian(unit.expand(*x.shape, x.shape[-1])))
        variances.append(own_variance(x))
        sources = None if sources is None else (*sources, own_source(x))
    columns, spread = torch.cat(parts, -1), torch.cat(variances, -1)
    shared = (columns.square() @ spread.unsqueeze(-1)).squeeze(-1)
    covariance = Covariance(columns, torch.ones_like(mean), spread, shared, sources, complete=True)
    return Moments(mean, shared, x.approximation, covariance)


def at_leading(x: Moments, position: Any) -> Covariance | None:
    """The covariance of what an index of leading axes picks; None where the index may reach the last axis."""
    assert x.covariance is not None
    parts = position if isinstance(position, tuple) else (position,)
    plain = all(part is None or isinstance(part, int | slice) for part in parts)
    if not plain or sum(part is not None for part in parts) >= x.ndim:
        return None
    whole = x.covariance.with_own_columns()
    columns, scale, variances, shared = (part[position] for part in whole.tensors)
    return Covariance(columns, scale, variances, shared, complete=whole.complete)
