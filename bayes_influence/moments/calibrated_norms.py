"""Norms of one example whose inputs have variance factors, as the outputs of layers have them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bayes_influence.moments.layers import FACTOR, multiplied
from bayes_influence.moments.moments import Moments


class CalibratedNorm(nn.Module):
    """Goes before the class of a norm over features: what comes in has its variances multiplied by a factor each.

    Sums of branches come in here, whose covariance no layer's factor makes up for, and the expected spread by which all
    is divided depends on it: the means, too, are wrong where it is.
    """

    channel_axis = -1

    def forward(self, input: Any) -> Any:
        """The norm of what comes in, moments with their factors."""
        factor: Tensor = self._buffers[FACTOR]  # type: ignore[assignment]
        return super().forward(multiplied(input, factor, -1) if isinstance(input, Moments) else input)


class CalibratedLayerNorm(CalibratedNorm, nn.LayerNorm):
    """`nn.LayerNorm` over features."""


class CalibratedRMSNorm(CalibratedNorm, nn.RMSNorm):
    """`nn.RMSNorm` over features."""


_CALIBRATED: dict[type[nn.Module], type[nn.Module]] = {
    nn.LayerNorm: CalibratedLayerNorm,
    nn.RMSNorm: CalibratedRMSNorm,
}
_PLAIN = {calibrated: plain for plain, calibrated in _CALIBRATED.items()}


def calibrate_norm(module: Any) -> None:
    """Gives a norm over one axis its factors, 1 each, in place; any other module stays as it is."""
    if type(module) not in _CALIBRATED or len(module.normalized_shape) != 1:
        return
    like = next(iter(module.parameters()), torch.zeros(()))
    module.register_buffer(FACTOR, torch.ones(module.normalized_shape, device=like.device, dtype=like.dtype))
    module.__class__ = _CALIBRATED[type(module)]


def without_factors(module: Any) -> None:
    """Makes a calibrated norm the plain one again, in place."""
    plain = _PLAIN.get(type(module))
    if plain is not None:
        module.__class__ = plain
        delattr(module, FACTOR)
