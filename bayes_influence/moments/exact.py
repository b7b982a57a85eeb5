"""Closed-form moments of the common activations under a Gaussian."""

from __future__ import annotations

from math import pi, sqrt

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from bayes_influence.moments.activations import SELU_ALPHA, SELU_SCALE
from bayes_influence.moments.elementwise_functions import exact_moments_of, moment_derivatives_of
from bayes_influence.moments.gaussian import (
    gauss_hermite,
    gauss_hermite_derivatives,
    normal_density,
    normal_distribution,
    rectified_moments,
)
from bayes_influence.moments.moments import VARIANCE_FLOOR
from bayes_influence.moments.recomputed import MomentJacobian

_NEARLY_CERTAIN = 30.0
"""c in (c eps)^(2/3), the variance below which formulas that cancel give way to ones that are right as v goes to 0: the
former err by eps / v, the latter by sqrt(v) / c where the function bends (float32: 2e-4, float64: 4e-10)."""

_LARGEST_EXPONENT = 80.0
"""Of an exponential in float32, with room for a factor."""

_ERF_WEIGHTS = (0.23137798736923176, 0.5852651045631223, 0.18335690806764574)
_ERF_SCALES = (0.5478221104325736, 0.8739279594471487, 1.3516038059154625)
"""tanh x ~ sum_i w_i erf(c_i x), weights of sum one: least squares over value, slope and curvature on [0, 8]."""


