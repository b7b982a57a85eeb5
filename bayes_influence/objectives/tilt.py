"""The tilt of the categorical bound of Knowles & Minka (2011), found by Newton's method in a or in its normaliser.

For independent Gaussian logits with mean m and variance v, every a gives the bound

    E logsumexp(z) <= 1/2 sum_c a_c^2 v_c + logsumexp(m + (1 - 2a) v / 2),

convex in a and tightest where a = p(a) = softmax(m + (1 - 2a) v / 2).

With the normaliser l = logsumexp(m + (1 - 2a) v / 2) that equation falls apart into one per class: v_c a_c solves
u + log u = s_c with s_c = log v_c + m_c + v_c / 2 - l, which is Wright's omega function, u = omega(s_c). What remains,
sum_c a_c = 1, is convex and decreasing in l, so Newton's method from the left arrives without a safeguard.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import reduce
from operator import add

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

STEPS_IN_LINE, CLASSES_IN_LINE = 2, 4
"""Steps in a that compiled training takes before it looks whether they were enough, and classes up to which it does. A
start that is off by .01 at a logit variance of one, by .001 at 100, is then within the square root of rounding, and the
tilt of one optimiser step before mostly is; from nothing, trained Bayesian networks on Iris need five steps at depth 1
and twelve at depth 8."""

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


def _first_tilt(mean: Tensor, variance: Tensor, dim: int) -> Tensor:
    """Where Newton's method in a starts: MacKay's softmax, with one variance for all classes."""
    return torch.softmax(mean / torch.sqrt(1 + variance.mean(dim, keepdim=True)), dim=dim)


def _within_trust(step: Tensor, variance: Tensor, dim: int) -> Tensor:
    """A step that changes no tilted logit by more than `TILT_TRUST`."""
    reach = (variance * step).abs().amax(dim, keepdim=True).clamp(min=TILT_TRUST)
    return step * (TILT_TRUST / reach)


def _tolerance(residual: Tensor) -> float:
    """The square root of rounding: a last step squares what is left."""
    return torch.finfo(residual.dtype).eps ** 0.5


def _is_solved(residual: Tensor) -> bool:
    return not residual.abs().max() > _tolerance(residual)


def _solve_from(tilt: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Newton's method in a from a tilt, classes on the first of two axes, and then in l where it needs too long."""
    for _ in range(TILT_ITERATIONS):
        step, residual = _newton_step(mean + (0.5 - tilt) * variance, tilt, variance, dim=0)
        if _is_solved(residual):
            return tilt + step
        tilt = tilt + _within_trust(step, variance, dim=0)
    step, residual = _newton_step(mean + (0.5 - tilt) * variance, tilt, variance, dim=0)
    tilt, left = tilt + step, residual.abs().amax(0) > _tolerance(residual)
    if left.any():
        tilt[:, left] = tilt_by_normaliser(mean[:, left].double(), variance[:, left].double()).to(tilt.dtype)
    return tilt


def _classes_first(values: Tensor, dim: int) -> Tensor:
    # Softmaxes over a few classes run several times faster on a strided axis.
    return values.movedim(dim, 0).flatten(1).contiguous()


def _classes_back(tilt: Tensor, like: Tensor, dim: int) -> Tensor:
    return tilt.clamp(min=0).reshape(like.movedim(dim, 0).shape).movedim(0, dim).contiguous()


@torch.library.custom_op(
    "bayes_influence::solve_tilt", mutates_args=(), schema="(Tensor mean, Tensor variance, int dim) -> Tensor"
)
def _solve_tilt(mean: Tensor, variance: Tensor, dim: int) -> Tensor:
    m, v = _classes_first(mean, dim), _classes_first(variance, dim)
    return _classes_back(_solve_from(_first_tilt(m, v, dim=0), m, v), mean, dim)


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


@torch.library.custom_op(
    "bayes_influence::finish_tilt",
    mutates_args=(),
    schema="(Tensor tilt, Tensor residual, Tensor mean, Tensor variance, int dim) -> Tensor",
)
def _finish_tilt(tilt: Tensor, residual: Tensor, mean: Tensor, variance: Tensor, dim: int) -> Tensor:
    if _is_solved(residual):
        return tilt.clone()
    start, m, v = (_classes_first(value, dim) for value in (tilt, mean, variance))
    return _classes_back(_solve_from(start, m, v), mean, dim)


@_finish_tilt.register_fake
def _(tilt: Tensor, residual: Tensor, mean: Tensor, variance: Tensor, dim: int) -> Tensor:
    return torch.empty_like(tilt, memory_format=torch.contiguous_format)


SOLVE_TILT = torch.ops.bayes_influence.solve_tilt.default
"""Finds the tilt: one operation, as nobody knows beforehand how many steps it takes."""


Classes = Collection[Tensor]
"""One tensor for each class."""


def _total(classes: Classes) -> Tensor:
    return reduce(add, classes)


def _largest(classes: Classes) -> Tensor:
    return reduce(torch.maximum, classes)


def _softmax_of(logits: Classes) -> Classes:
    largest = _largest(logits)
    exponentials = [(logit - largest).exp() for logit in logits]
    scale = 1 / _total(exponentials)
    return [exponential * scale for exponential in exponentials]


def _newton_step_of(tilt: Classes, mean: Classes, variance: Classes) -> tuple[Classes, Classes]:
    """`_newton_step`, class by class."""
    of_classes = list(zip(tilt, mean, variance, strict=True))
    probabilities = _softmax_of([m + (0.5 - a) * v for a, m, v in of_classes])
    scaled = [p * v for p, v in zip(probabilities, variance, strict=True)]
    residual = [p - a for p, a in zip(probabilities, tilt, strict=True)]
    gain = [1 / (1 + s) for s in scaled]
    weighted = [s * g * r for s, g, r in zip(scaled, gain, residual, strict=True)]
    shared = _total(weighted) / _total([p * g for p, g in zip(probabilities, gain, strict=True)])
    step = [g * (r + p * shared) for g, r, p in zip(gain, residual, probabilities, strict=True)]
    return step, residual


def tilt_in_line(mean: Tensor, variance: Tensor, dim: int, start: Tensor) -> Tensor:
    """What `SOLVE_TILT` returns, from a start close to it: steps written out, class by class, for a compiler to fuse.

    Whether `STEPS_IN_LINE` and a last one are enough is looked up once; where not, Newton's method goes on from there.
    """
    m, v, tilt = (list(values.unbind(dim)) for values in (mean, variance, start))
    for _ in range(STEPS_IN_LINE):
        step, _ = _newton_step_of(tilt, m, v)
        reach = _largest([(change * of).abs() for change, of in zip(step, v, strict=True)]).clamp(min=TILT_TRUST)
        tilt = [a + change * (TILT_TRUST / reach) for a, change in zip(tilt, step, strict=True)]
    step, residual = _newton_step_of(tilt, m, v)
    reached, worst = torch.stack(list(tilt), dim), _largest([rest.abs() for rest in residual])
    finished = torch.ops.bayes_influence.finish_tilt(reached, worst, mean, variance, dim)
    return torch.where(finished == reached, reached + torch.stack(list(step), dim), finished).clamp(min=0)


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
