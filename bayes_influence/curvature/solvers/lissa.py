"""LiSSA: the truncated Neumann series, with its damping and its convergence made explicit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, log

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.curvature.operators.base import DampedOperator, LinearOperator, as_operator
from bayes_influence.curvature.operators.batched import DataOperator
from bayes_influence.curvature.solvers.solution import Solution, checked, relative_residual
from bayes_influence.curvature.spectrum.extremes import ExtremeEigenvalues, extreme_eigenvalues

SAFETY = 1.1
"""The automatic scale over lambda_max."""

DIVERGED = 1e3
"""A state this many times larger than the recursion's bound s / (lambda_min + s d) ||v|| has left its range."""


@dataclass(frozen=True, eq=False)
class LissaSolution(Solution):
    """A `Solution` with what its repeats disagree by.

    Attributes:
        repeats: (R, P, *K) the results of R independent runs; `value` is their mean. A score g'x has the standard
            error std(g'x_r) / sqrt(R).
        scale: s.
        shrinkage: d.
    """

    repeats: Float[Tensor, "R P *K"] | None = None
    scale: float = 0.0
    shrinkage: float = 0.0

    def standard_error(self) -> Float[Tensor, " P *K"]:
        """Standard error of the mean over the repeats.

        Raises:
            ValueError: If there is only one.
        """
        if self.repeats is None or len(self.repeats) < 2:
            raise ValueError("a standard error needs at least 2 repeats")
        return self.repeats.std(dim=0) / len(self.repeats) ** 0.5


def lissa(
    operator: LinearOperator | Float[Tensor, "P P"],
    rhs: Float[Tensor, " P *K"],
    *,
    shrinkage: float = 0.0,
    scale: float | None = None,
    steps: int | None = None,
    minibatch: int | None = None,
    repeats: int = 1,
    tolerance: float = 1e-3,
    max_steps: int = 10_000,
    seed: int = 0,
    on_failure: str = "warn",
) -> LissaSolution:
    """(A + s d I)^{-1} V by LiSSA (Agarwal, Bullins, Hazan 2017; Koh & Liang 2017).

    The recursion h <- v + (1 - d) h - A h / s has the fixed point s (A + s d I)^{-1} v, so h / s solves a system with
    the *damping s d*: scale 10 and shrinkage .01, as often published, are a damping of 0.1, in addition to any that A
    has. It converges if and only if -s d < lambda < s (2 - d) for every eigenvalue lambda of A, which is found out with
    Lanczos before the run.

    Args:
        operator: A, with the damping inside where it is not left to s d.
        rhs: V.
        shrinkage: d.
        scale: s; 1.1 lambda_max where not given.
        steps: Length of the recursion; s / (lambda_min + s d) log(1 / tolerance) where not given.
        minibatch: Examples drawn anew for every product; all of them where not given. A minibatch's eigenvalues exceed
            those of all data: give it a larger scale. Needs the operator of a dataset.
        repeats: Independent runs, for minibatches.
        tolerance: Bound on the relative residual of the mean over the repeats.
        max_steps: Bound on the automatic length.
        seed: Of the minibatches.
        on_failure: What to do above the tolerance, `"warn"` or `"raise"`.

    Raises:
        ValueError: If s and d are outside the range of convergence (before the run; says which scale is inside); if a
            run of minibatches diverges; if minibatches are asked for where there are no data.
        NotConvergedError: If the residual is above the tolerance and `on_failure` is `"raise"`.
    """
    operator = as_operator(operator)
    extremes = extreme_eigenvalues(operator)
    scale = SAFETY * extremes.largest if scale is None else scale
    check_convergence(extremes, scale, shrinkage)
    slowest = extremes.smallest + scale * shrinkage
    if steps is None:
        steps = min(max_steps, ceil(scale / slowest * log(1 / tolerance)))
    columns = rhs.reshape(len(rhs), -1)
    generator = torch.Generator().manual_seed(seed)
    product = _full_product(operator) if minibatch is None else _minibatch_product(operator, minibatch, generator)
    recursion = _Recursion(product, columns, shrinkage, scale, bound=DIVERGED * scale / slowest)
    runs = [recursion.run(steps) for _ in range(repeats)]
    results = torch.stack(runs)
    value = results.mean(dim=0)
    residual = relative_residual(operator + scale * shrinkage, value, columns).reshape(rhs.shape[1:])
    solution = LissaSolution(
        value=value.reshape(rhs.shape),
        residual=residual,
        converged=bool((residual <= tolerance).all()),
        iterations=steps * repeats,
        method="LiSSA",
        tolerance=tolerance,
        smallest_eigenvalue=slowest,
        largest_eigenvalue=extremes.largest + scale * shrinkage,
        note=f"scale {scale:.6g}, shrinkage {shrinkage:.6g}: damping {scale * shrinkage:.6g} beside the operator's",
        repeats=results.reshape(repeats, *rhs.shape),
        scale=scale,
        shrinkage=shrinkage,
    )
    checked(solution, on_failure, "take more steps, larger minibatches or more repeats")
    return solution


