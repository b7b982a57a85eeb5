"""Where covariances between activations come from: independent sources, by which two branches find what they share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Source:
    """The parts of an activation's entries that are each entry's own: independent, of mean zero.

    What an elementwise function makes of an activation has own parts that go on from these: u = slope * (those of the
    parent) + a rest which does not covary with the parent (it is of higher Hermite order).

    Both are found where they are asked for, which is only where two branches meet or a layer mixes entries.

    Attributes:
        find_variances: Of the entries, (..., d).
        parent: What an elementwise function made it of, None where there is none.
        find_slope: Its mean slope, which broadcasts against the variances.
        affine: Whether there is no rest.
    """

    find_variances: Callable[[], Tensor]
    parent: Source | None = None
    find_slope: Callable[[], Tensor | float] = lambda: 1.0
    affine: bool = False

    @cached_property
    def variances(self) -> Float[Tensor, "*lead d"]:
        """Of the entries."""
        return self.find_variances()

    @cached_property
    def slope(self) -> Tensor | float:
        """The mean slope of what made it of its parent."""
        return self.find_slope()

    @property
    def root(self) -> Source:
        """The first of its ancestors, itself without any."""
        return self if self.parent is None else self.parent.root

    @cached_property
    def rest(self) -> Source:
        """What is left of it without the parent's part."""
        assert self.parent is not None
        variances = (self.variances - self.slope**2 * self.parent.variances).clamp(min=0)
        return Source(lambda: variances)


@dataclass(frozen=True, eq=False)
class Covariance:
    """What the entries of the last axis have in common: x = m + diag(c) L u + (what is each entry's own).

    u are independent with the variances s, so that Cov(x_a, x_b) = c_a c_b sum_r L_ar s_r L_br for a != b.

    Attributes:
        columns: L, (..., d, r), or (d, r) where it is the same for all.
        scale: c, (..., d).
        variances: s >= 0, (..., r).
        shared: c_a^2 sum_r L_ar^2 s_r, (..., d): the part of every entry's variance that is not its own.
        sources: What the columns belong to, in their order; None where that is not known, as of what came through a
            transformation.
        complete: Whether no entry has a part of its own.
    """

    columns: Float[Tensor, "*leading_or_none d r"]
    scale: Float[Tensor, "*lead d"]
    variances: Float[Tensor, "*lead r"]
    shared: Float[Tensor, "*lead d"]
    sources: tuple[Source, ...] | None = None
    complete: bool = False

    @property
    def tensors(self) -> tuple[Any, Any, Any, Any]:
        """Columns, scale, variances and shared part; transformations put placeholders in their place."""
        return self.columns, self.scale, self.variances, self.shared

    def scaled(self, factors: Tensor | float) -> Covariance:
        """That of the entries times factors, which broadcast against them; each may get more of its own."""
        return replace(self, scale=self.scale * factors, shared=self.shared * factors**2, complete=False)

    def with_own_columns(self) -> Covariance:
        """The same with columns for every example, so that all parts have the leading axes."""
        lead = self.scale.shape[:-1]
        return replace(self, columns=self.columns.expand(*lead, *self.columns.shape[-2:]))


def own_part(variance: Float[Tensor, "*shape"], covariance: Covariance | None) -> Float[Tensor, "*shape"]:
    """The part of variances that is each entry's own."""
    if covariance is None:
        return variance
    return torch.zeros_like(variance) if covariance.complete else (variance - covariance.shared).clamp(min=0)


def unchecked(parts: Iterable[Any]) -> Covariance:
    """A covariance of what stands for columns, scale, variances and shared part, tensors or not, of unknown sources."""
    covariance: Covariance = object.__new__(Covariance)
    names = ("columns", "scale", "variances", "shared", "sources", "complete")
    for name, value in zip(names, (*parts, None, False), strict=True):
        object.__setattr__(covariance, name, value)
    return covariance


Blocks = dict[Source, Tensor]
"""The columns of each source, (..., d, width), without the leading axes where they are the same for all."""


def blocks_of(covariance: Covariance | None) -> Blocks:
    """The columns, scale included, by source.

    Raises:
        LookupError: If the sources are not known.
    """
    if covariance is None:
        return {}
    if covariance.sources is None:
        raise LookupError("the sources of a covariance are not known")
    columns = covariance.columns * covariance.scale.unsqueeze(-1)
    widths = [source.variances.shape[-1] for source in covariance.sources]
    return dict(zip(covariance.sources, columns.split(widths, -1), strict=True))


def traced_back(blocks: Blocks) -> Blocks:
    """The same with every source written in its first ancestor and rests."""
    found: Blocks = {}
    waiting = list(blocks.items())
    while waiting:
        source, columns = waiting.pop()
        if source.parent is None:
            found[source] = found[source] + columns if source in found else columns
            continue
        slope = source.slope.unsqueeze(-2) if isinstance(source.slope, Tensor) else source.slope
        waiting.append((source.parent, columns * slope))
        if not source.affine:
            waiting.append((source.rest, columns))
    return found


def summed(first: Blocks, second: Blocks) -> Blocks:
    """The columns of a sum."""
    both = {source: first[source] + columns for source, columns in second.items() if source in first}
    return {**first, **second, **both}


def joined(blocks: Blocks, scale: Float[Tensor, "*lead d"]) -> Covariance:
    """The covariance of these columns.

    Args:
        blocks: Columns by source, at least one.
        scale: Ones of the entries' shape.
    """
    lead = scale.shape[:-1]
    columns = torch.cat([block.expand(*lead, *block.shape[-2:]) for block in blocks.values()], -1)
    variances = torch.cat([source.variances.expand(*lead, -1) for source in blocks], -1)
    shared = (columns.square() @ variances.unsqueeze(-1)).squeeze(-1)
    return Covariance(columns, scale, variances, shared, tuple(blocks))