@exact_moments_of("relu")
def relu_moments(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Moments of max(x, 0): sqrt(v) s_plus and v (Phi(a) - s_plus s_minus), see `rectified_moments`."""
    rectified, spread, _ = rectified_moments(mean, variance)
    return rectified, spread


@moment_derivatives_of(relu_moments)
def relu_derivatives(mean: Tensor, variance: Tensor) -> MomentJacobian:
    """By dE g/dm = E g' and dE g/dv = E g'' / 2: Phi(a), phi(a) / (2 sqrt(v)), 2 E Phi(-a) and Phi(a) - s_plus phi(a).

    E is the rectified mean; below `VARIANCE_FLOOR` the mean no longer depends on the variance.
    """
    root = variance.clamp(min=VARIANCE_FLOOR).sqrt()
    a = mean / root
    density, distribution = normal_density(a), normal_distribution(a)
    s_plus = density + a * distribution
    return MomentJacobian(
        distribution,
        torch.where(variance > VARIANCE_FLOOR, density / (2 * root), 0.0),
        2 * root * s_plus * normal_distribution(-a),
        distribution - s_plus * density,
    )


@exact_moments_of("leaky_relu")
def leaky_relu_moments(mean: Tensor, variance: Tensor, negative_slope: float = 0.01) -> tuple[Tensor, Tensor]:
    """Moments of s x + (1 - s) max(x, 0): s^2 v + (1 - s)^2 Var max(x, 0) + 2 s (1 - s) v Phi(a) is the variance."""
    rectified, spread, covariance = rectified_moments(mean, variance)
    total = _kinked_variance(variance, spread, covariance, negative_slope, 1.0)
    return negative_slope * mean + (1 - negative_slope) * rectified, total


def _kinked_variance(
    variance: Tensor, spread: Tensor, covariance: Tensor, lower: float | Tensor, upper: float
) -> Tensor:
    """Variance of l x + (u - l) max(x, 0): slope l below zero and u above."""
    rest = upper - lower
    return (lower**2 * variance + rest**2 * spread + 2 * lower * rest * covariance).clamp(min=0)


@exact_moments_of("elu")
def elu_moments(mean: Tensor, variance: Tensor, alpha: float = 1.0) -> tuple[Tensor, Tensor]:
    """Moments of max(x, 0) + alpha (exp(min(x, 0)) - 1), see `_exponential_linear_moments`."""
    return _exponential_linear_moments(mean, variance, 1.0, alpha)


@exact_moments_of("selu")
def selu_moments(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Moments of s max(x, 0) + s alpha (exp(min(x, 0)) - 1), see `_exponential_linear_moments`."""
    return _exponential_linear_moments(mean, variance, SELU_SCALE, SELU_SCALE * SELU_ALPHA)


@exact_moments_of("celu")
def celu_moments(mean: Tensor, variance: Tensor, alpha: float = 1.0) -> tuple[Tensor, Tensor]:
    """Moments of alpha ELU(x / alpha)."""
    scaled_mean, scaled_variance = _exponential_linear_moments(mean / alpha, variance / alpha**2, 1.0, 1.0)
    return alpha * scaled_mean, alpha**2 * scaled_variance


def _exponential_linear_moments(mean: Tensor, variance: Tensor, slope: float, depth: float) -> tuple[Tensor, Tensor]:
    """Moments of s r + d h with r = max(x, 0) and h = exp(min(x, 0)) - 1, for x ~ N(m, v).

    One of r and h is always 0, so Cov(r, h) = -E r E h. With E_k = E[exp(k x); x < 0], q = P(x < 0) and p = 1 - q:
    E h = E_1 - q, and Var h = (E_2 - E_1^2 / q) + p q (1 - E_1 / q)^2, the variance below zero and that of being there;
    E h^2 - (E h)^2 is the same number and cancels in float32. Below `_NEARLY_CERTAIN` h is replaced by a line, whose
    slope is the mean slope E_1 / q below zero; that is right to order v. The variance is within 1e-6 of its value, in
    single precision 1e-3.
    """
    root = variance.clamp(min=VARIANCE_FLOOR).sqrt()
    a = mean / root
    rectified, spread, covariance = rectified_moments(mean, variance)
    above, below = normal_distribution(a), normal_distribution(-a).clamp(min=torch.finfo(mean.dtype).tiny)
    once, within, ratio = _exponential_below_zero(mean, variance, root, below)
    fall = once - below
    fall_variance = within + above * below * (1 - ratio).square()
    total = slope**2 * spread + depth**2 * fall_variance - 2 * slope * depth * rectified * fall
    kinked = _kinked_variance(variance, spread, covariance, depth * ratio, slope)
    return slope * rectified + depth * fall, torch.where(_is_nearly_certain(variance), kinked, total.clamp(min=0))


def _exponential_below_zero(
    mean: Tensor, variance: Tensor, root: Tensor, below: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """E_1, E_2 - E_1^2 / q and E_1 / q, with E_k = E[exp(k x); x < 0] and q = P(x < 0), without cancellation.

    E_k = exp(k m + k^2 v / 2) Phi(-a - k sqrt(v)), a = m / sqrt(v). Where a + k sqrt(v) > 0 the first factor overflows
    and the second underflows: there E_k = exp(-a^2 / 2) X_k / 2 with X_k = erfcx((a + k sqrt(v)) / sqrt(2)). Where a +
    sqrt(v) < 0, E_2 - E_1^2 / q = exp(2 m + v) [(exp(v) - 1) Phi_2 + Phi_2 - Phi_1^2 / q].
    """
    a = mean / root
    bell = 0.5 * torch.exp(-0.5 * a.square())
    zero, one, two = (torch.special.erfcx((a + k * root).clamp(min=0) * sqrt(0.5)) for k in (0, 1, 2))
    phi_one, phi_two = (normal_distribution(-a - k * root) for k in (1, 2))
    # In the tail on the left the exponents are negative; the bound is for the entries that take another formula.
    once_left = (mean + 0.5 * variance).clamp(max=_LARGEST_EXPONENT).exp() * phi_one
    growth = torch.expm1(variance.clamp(max=_LARGEST_EXPONENT))
    within_left = (2 * mean + variance).clamp(max=_LARGEST_EXPONENT).exp() * (
        growth * phi_two + (phi_two - phi_one.square() / below)
    )
    once = torch.where(a + root > 0, bell * one, once_left)
    ratio = torch.where(a > 0, one / zero, once / below)
    second = torch.where(a > 0, bell * (two - one * ratio), bell * two - once * ratio)
    return once, torch.where(a + root > 0, second, within_left).clamp(min=0), ratio


@exact_moments_of("tanh")
def tanh_moments(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Moments of tanh by T(x) = sum_i w_i erf(c_i x), whose expectation under a Gaussian is in closed form.

    T is within 3e-4 of tanh, and T' within 4e-4 of tanh'. With r_i = (1 + 2 c_i^2 v)^(-1/2): E T = sum_i w_i
    erf(c_i r_i m) and E T' = sum_i w_i (2 c_i / sqrt(pi)) r_i exp(-(c_i r_i m)^2); since tanh^2 = 1 - tanh', the
    variance is 1 - E tanh' - (E tanh)^2. Only the changes of E T and E T' from v = 0 are used, so the result is exact
    there, and errors stay below 4e-4 (mean) and 6e-4 (variance). That is many times the variance where tanh saturates,
    so wherever `_is_narrow` says so mean and variance are those of Gauss-Hermite quadrature, and below
    `_NEARLY_CERTAIN` the variance is first order. The variance is then within 0.2 % of its value for v <= 1. Above, the
    more tanh saturates the less is left to be right about: within 1.4 % for |m| <= 4, 5.5 % for |m| <= 6, 12 % for |m|
    <= 8 (v = 1 to 4; beyond v = 30 within 0.1 %). The mean is within 0.2 % of a standard deviation.
    """
    value, squared = torch.tanh(mean), mean.square()
    shift, slope_loss = torch.zeros_like(mean), torch.zeros_like(mean)
    for weight, c in zip(_ERF_WEIGHTS, _ERF_SCALES, strict=True):
        factor, argument = 2 * weight * c / sqrt(pi), c * mean
        narrowing = torch.rsqrt(1 + 2 * c**2 * variance)
        narrowed = argument * narrowing
        shift = torch.add(shift, torch.erf(narrowed) - torch.erf(argument), alpha=weight)
        slope_loss = torch.add(slope_loss, torch.exp(-(c**2) * squared), alpha=factor)
        slope_loss = torch.addcmul(slope_loss, narrowing, torch.exp(-narrowed.square()), value=-factor)
    expectation = value + shift
    spread = torch.addcmul(slope_loss, shift, expectation + value, value=-1).clamp(min=0)
    quadrature_mean, quadrature = gauss_hermite(torch.tanh, mean, variance)
    narrow, first_order = _is_narrow(mean, variance), (1 - value.square()).square() * variance
    spread = torch.where(_is_nearly_certain(variance), first_order, torch.where(narrow, quadrature, spread))
    return torch.where(narrow, quadrature_mean, expectation), spread


def _is_narrow(mean: Tensor, variance: Tensor) -> Tensor:
    """Where 16 nodes resolve tanh better than the closed form does: v < 1.5 + m^2 / 24, found by comparing the two."""
    return variance < 1.5 + mean.square() / 24


def _is_nearly_certain(variance: Tensor) -> Tensor:
    return variance < (_NEARLY_CERTAIN * torch.finfo(variance.dtype).eps) ** (2 / 3)


@moment_derivatives_of(tanh_moments)
def tanh_derivatives(mean: Tensor, variance: Tensor) -> MomentJacobian:
    """Derivatives of `tanh_moments`, from dE T/dm = E T' and dE T/dv = E T'' / 2, and likewise for E T'.

    With e_i = r_i exp(-(c_i r_i m)^2) and k_i = 2 w_i c_i / sqrt(pi): E T' = sum k_i e_i, its derivative in m
    -2 m sum k_i c_i^2 r_i^2 e_i, and its second one -2 sum k_i c_i^2 r_i^2 (1 - 2 (c_i r_i m)^2) e_i.
    """
    value, squared = torch.tanh(mean), mean.square()
    slope = 1 - value.square()
    shift, slope_loss, curvature_loss = torch.zeros_like(mean), torch.zeros_like(mean), torch.zeros_like(mean)
    curvature, third = torch.zeros_like(mean), torch.zeros_like(mean)
    for weight, c in zip(_ERF_WEIGHTS, _ERF_SCALES, strict=True):
        factor, argument = 2 * weight * c / sqrt(pi), c * mean
        narrowing = torch.rsqrt(1 + 2 * c**2 * variance)
        narrowed = argument * narrowing
        exponent = narrowed.square()
        start, bell = torch.exp(-(c**2) * squared), narrowing * torch.exp(-exponent)
        shift = torch.add(shift, torch.erf(narrowed) - torch.erf(argument), alpha=weight)
        slope_loss = torch.add(slope_loss, start - bell, alpha=factor)
        sharp_bell = narrowing.square() * bell
        curvature_loss = torch.add(curvature_loss, start - sharp_bell, alpha=-2 * factor * c**2)
        curvature = torch.add(curvature, sharp_bell, alpha=-2 * factor * c**2)
        third = torch.addcmul(third, sharp_bell, 1 - 2 * exponent, value=-2 * factor * c**2)
    curvature, curvature_loss = mean * curvature, mean * curvature_loss
    expectation, mean_by_mean = value + shift, slope - slope_loss
    by_mean = curvature_loss + 2 * (value * slope - expectation * mean_by_mean)
    by_variance = -0.5 * third - expectation * curvature
    # Where rounding made the variance negative it was set to zero.
    positive = slope_loss > shift * (expectation + value)
    narrow, nearly_certain = _is_narrow(mean, variance), _is_nearly_certain(variance)
    quadrature = gauss_hermite_derivatives(torch.tanh, lambda value: 1 - value.square(), mean, variance)
    by_mean = torch.where(narrow, quadrature[2], by_mean * positive)
    by_variance = torch.where(narrow, quadrature[3], by_variance * positive)
    return MomentJacobian(
        torch.where(narrow, quadrature[0], mean_by_mean),
        torch.where(narrow, quadrature[1], 0.5 * curvature),
        torch.where(nearly_certain, -4 * value * slope.square() * variance, by_mean),
        torch.where(nearly_certain, slope.square(), by_variance),
    )


@exact_moments_of("sigmoid")
def sigmoid_moments(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Moments of (1 + tanh(x / 2)) / 2, see `tanh_moments`."""
    centre, spread = tanh_moments(0.5 * mean, 0.25 * variance)
    return 0.5 * (1 + centre), 0.25 * spread


@exact_moments_of("gelu")
def gelu_moments(mean: Tensor, variance: Tensor, approximate: str = "none") -> tuple[Tensor, Tensor]:
    """Mean m Phi(m/t) + (v/t) phi(m/t), t^2 = 1 + v, in closed form; the variance about it by Gauss-Hermite.

    With `approximate="tanh"` both are Gauss-Hermite.
    """
    if approximate != "none":
        return gauss_hermite(lambda values: F.gelu(values, approximate=approximate), mean, variance)
    t = (1 + variance).sqrt()
    expectation = mean * normal_distribution(mean / t) + variance / t * normal_density(mean / t)
    return gauss_hermite(F.gelu, mean, variance, exact_mean=expectation)


@exact_moments_of("exp")
def exp_moments(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Log-normal moments: exp(m + v/2), and its square times exp(v) - 1."""
    expectation = torch.exp(mean + 0.5 * variance)
    return expectation, expectation.square() * torch.expm1(variance)


@exact_moments_of("square")
def square_moments(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Moments of the square: m^2 + v and 2 v^2 + 4 m^2 v."""
    return mean.square() + variance, (2 * variance + 4 * mean.square()) * variance


@exact_moments_of("abs")
def abs_moments(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Folded normal: |x| = 2 max(x, 0) - x, so 2 E max(x, 0) - m and v + 4 Var max(x, 0) - 4 v Phi(a)."""
    rectified, spread, covariance = rectified_moments(mean, variance)
    return 2 * rectified - mean, (variance + 4 * (spread - covariance)).clamp(min=0)
