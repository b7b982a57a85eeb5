"""Elementwise maps of moments that keep their inputs for the backward pass, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.moments.transforms import plain_formulas_needed

BLOCK = 65_536
"""Entries that a closed form takes at a time on a CPU, so that its dozens of intermediate results stay in the cache."""

MomentMap = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(m, v) -> (E f(x), Var f(x)) for x ~ N(m, v), entry by entry."""


class MomentJacobian(NamedTuple):
    """Derivatives of the output's moments in the input's, entry by entry, of the shape of m; None where they are zero.

    Attributes:
        mean_by_mean: dE/dm.
        mean_by_variance: dE/dv.
        variance_by_mean: dVar/dm.
        variance_by_variance: dVar/dv.
    """

    mean_by_mean: Tensor
    mean_by_variance: Tensor | None
    variance_by_mean: Tensor | None
    variance_by_variance: Tensor


MomentDerivatives = Callable[[Tensor, Tensor], MomentJacobian]


@dataclass(frozen=True)
class ElementwiseMap:
    """A map of moments with its derivatives.

    Attributes:
        moments: The map.
        derivatives: Its derivatives in closed form; when None, the map is evaluated and differentiated once more.
        in_blocks: Whether it may be evaluated on some entries at a time; not if it holds a tensor of their shape.
    """

    moments: MomentMap
    derivatives: MomentDerivatives | None = None
    in_blocks: bool = False

    def value(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """The map at (m, v)."""
        return self._blockwise(self.moments, mean, variance)

    def slope(self, mean: Tensor, variance: Tensor) -> Tensor:
        """The mean slope E f'(x) = dE f / dm, differentiable as any other value."""
        if self.derivatives is not None:
            return self.derivatives(mean, variance).mean_by_mean
        tangents = (torch.ones_like(mean), torch.zeros_like(variance))
        return torch.func.jvp(self.moments, (mean, variance), tangents)[1][0]

    def pushed(self, x: tuple[Tensor, Tensor], tangents: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Jacobian times tangents."""
        return self._blockwise(self._pushed, *x, *tangents)

    def _pushed(self, mean: Tensor, variance: Tensor, *tangents: Tensor) -> tuple[Tensor, Tensor]:
        if self.derivatives is None:
            return torch.func.jvp(self.moments, (mean, variance), tangents)[1]
        slopes = self.derivatives(mean, variance)
        return (
            _row(slopes.mean_by_mean, slopes.mean_by_variance, *tangents),
            _row(slopes.variance_by_variance, slopes.variance_by_mean, *tangents[::-1]),
        )

    def pulled(self, x: tuple[Tensor, Tensor], gradients: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Transposed Jacobian times gradients."""
        return self._blockwise(self._pulled, *x, *gradients)

    def _pulled(self, mean: Tensor, variance: Tensor, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        if self.derivatives is None:
            return torch.func.vjp(self.moments, mean, variance)[1](gradients)
        slopes = self.derivatives(mean, variance)
        return (
            _row(slopes.mean_by_mean, slopes.variance_by_mean, *gradients),
            _row(slopes.variance_by_variance, slopes.mean_by_variance, *gradients[::-1]),
        )

    def _blockwise(self, function: Callable[..., tuple[Tensor, Tensor]], *tensors: Tensor) -> tuple[Tensor, Tensor]:
        if not self.in_blocks or tensors[0].numel() <= BLOCK or tensors[0].device.type != "cpu":
            return function(*tensors)
        blocks = zip(*(tensor.reshape(-1).split(BLOCK) for tensor in tensors), strict=True)
        first, second = zip(*(function(*block) for block in blocks), strict=True)
        return torch.cat(first).view(tensors[0].shape), torch.cat(second).view(tensors[0].shape)


def _row(own: Tensor, other: Tensor | None, first: Tensor, second: Tensor) -> Tensor:
    return own * first if other is None else torch.addcmul(own * first, other, second)


class _Recomputed(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(mean: Tensor, variance: Tensor, function: ElementwiseMap) -> tuple[Tensor, Tensor]:
        return function.value(mean, variance)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        mean, variance, ctx.function = inputs
        ctx.save_for_backward(mean, variance)
        ctx.save_for_forward(mean, variance)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        return *ctx.function.pulled(ctx.saved_tensors, gradients), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, Tensor]:
        pushed: tuple[Tensor, Tensor] = ctx.function.pushed(ctx.saved_tensors, tangents[:2])
        return pushed


def recomputed(
    function: ElementwiseMap, mean: Float[Tensor, "*shape"], variance: Float[Tensor, "*shape"]
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """The map's value; a backward pass finds what it needs from m and v again.

    A closed form such as tanh's is some sixty elementary operations, and autograd would keep an activation for most of
    them. Differentiable any number of times, in both modes and under `vmap`.

    Args:
        function: The map.
        mean: m.
        variance: v.
    """
    if plain_formulas_needed():
        return function.value(mean, variance)
    result: tuple[Tensor, Tensor] = _Recomputed.apply(mean, variance, function)
    return result
