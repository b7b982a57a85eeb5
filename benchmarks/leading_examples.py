"""How few examples carry a trained network's curvature, and what that saves conjugate gradients.

For a 784-64-10 network on MNIST after more and more epochs: the share of the curvature that is left out when only the
leading examples are kept, as a figure, and the products that a solve to 1e-4 takes with and without leaving out.

    python -m benchmarks.leading_examples --out leading.png
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer
from matplotlib.figure import Figure
from torch import Tensor

from bayes_influence.curvature.operators.base import LinearOperator
from bayes_influence.curvature.operators.gauss_newton import GaussNewtonOperator
from bayes_influence.curvature.operators.leading import LeadingExamples
from bayes_influence.curvature.solvers.conjugate_gradients import run_conjugate_gradients
from bayes_influence.influence.problem import FittedProblem
from benchmarks.peers.problem import Problem, mnist_problem

BATCH_SIZE = 256


class Whole(LinearOperator):
    """An operator that leaves nothing out."""

    def __init__(self, base: LinearOperator) -> None:
        super().__init__(base.size, base.dtype, base.device)
        self.base = base

    def _product(self, vectors: Tensor) -> Tensor:
        return self.base @ vectors


def solves(problem: Problem) -> dict[str, float]:
    """Steps, products with all right-hand sides, and largest residuals, with whole and with relaxed products."""
    fitted = FittedProblem(problem.objective(), problem.train(), dtype=problem.inputs.dtype)
    rhs = fitted.gradients(*fitted.taken(problem.test())).T.contiguous()
    operator = GaussNewtonOperator(fitted.reduced, fitted.data, BATCH_SIZE) + problem.damping
    row = {}
    for name, chosen in (("whole", Whole(operator)), ("relaxed", operator)):
        solution = run_conjugate_gradients(chosen, rhs, problem.residual, 500)
        row[f"steps, {name}"] = solution.iterations
        row[f"products, {name}"] = (solution.products or 0) / rhs.shape[1]
        row[f"residual, {name}"] = float(solution.residual.max())
    return row


def main(
    out: Annotated[Path, typer.Option(help="The figure.")],
    examples: Annotated[int, typer.Option(help="n.")] = 60_000,
    tests: Annotated[int, typer.Option(help="Right-hand sides.")] = 5,
    damping: Annotated[float, typer.Option(help="delta.")] = 0.01,
    epochs: Annotated[list[int] | None, typer.Option(help="Of training; 1, 5, 15 and 30 when not given.")] = None,
) -> None:
    """Draws the figure and prints a row per number of epochs."""
    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.add_subplot()
    rows = []
    for count in epochs or [1, 5, 15, 30]:
        problem = mnist_problem(examples, tests, damping, epochs=count)
        leading = LeadingExamples(problem.objective(), problem.train(), BATCH_SIZE)
        shares = torch.arange(examples) / examples
        label = f"{count} epoch{'s' * (count > 1)}"
        axes.semilogy(100 * shares, leading.left, label=label)
        carried = {
            f"carry all but {error:g}": f"{float((leading.left > error).sum()) / examples:.0%}"
            for error in (0.1, 0.01, 1e-3)
        }
        rows.append({"epochs": count, **carried, **solves(problem)})
    axes.set(
        xlabel="examples kept, % (those that carry most first)",
        ylabel="share of the curvature left out",
        ylim=(1e-6, 1.2),
    )
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=120, metadata={"Software": None})
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.3g}".format))


if __name__ == "__main__":
    typer.run(main)
