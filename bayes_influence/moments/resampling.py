"""Interpolation between positions: a linear map with fixed weights."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

from bayes_influence.moments.moments import Moments
from bayes_influence.moments.pooling import per_dimension
from bayes_influence.moments.registry import UnsupportedOperationError, rule

NEAREST = ("nearest", "nearest-exact")
LINEAR = ("linear", "bilinear", "trilinear")


@rule("interpolate")
def interpolate(
    input: Moments,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Moments:
    """A m and A^2 v, the square elementwise, for the weights A of the interpolation; entries independent.

    Raises:
        UnsupportedOperationError: If the mode is neither nearest nor linear, or smoothed against aliasing.
    """
    if mode not in (*NEAREST, *LINEAR) or antialias:
        raise UnsupportedOperationError(
            f"interpolation of Moments has rules for {', '.join((*NEAREST, *LINEAR))}, got {mode!r}"
            f"{' with antialias=True' if antialias else ''}; choose one of these"
        )
    options: dict[str, Any] = {"align_corners": align_corners, "recompute_scale_factor": recompute_scale_factor}
    mean = F.interpolate(input.expectation, size, scale_factor, mode, **options)
    if mode in NEAREST:
        return Moments(mean, F.interpolate(input.variance, size, scale_factor, mode, **options), input.approximation)
    spatial = input.ndim - 2
    sizes, factors = per_dimension(size, spatial), per_dimension(scale_factor, spatial)
    variance = input.variance
    for axis, one_size, factor in zip(range(2, input.ndim), sizes, factors, strict=True):
        unit = torch.eye(input.shape[axis], dtype=input.dtype, device=input.device).unsqueeze(0)
        weights = F.interpolate(unit, one_size, factor, "linear", **options)[0]
        variance = (variance.movedim(axis, -1) @ weights.square()).movedim(-1, axis)
    return Moments(mean, variance, input.approximation)