def check_convergence(extremes: ExtremeEigenvalues, scale: float, shrinkage: float) -> None:
    """Whether LiSSA's recursion contracts: -s d < lambda_min and lambda_max < s (2 - d).

    Raises:
        ValueError: If it does not; the message says which scale, or which shrinkage, would.
    """
    if not (scale > 0 and 0 <= shrinkage < 1):
        raise ValueError(f"LiSSA needs a scale > 0 and a shrinkage in [0, 1), got {scale} and {shrinkage}")
    if extremes.largest >= scale * (2 - shrinkage):
        raise ValueError(
            f"LiSSA diverges: lambda_max = {extremes.largest:.6g} is not below s (2 - d) = "
            f"{scale * (2 - shrinkage):.6g}; take a scale of {SAFETY * extremes.largest:.6g}"
        )
    if extremes.smallest <= -scale * shrinkage:
        needed = SAFETY * abs(extremes.smallest)
        remedy = f"take a scale of {needed / shrinkage:.6g}" if shrinkage > 0 else "with shrinkage 0 no scale helps"
        raise ValueError(
            f"LiSSA diverges: lambda_min = {extremes.smallest:.6g} is not above -s d = {-scale * shrinkage:.6g}; use "
            f"the Gauss-Newton matrix, or add damping of {needed:.6g} ({remedy})"
        )


@dataclass(frozen=True, eq=False)
class _Recursion:
    """h <- v + (1 - d) h - A h / s."""

    product: Callable[[Tensor], Tensor]
    rhs: Tensor
    shrinkage: float
    scale: float
    bound: float

    def run(self, steps: int) -> Float[Tensor, "P K"]:
        """The result h / s after the given number of steps."""
        largest = self.bound * torch.linalg.vector_norm(self.rhs)
        state = self.rhs
        for step in range(steps):
            state = self.rhs + (1 - self.shrinkage) * state - self.product(state) / self.scale
            if not torch.linalg.vector_norm(state) <= largest:
                raise ValueError(
                    f"LiSSA diverged at step {step + 1}: the eigenvalues of a minibatch exceed the scale "
                    f"{self.scale:.6g}; take a larger one, or larger minibatches"
                )
        return state / self.scale


def _full_product(operator: LinearOperator) -> Callable[[Tensor], Tensor]:
    return lambda vectors: operator @ vectors


def _minibatch_product(operator: LinearOperator, size: int, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Products with (A of a random minibatch), damping and regulariser in full."""
    damping = operator.damping if isinstance(operator, DampedOperator) else None
    base = operator.base if isinstance(operator, DampedOperator) else operator
    if not isinstance(base, DataOperator):
        raise ValueError(f"minibatches need the operator of an objective on a dataset, got {type(base).__name__}")
    examples = len(base.data)
    if not 1 <= size <= examples:
        raise ValueError(f"the minibatch must hold between 1 and n = {examples} examples, got {size}")

    def product(vectors: Tensor) -> Tensor:
        drawn = torch.randperm(examples, generator=generator)[:size]
        result = base.product_of(drawn, vectors)
        return result if damping is None else result + damping.unsqueeze(1) * vectors

    return product
