"""Minimisation with gradients only, member by member, for problems whose Hessians are too large to hold."""

from __future__ import annotations

from typing import NoReturn

import numpy as np
import scipy.optimize
import torch
from torch import Tensor
from tqdm.auto import tqdm

from bayes_influence.training.newton import NewtonResult, steps_bar
from bayes_influence.training.stacked import StackedProblem


def minimise_lbfgs(
    problem: StackedProblem, *, tolerance: float = 1e-8, max_iterations: int = 5000, progress: bool = False
) -> NewtonResult:
    """Minimises J of every member in its free parameters by L-BFGS (scipy's), each to the stated gradient norm.

    Memory: some 20 vectors of length P beside the problem. Arithmetic is in float64 on the CPU around gradients in the
    problem's own dtype; in float32 norms below about 1e-4 cannot be reached.

    Args:
        problem: The members, taken one after the other.
        tolerance: Gradient norm at which a member is done.
        max_iterations: Iterations per member.
        progress: Whether to show a progress bar over evaluations, with the gradient norm.

    Returns:
        As `minimise_newton`: a member that did not reach the tolerance is marked in `converged`.
    """
    ends, values, norms, iterations = [], [], [], 0
    with steps_bar(progress) as bar:
        for index in range(len(problem.start)):
            end, value, norm, taken = _minimise_one(problem, index, tolerance, max_iterations, bar)
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


def _minimise_one(
    problem: StackedProblem, index: int, tolerance: float, max_iterations: int, bar: tqdm[NoReturn]
) -> tuple[Tensor, Tensor, Tensor, int]:
    start = problem.start[index]
    which = torch.tensor([index], device=start.device)

    def value_and_gradient(theta: np.ndarray) -> tuple[float, np.ndarray]:
        gradient, value = problem.gradients(torch.from_numpy(theta).to(start).unsqueeze(0), which)
        bar.update()
        bar.set_postfix_str(f"gradient norm {float(gradient.norm()):.1e}", refresh=False)
        return float(value[0]), gradient[0].double().cpu().numpy()

    found = scipy.optimize.minimize(
        value_and_gradient,
        start.double().cpu().numpy(),
        jac=True,
        method="L-BFGS-B",
        # scipy stops at the largest entry: of P entries below t / sqrt(P) the norm is at most t.
        options={
            "gtol": tolerance / len(start) ** 0.5,
            "ftol": 0.0,
            "maxiter": max_iterations,
            "maxfun": 2 * max_iterations,
            "maxcor": 20,
        },
    )
    end = torch.from_numpy(found.x).to(start)
    gradient, value = problem.gradients(end.unsqueeze(0), which)
    return end, value[0], gradient[0].norm(), int(found.nit)
