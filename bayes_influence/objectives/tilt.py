"""The tilt of the categorical bound of Knowles & Minka (2011), found by Newton's method.

For independent Gaussian logits with mean m and variance v, every a gives the bound

    E logsumexp(z) <= 1/2 sum_c a_c^2 v_c + logsumexp(m + (1 - 2a) v / 2),

convex in a and tightest where a = p(a) = softmax(m + (1 - 2a) v / 2).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

TILT_TRUST = 2.0
"""Largest change of a tilted logit in one step; the softmax turns within about one unit."""

TILT_TOLERANCE = 1e3
"""The iteration ends when |p(a) - a| is below this many units of rounding."""

TILT_ITERATIONS = 200
"""Most steps: a logit variance v is reached in about sqrt(v) + v / 40 steps, so this serves up to some thousands."""


def _newton_step(tilt: Tensor, mean: Tensor, variance: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """(step, residual): (I + S V) step = p - a with S = diag(p) - pp', solved by Sherman-Morrison."""
    probabilities = torch.softmax(mean + (0.5 - tilt) * variance, dim=dim)
    scaled = probabilities * variance
    residual = probabilities - tilt
    gain = 1 / (1 + scaled)
    weighted = scaled * gain
    shared = (weighted * residual).sum(dim, keepdim=True) / (1 - (weighted * probabilities).sum(dim, keepdim=True))
    return gain * (residual + probabilities * shared), residual


@torch.library.custom_op(
    "bayes_influence::solve_tilt", mutates_args=(), schema="(Tensor mean, Tensor variance) -> Tensor"
)
def _solve_tilt(mean: Tensor, variance: Tensor) -> Tensor:
    # Classes first: softmaxes over a few classes run several times faster on a strided axis.
    classes = mean.shape[-1]
    m = mean.reshape(-1, classes).T.contiguous()
    v = variance.reshape(-1, classes).T.contiguous()
    tilt = torch.softmax(m / torch.sqrt(1 + v.mean(0, keepdim=True)), dim=0)
    tolerance = TILT_TOLERANCE * torch.finfo(m.dtype).eps
    for _ in range(TILT_ITERATIONS):
        step, residual = _newton_step(tilt, m, v, dim=0)
        if not residual.abs().max() > tolerance:
            break
        reach = (v * step).abs().amax(0, keepdim=True).clamp(min=TILT_TRUST)
        tilt = tilt + step * (TILT_TRUST / reach)
    return tilt.T.reshape(mean.shape).contiguous()


@_solve_tilt.register_fake
def _(mean: Tensor, variance: Tensor) -> Tensor:
    return torch.empty(mean.shape, dtype=mean.dtype, device=mean.device)


@_solve_tilt.register_vmap
def _(info: object, in_dims: tuple[int | None, int | None], mean: Tensor, variance: Tensor) -> tuple[Tensor, int]:
    moved = [
        value if dim is None else value.movedim(dim, 0) for value, dim in zip((mean, variance), in_dims, strict=True)
    ]
    return _solve_tilt(*torch.broadcast_tensors(*moved)), 0


def optimal_tilt(mean: Float[Tensor, "B C"], variance: Float[Tensor, "B C"]) -> Float[Tensor, "B C"]:
    """The tilt a at which the bound is tightest.

    The root is found on detached moments, with a trust region on the tilted logits. One more Newton step is
    differentiable: at the root it leaves the value as it is and has the implicit-function derivative da/d(m, v), so
    that first *and second* derivatives of the bound are those of the optimised bound. (With a detached tilt the
    gradient is right, but the Hessian lacks the tilt's response.)

    Args:
        mean: m.
        variance: v, at least 0.

    Returns:
        a, with entries in [0, 1] that sum to one.
    """
    with torch.no_grad():
        root = _solve_tilt(mean.detach(), variance.detach())
    return root + _newton_step(root, mean, variance, dim=-1)[0]
