"""Influence in all parameters of a run's network, Gauss-Newton by block conjugate gradients: time, memory, floor.

The floor of a solve is (products with single vectors) x (one pass for the gradient of the training loss), as a product
with the Gauss-Newton matrix is a tangent on the way forward and a cotangent on the way back. Both are measured in one
run. Many vectors at once share the forward pass and make larger matrix products, so that the ratio may fall below 1. A
product with a part of the examples counts as that part of one.

    bayes-influence train mnist --network mlp --width 128 --activation tanh --scheme weight-decay --epochs 5 --out RUN
    python -m benchmarks.full_network RUN
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer

from bayes_influence.curvature.solvers.conjugate_gradients import ConjugateGradients
from bayes_influence.data.dataset import Dataset
from bayes_influence.experiments.training.run import load_run
from bayes_influence.influence.problem import FittedProblem
from bayes_influence.influence.response import make_response
from bayes_influence.influence.scoring import ScoreBlocks
from bayes_influence.objectives.objective import Objective
from benchmarks.lenet_last_layer import peak_bytes, timed


def gradient_pass(objective: Objective, data: Dataset, size: int) -> None:
    """The gradient of the training loss, batch by batch."""
    for batch in data.batches(size):
        leaves = {name: value.clone().requires_grad_() for name, value in objective.params.items()}
        torch.autograd.grad(objective.losses(leaves, batch).sum(), list(leaves.values()))


def main(
    run: Annotated[Path, typer.Argument(help="Folder of a finished training run.")],
    tests: Annotated[int, typer.Option(help="Test examples.")] = 20,
    damping: Annotated[float, typer.Option(help="delta.")] = 0.01,
    tolerance: Annotated[float, typer.Option(help="Relative residual of every system.")] = 1e-4,
    examples: Annotated[int | None, typer.Option(help="Training examples; all when not given.")] = None,
    threads: Annotated[int, typer.Option(help="Of torch.")] = 2,
    data_folder: Annotated[Path | None, typer.Option(help="Where image sets are kept.")] = None,
) -> None:
    """Prints a row per stage, and the ratio of the solve to its floor."""
    torch.set_num_threads(threads)
    objective, split, _ = load_run(run, data_folder=data_folder)
    train, test = split.train.select(range(examples or len(split.train))), split.test.select(range(tests))
    held = peak_bytes()
    problem = FittedProblem(objective, train, dtype=torch.float32)
    solver = ConjugateGradients(tolerance=tolerance)
    response = make_response(problem, "ggn", damping, solver)
    gradients = problem.gradients(problem.reduce(test))
    solution, solve_wall, solve_cpu = timed(lambda: response.solve(gradients.T))
    residuals = (gradients.T - response.operator @ solution.value).norm(dim=0) / gradients.norm(dim=1)
    blocks = ScoreBlocks(problem)
    _, score_wall, score_cpu = timed(lambda: [block.products for block in blocks(solution.value)])
    peak = peak_bytes()
    size = problem.batch_size
    _, pass_wall, pass_cpu = timed(lambda: gradient_pass(problem.objective, problem.data, size))
    products = solution.products or 0
    rows = [
        {"stage": f"solve, {solution.iterations} steps", "wall s": solve_wall, "CPU s": solve_cpu},
        {"stage": f"scores, by {blocks.scoring}", "wall s": score_wall, "CPU s": score_cpu},
        {"stage": "one gradient pass", "wall s": pass_wall, "CPU s": pass_cpu},
    ]
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.2f}".format))
    print(f"P = {problem.size}, n = {len(train)}, t = {tests}, damping {damping}, {threads} threads")
    print(f"relative residuals: median {float(residuals.median()):.1e}, largest {float(residuals.max()):.1e}")
    floor = f"{products:.0f} products x one gradient pass"
    print(f"solve / ({floor}): {solve_wall / (products * pass_wall):.2f} of wall time, ")
    print(f"{solve_cpu / (products * pass_cpu):.2f} of processor time")
    print(f"peak {peak / 1e9:.2f} GB, of which {held / 1e9:.2f} GB were held with the data loaded")


if __name__ == "__main__":
    typer.run(main)
