"""LiSSA: the truncated Neumann series, with its damping and its convergence made explicit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, log

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.arguments import check_count
from bayes_influence.curvature.operators.base import LinearOperator
from bayes_influence.curvature.solvers.solution import Solution, checked, relative_residual
from bayes_influence.curvature.solvers.solver import Solve, Solver
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


@dataclass(frozen=True, kw_only=True)
class LiSSA(Solver):
    """(A + s d I)^{-1} V by LiSSA (Agarwal, Bullins, Hazan 2017; Koh & Liang 2017).

    The recursion h <- v + (1 - d) h - A h / s has the fixed point s (A + s d I)^{-1} v, so h / s solves a system with
    the *damping s d*: scale 10 and shrinkage .01, as often published, are a damping of 0.1, in addition to any that A
    has. It converges if and only if -s d < lambda < s (2 - d) for every eigenvalue lambda of A, which is found out with
    Lanczos once for all right-hand sides.

    Attributes:
        shrinkage: d.
        scale: s; 1.1 lambda_max where not given.
        steps: Length of the recursion; s / (lambda_min + s d) log(1 / tolerance) where not given.
        minibatch: Examples drawn anew for every product; all of them where not given. A minibatch's eigenvalues exceed
            those of all data: give it a larger scale. Needs the operator of a dataset.
        repeats: Independent runs, for minibatches.
        tolerance: Bound on the relative residual of the mean over the repeats.
        max_steps: Bound on the automatic length.
        seed: Of the minibatches.

    Raises:
        ValueError: If s and d are outside the range of convergence (before the run; says which scale is inside); if a
            run of minibatches diverges; if minibatches are asked for where there are no data.
        NotConvergedError: If the residual is above the tolerance and `on_failure` is `"raise"`.
    """

    shrinkage: float = 0.0
    scale: float | None = None
    steps: int | None = None
    minibatch: int | None = None
    repeats: int = 1
    tolerance: float = 1e-3
    max_steps: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = {
            "steps": self.steps,
            "minibatch": self.minibatch,
            "repeats": self.repeats,
            "max_steps": self.max_steps,
        }
        check_count(**{name: count for name, count in counts.items() if count is not None})

    def prepare(self, operator: LinearOperator) -> Solve:
        """The range of the spectrum, and with it scale and length."""
        self._check_minibatch(operator)
        extremes = extreme_eigenvalues(operator)
        scale = SAFETY * extremes.largest if self.scale is None else self.scale
        check_convergence(extremes, scale, self.shrinkage)
        return lambda rhs: self._solve(operator, rhs, scale, extremes)

    def _solve(
        self, operator: LinearOperator, rhs: Float[Tensor, " P *K"], scale: float, extremes: ExtremeEigenvalues
    ) -> LissaSolution:
        added = scale * self.shrinkage
        slowest = extremes.smallest + added
        automatic = min(self.max_steps, ceil(scale / slowest * log(1 / self.tolerance)))
        steps = automatic if self.steps is None else self.steps
        columns = rhs.reshape(len(rhs), -1)
        recursion = _Recursion(self._product(operator), columns, self.shrinkage, scale, DIVERGED * scale / slowest)
        results = torch.stack([recursion.run(steps) for _ in range(self.repeats)])
        value = results.mean(dim=0)
        residual = relative_residual(operator + added, value, columns).reshape(rhs.shape[1:])
        solution = LissaSolution(
            value=value.reshape(rhs.shape),
            residual=residual,
            converged=bool((residual <= self.tolerance).all()),
            iterations=steps * self.repeats,
            method="LiSSA",
            tolerance=self.tolerance,
            smallest_eigenvalue=slowest,
            largest_eigenvalue=extremes.largest + added,
            note=f"scale {scale:.6g}, shrinkage {self.shrinkage:.6g}: damping {added:.6g} beside the operator's",
            repeats=results.reshape(self.repeats, *rhs.shape),
            scale=scale,
            shrinkage=self.shrinkage,
        )
        checked(solution, self.on_failure, "take more steps, larger minibatches or more repeats")
        return solution

    def _check_minibatch(self, operator: LinearOperator) -> None:
        if self.minibatch is None:
            return
        if operator.examples is None:
            name = type(operator.undamped).__name__
            raise ValueError(f"minibatches need the operator of an objective on a dataset, got {name}")
        if not 1 <= self.minibatch <= operator.examples:
            raise ValueError(
                f"the minibatch must hold between 1 and n = {operator.examples} examples, got {self.minibatch}"
            )

    def _product(self, operator: LinearOperator) -> Callable[[Tensor], Tensor]:
        """Products with A, or with (A of a random minibatch), damping and regulariser in full."""
        if self.minibatch is None:
            return lambda vectors: operator @ vectors
        size, examples = self.minibatch, operator.examples or 0
        generator = torch.Generator().manual_seed(self.seed)

        def product(vectors: Tensor) -> Tensor:
            drawn = torch.randperm(examples, generator=generator)[:size]
            result = operator.undamped.product_of(drawn, vectors)
            return result if operator.damping is None else result + operator.damping.unsqueeze(1) * vectors

        return product


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
        """The result h / s after the given number of steps.

        Raises:
            ValueError: If the recursion diverges.
        """
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
