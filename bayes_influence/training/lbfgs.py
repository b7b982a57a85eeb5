"""Minimisation with gradients only, member by member, for problems whose Hessians are too costly to renew."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

import numpy as np
import scipy.optimize
import torch
from torch import Tensor
from tqdm.auto import tqdm

from bayes_influence.training.metric import Metric
from bayes_influence.training.newton import STEEPER, NewtonResult, steps_bar
from bayes_influence.training.stacked import StackedProblem


def minimise_lbfgs(
    problem: StackedProblem,
    *,
    tolerance: float = 1e-8,
    max_iterations: int = 5000,
    metrics: Sequence[Metric | None] | None = None,
    progress: bool = False,
) -> NewtonResult:
    """Minimises J of every member in its free parameters by L-BFGS (scipy's), each to the stated gradient norm.

    Where a `Metric` is given, the variables are u of theta = start + L'^-1 u: by that of the Hessian, refits without an
    example of a convolutional network with 456 parameters took 5 to 43 iterations in place of 350 to 500.

    Memory: some 20 vectors of length P beside the problem. Arithmetic is in float64 on the CPU around gradients in the
    problem's own dtype; in float32 norms below about 1e-4 cannot be reached.

    Args:
        problem: The members, taken one after the other.
        tolerance: Gradient norm at which a member is done.
        max_iterations: Iterations per member.
        metrics: Of each member, near its minimum.
        progress: Whether to show a progress bar over evaluations, with the gradient norm.

    Returns:
        As `minimise_newton`: a member that did not reach the tolerance is marked in `converged`, and one that walks
        away without end given up.
    """
    ends, values, norms, iterations = [], [], [], 0
    with steps_bar(progress) as bar:
        for index in range(len(problem.start)):
            metric = None if metrics is None else metrics[index]
            end, value, norm, taken = _minimise_one(problem, index, tolerance, max_iterations, metric, bar)
            ends.append(end)
            values.append(value)
            norms.append(norm)
            iterations = max(iterations, taken)
    norm = torch.stack(norms)
    return NewtonResult(
        free=problem.layout.unflatten(torch.stack(ends)),
        values=torch.stack(values),
        gradient_norms=norm,
        converged=norm <= tolerance,
        iterations=iterations,
    )


class _WalksAwayError(Exception):
    """J has no minimum where it is looked for."""


def _largest_entry(tolerance: float, size: int, metric: Metric | None) -> float:
    """Entries of L^-1 g, at which scipy stops: of P below t / (sqrt(P) ||L||), the norm of g is at most t."""
    return tolerance / (size**0.5 * (1.0 if metric is None else metric.stretch))


def _minimise_one(
    problem: StackedProblem,
    index: int,
    tolerance: float,
    max_iterations: int,
    metric: Metric | None,
    bar: tqdm[NoReturn],
) -> tuple[Tensor, Tensor, Tensor, int]:
    start = problem.start[index]
    which = torch.tensor([index], device=start.device)
    begin = start.double().cpu()
    last = np.zeros(len(start))
    bottom, steepest = -np.inf, np.inf

    def place(variables: np.ndarray) -> Tensor:
        step = torch.from_numpy(variables)
        if metric is not None:
            step = metric.step(step)
        return (begin + step).to(start)

    def value_and_gradient(variables: np.ndarray) -> tuple[float, np.ndarray]:
        gradient, value = problem.gradients(place(variables).unsqueeze(0), which)
        norm = float(gradient.norm())
        walks_away(variables, float(value[0]), norm)
        bar.update()
        bar.set_postfix_str(f"gradient norm {norm:.1e}", refresh=False)
        slope = gradient[0].double().cpu()
        if metric is not None:
            slope = metric.slope(slope)
        return float(value[0]), slope.numpy()

    def walks_away(variables: np.ndarray, value: float, norm: float) -> None:
        """Ends where J has no minimum, see `STEEPER`."""
        nonlocal last, bottom, steepest
        if np.isinf(bottom):
            bottom, steepest = value - 1 - abs(value), STEEPER * norm
        if value < bottom and norm > steepest:
            last = variables.copy()
            raise _WalksAwayError

    taken: list[int] = []
    with suppress(_WalksAwayError):
        last = scipy.optimize.minimize(
            value_and_gradient,
            last,
            jac=True,
            method="L-BFGS-B",
            callback=lambda _: taken.append(1),
            options={
                "gtol": _largest_entry(tolerance, len(start), metric),
                "ftol": 0.0,
                "maxiter": max_iterations,
                "maxfun": 2 * max_iterations,
                "maxcor": 20,
            },
        ).x
    end = place(last)
    gradient, value = problem.gradients(end.unsqueeze(0), which)
    return end, value[0], gradient[0].norm(), len(taken)
