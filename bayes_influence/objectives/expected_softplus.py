"""E log(1 + e^z) of a Gaussian z in closed form: value and derivatives to near rounding, whatever the variance."""

from __future__ import annotations

from functools import lru_cache
from math import cosh, factorial, log, pi, sqrt

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor

TERMS = 24
"""Of the sum over e^{-k |z|}; its relative error is at most 2 (3 + sqrt 8)^-TERMS, which second derivatives in v
multiply by some v^-2."""

SMALL = 0.02
"""Variance below which moments are expanded: the closed form's second derivative in v loses its digits as v^-2."""

ORDERS = 9
"""Of the expansion in v; what is left out at `SMALL` is below 1e-16 of a second derivative in v."""

THRESHOLD = 40.0
"""Where log(1 + e^z) is z to every digit; torch's own threshold of 20 is 2e-9 off."""


def softplus(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """log(1 + e^z) to every digit."""
    return F.softplus(values, threshold=THRESHOLD)


def expected_softplus(mean: Float[Tensor, "*shape"], variance: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """E log(1 + e^z), z ~ N(m, v): E max(z, 0) + sum_k c_k E e^{-k |z|}, and its expansion in v where v is small.

    log(1 + e^z) = max(z, 0) + log(1 + x) with x = e^{-|z|} in [0, 1], and log(1 + x) is a polynomial there (Cohen,
    Rodriguez Villegas & Zagier 2000, algorithm 1). Computed in double precision and returned in that of the mean;
    differentiable twice in both arguments, at v = 0 from above.

    Args:
        mean: m.
        variance: v, at least 0.
    """
    m, v = mean.double(), variance.double()
    small = v < SMALL
    wide = _closed_form(m, torch.where(small, 1.0, v))
    return torch.where(small, _expansion(m, torch.where(small, v, 0.0)), wide).to(mean.dtype)


def _closed_form(mean: Tensor, variance: Tensor) -> Tensor:
    deviation = variance.sqrt()
    ratio = mean / deviation
    rectified = mean * torch.special.ndtr(ratio) + deviation * torch.exp(-ratio.square() / 2) / sqrt(2 * pi)
    rates = torch.arange(1, TERMS + 1, dtype=mean.dtype, device=mean.device)
    mean, variance = mean.unsqueeze(-1), variance.unsqueeze(-1)
    decays = _mean_decay(mean, variance, rates) + _mean_decay(-mean, variance, rates)
    return rectified + (decays * mean.new_tensor(_coefficients())).sum(-1)


def _mean_decay(mean: Tensor, variance: Tensor, rates: Tensor) -> Tensor:
    """E[e^{-k z}; z > 0] = e^{k^2 v / 2 - k m} erfc(x) / 2 with x = (k v - m) / sqrt(2 v), for every rate k.

    The first factor overflows where x is positive; there it is e^{-m^2 / 2v} erfcx(x) / 2.
    """
    x = (rates * variance - mean) / (2 * variance).sqrt()
    above = torch.special.erfcx(x.clamp(min=0)) * torch.exp(-mean.square() / (2 * variance))
    below = torch.erfc(x.clamp(max=0)) * torch.exp((rates * (rates * variance / 2 - mean)).clamp(max=0))
    return torch.where(x >= 0, above, below) / 2


def _expansion(mean: Tensor, variance: Tensor) -> Tensor:
    """sum_j (v/2)^j / j! f^(2j)(m) with f = log(1 + e^m), whose even derivatives are polynomials in u = f''."""
    slope = torch.sigmoid(mean) * torch.sigmoid(-mean)
    total = torch.zeros_like(mean)
    for order in range(ORDERS, 0, -1):
        derivative = torch.zeros_like(mean)
        for coefficient in reversed(_even_derivative(order)):
            derivative = derivative * slope + coefficient
        total = (total + derivative / (factorial(order) * 2**order)) * variance
    return softplus(mean) + total


@lru_cache(maxsize=1)
def _coefficients() -> tuple[float, ...]:
    """c_k in log(1 + x) = sum_k c_k x^k on [0, 1], k from 1."""
    scale = cosh(TERMS * log(3 + sqrt(8)))
    found, b, c = [], -1.0, -scale
    for k in range(TERMS):
        c = b - c
        found.append(c / scale / (k + 1))
        b *= (k + TERMS) * (k - TERMS) / ((k + 0.5) * (k + 1))
    return tuple(found)


@lru_cache(maxsize=ORDERS)
def _even_derivative(order: int) -> tuple[int, ...]:
    """f^(2j) as coefficients of 1, u, u^2, ...: (u^p)'' = p^2 u^p - 2p (2p + 1) u^{p+1}."""
    if order == 1:
        return 0, 1
    before = _even_derivative(order - 1)
    found = [0] * (len(before) + 1)
    for power, coefficient in enumerate(before):
        found[power] += coefficient * power * power
        found[power + 1] -= coefficient * 2 * power * (2 * power + 1)
    return tuple(found)
