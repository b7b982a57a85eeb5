"""The tilt of the categorical bound of Knowles & Minka (2011), found by Newton's method in a or in its normaliser.

For independent Gaussian logits with mean m and variance v, every a gives the bound

    E logsumexp(z) <= 1/2 sum_c a_c^2 v_c + logsumexp(m + (1 - 2a) v / 2),

convex in a and tightest where a = p(a) = softmax(m + (1 - 2a) v / 2).

With the normaliser l = logsumexp(m + (1 - 2a) v / 2) that equation falls apart into one per class: v_c a_c solves
u + log u = s_c with s_c = log v_c + m_c + v_c / 2 - l, which is Wright's omega function, u = omega(s_c). What remains,
sum_c a_c = 1, is convex and decreasing in l, so Newton's method from the left arrives without a safeguard.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

TILT_TRUST = 2.0
"""Largest change of a tilted logit in one step; the softmax turns within about one unit."""

NORMALISER_TOLERANCE = 1e3
"""The iteration in l ends when the sum of the tilts is this many units of rounding from one. The one in a ends when
|p(a) - a| is below the square root of rounding: its last step squares that."""

TILT_ITERATIONS = 40
"""Most steps in a: a logit variance v takes about sqrt(v) + v / 40 of them, so those beyond some hundreds are left to
the normaliser, whose steps do not grow with v but cost several times as much."""

NORMALISER_ITERATIONS = 100
"""Most steps in l: about log C while the a_c are exponentials of l, and at most C while they are linear in it."""

_SMALLEST_ARGUMENT = -100.0
"""Below it, omega(s) is exp(s), which no longer counts beside one."""


def _newton_step(logits: Tensor, tilt: Tensor, variance: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """(step, residual): (I + S V) step = p - a with p = softmax(logits), S = diag(p) - pp', by Sherman-Morrison."""
    probabilities = torch.softmax(logits, dim=dim)
    scaled = probabilities * variance
    residual = probabilities - tilt
    gain = 1 / (1 + scaled)
    weighted = scaled * gain
    # 1 - sum_c p_c s_c g_c, without its cancellation: the p_c sum to one and 1 - s_c g_c = g_c.
    shared = (weighted * residual).sum(dim, keepdim=True) / (probabilities * gain).sum(dim, keepdim=True)
    return gain * (residual + probabilities * shared), residual


def wright_omega(s: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The u > 0 with u + log u = s, by the iteration of Fritsch, Shafer & Crowley (1973), of order four."""
    s = s.clamp(min=_SMALLEST_ARGUMENT)
    u = torch.where(s > 1, s - s.clamp(min=1).log(), torch.sigmoid(s))
    for _ in range(2):  # the first leaves at most 2e-4 of u, and order four of that is rounding
        rest, next_to = s - u - u.log(), 1 + u
        scale = next_to * (next_to + 2 / 3 * rest)
        u = u * (1 + rest / next_to * (scale - 0.5 * rest) / (scale - rest))
    return u


def tilt_by_normaliser(mean: Float[Tensor, "C B"], variance: Float[Tensor, "C B"]) -> Float[Tensor, "C B"]:
    """The tilt at any variance, classes on the first axis: Newton's method for sum_c a_c(l) = 1."""
    centre = mean + 0.5 * variance
    normaliser = (centre - variance).amax(0)  # one a_c is 1 there, so the sum is not below 1
    tilt = torch.zeros_like(mean)
    for _ in range(NORMALISER_ITERATIONS):
        scaled = wright_omega(variance.log() + centre - normaliser)
        tilt = torch.where(scaled > 1, scaled / variance, (centre - normaliser - scaled).exp())
        excess = tilt.sum(0) - 1
        if not excess.max() > NORMALISER_TOLERANCE * torch.finfo(tilt.dtype).eps:
            break
        normaliser = normaliser + excess / (tilt / (1 + scaled)).sum(0)
    return tilt


@torch.library.custom_op(
    "bayes_influence::solve_tilt", mutates_args=(), schema="(Tensor mean, Tensor variance, int dim) -> Tensor"
)
def _solve_tilt(mean: Tensor, variance: Tensor, dim: int) -> Tensor:
    # Classes first: softmaxes over a few classes run several times faster on a strided axis.
    m, v = (value.movedim(dim, 0).flatten(1).contiguous() for value in (mean, variance))
    tilt = torch.softmax(m / torch.sqrt(1 + v.mean(0, keepdim=True)), dim=0)
    tolerance = torch.finfo(m.dtype).eps ** 0.5
    for _ in range(TILT_ITERATIONS):
        step, residual = _newton_step(m + (0.5 - tilt) * v, tilt, v, dim=0)
        if not residual.abs().max() > tolerance:
            tilt = tilt + step
            break
        reach = (v * step).abs().amax(0, keepdim=True).clamp(min=TILT_TRUST)
        tilt = tilt + step * (TILT_TRUST / reach)
    else:
        step, residual = _newton_step(m + (0.5 - tilt) * v, tilt, v, dim=0)
        tilt, left = tilt + step, residual.abs().amax(0) > tolerance
        if left.any():
            tilt[:, left] = tilt_by_normaliser(m[:, left].double(), v[:, left].double()).to(tilt.dtype)
    return tilt.clamp(min=0).reshape(mean.movedim(dim, 0).shape).movedim(0, dim).contiguous()


@_solve_tilt.register_fake
def _(mean: Tensor, variance: Tensor, dim: int) -> Tensor:
    return torch.empty(mean.shape, dtype=mean.dtype, device=mean.device)


@_solve_tilt.register_vmap
def _(info: object, in_dims: tuple[int | None, ...], mean: Tensor, variance: Tensor, dim: int) -> tuple[Tensor, int]:
    mean_axis, variance_axis, _ = in_dims
    moved = [
        value if axis is None else value.movedim(axis, 0)
        for value, axis in ((mean, mean_axis), (variance, variance_axis))
    ]
    return _solve_tilt(*torch.broadcast_tensors(*moved), dim if dim < 0 else dim + 1), 0


def optimal_tilt(
    mean: Float[Tensor, "*shape"], variance: Float[Tensor, "*shape"], dim: int = -1
) -> Float[Tensor, "*shape"]:
    """The tilt a at which the bound is tightest.

    The root is found on detached moments, with a trust region on the tilted logits. One more Newton step is
    differentiable: at the root it leaves the value as it is and has the implicit-function derivative da/d(m, v), so
    that first *and second* derivatives of the bound are those of the optimised bound. (With a detached tilt the
    gradient is right, but the Hessian lacks the tilt's response.) The tilted logits of that step are log a plus their
    own derivatives, for m + (1 - 2a) v / 2 is lost in rounding where v is large.

    Args:
        mean: m.
        variance: v, at least 0.
        dim: The axis of the classes.

    Returns:
        a, with entries in [0, 1] that sum to one.
    """
    with torch.no_grad():
        root = _solve_tilt(mean.detach(), variance.detach(), dim)
    tilted = mean + (0.5 - root) * variance
    return root + _newton_step(root.log() + (tilted - tilted.detach()), root, variance, dim)[0]
