"""Standard deviations of weights at the start of a training: in proportion to 1/sqrt(fan-in), or to the weights."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import torch
from torch import Tensor

from bayes_influence.arguments import check_positive

InitialSigma = Callable[[Tensor, float], Tensor]
"""`(weights or biases of a layer, its fan-in) -> sigma` of the same shape."""

DEFAULT_SIGMA_FACTOR = 0.05
"""sigma sqrt(fan-in) at the start. With inputs of unit mean square each layer then adds a standard deviation of 0.05 to
its outputs, a tenth of the weights' own spread under torch's initialisation (1/sqrt(3 fan-in)): the gradients of the
means are those of the deterministic network, and the variances grow from there. Published starts (variances of 0.7 to 5
per weight) drown the signal after one layer and do not train."""


def fan_in_sigma(factor: float = DEFAULT_SIGMA_FACTOR) -> InitialSigma:
    """A sigma of factor / sqrt(fan-in) for the weights and the biases of a layer.

    Raises:
        ValueError: If the factor is not positive.
    """
    _check_positive("factor", factor)

    def sigma(mean: Tensor, fan_in: float) -> Tensor:
        return torch.full_like(mean, factor / sqrt(fan_in))

    return sigma


def relative_sigma(fraction: float, minimum: float = 1e-3, maximum: float = 1.0) -> InitialSigma:
    """A sigma of fraction |w|, clamped: for a start from a trained deterministic network.

    Args:
        fraction: Of the weight's magnitude.
        minimum: Smallest sigma, reached by weights near zero.
        maximum: Largest sigma.

    Raises:
        ValueError: If fraction or minimum is not positive, or the maximum is below the minimum.
    """
    _check_positive("fraction", fraction)
    _check_positive("minimum", minimum)
    if maximum < minimum:
        raise ValueError(f"maximum must be at least the minimum {minimum}, got {maximum}")

    def sigma(mean: Tensor, fan_in: float) -> Tensor:
        return (fraction * mean.abs()).clamp(minimum, maximum)

    return sigma


def _check_positive(name: str, value: float) -> None:
    check_positive(**{name: value})
