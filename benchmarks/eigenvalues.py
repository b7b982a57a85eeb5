"""Both ends of a network's spectrum: products and time to a relative accuracy of 1e-3, beside pyhessian's, in one run.

Networks 784-64-10 (50 890 parameters) and 784-128-10 (101 770) on MNIST, mean cross-entropy with weight decay, all
parameters. The reference is Lanczos to a residual of 1e-7. Errors are relative to the largest |eigenvalue|.

    python -m benchmarks.eigenvalues [--picture docs/images/spectrum-mnist.png]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated

import torch
import typer
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import cross_entropy

from bayes_influence.curvature.operators.base import LinearOperator
from bayes_influence.curvature.operators.hessian import HessianOperator
from bayes_influence.curvature.spectrum.density import spectral_density
from bayes_influence.curvature.spectrum.extremes import extreme_eigenvalues
from bayes_influence.curvature.spectrum.power_iteration import power_iteration_pyhessian
from bayes_influence.data.dataset import Dataset
from bayes_influence.data.images import load_images
from bayes_influence.models.mlp import MLP
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay
from benchmarks.peers.problem import trained

DECAY, ACCURACY = 1e-3, 1e-3
TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-6)
"""Asked of pyhessian in turn, until it is accurate enough: its tolerance is on the change, not on the error."""


@dataclass(frozen=True)
class Found:
    """What one method came to: both ends (NaN where it has none), products, seconds."""

    method: str
    largest: float
    smallest: float
    products: int
    seconds: float


def main(
    examples: Annotated[int, typer.Option(help="Training examples.")] = 10_000,
    epochs: Annotated[int, typer.Option(help="Passes over them.")] = 5,
    widths: Annotated[str, typer.Option(help="Hidden units.")] = "64,128",
    threads: Annotated[int, typer.Option(help="Of torch.")] = 1,
    picture: Annotated[Path | None, typer.Option(help="Where the density of the last network is drawn.")] = None,
) -> None:
    """Prints the table."""
    torch.set_num_threads(threads)
    print("| P | method | λ max | error | λ min | error | products | seconds |\n|---|---|---|---|---|---|---|---|")
    for width in (int(part) for part in widths.split(",")):
        objective, data = _problem(examples, epochs, width)
        reference = extreme_eigenvalues(HessianOperator(objective, data), tolerance=1e-7, max_products=150)
        scale = max(abs(reference.largest), abs(reference.smallest))
        size = objective.layout.total
        for found in (_ours(objective, data), *_theirs(objective, data, reference.largest)):
            errors = [abs(found.largest - reference.largest) / scale, abs(found.smallest - reference.smallest) / scale]
            print(
                f"| {size:,} | {found.method} | {found.largest:.5g} | {errors[0]:.1e} | {found.smallest:.3g} | "
                f"{errors[1]:.1e} | {found.products} | {found.seconds:.2f} |",
                flush=True,
            )
        print(
            f"| {size:,} | reference | {reference.largest:.5g} | | {reference.smallest:.3g} | | "
            f"{reference.products} | |",
            flush=True,
        )
    if picture is not None:
        _draw(HessianOperator(objective, data), picture)


def _problem(examples: int, epochs: int, width: int) -> tuple[Objective, Dataset]:
    split = load_images("mnist")
    inputs, targets = split.train.inputs[:examples].flatten(1).clone(), split.train.targets[:examples].clone()
    network = trained(MLP(784, 10, width=width, activation="relu", seed=0), inputs, targets, epochs).eval()
    data = Dataset(inputs, targets, torch.arange(examples), name="mnist")
    return Objective(network, CrossEntropy(), WeightDecay(DECAY)), data


def _ours(objective: Objective, data: Dataset) -> Found:
    began = time.perf_counter()
    found = extreme_eigenvalues(HessianOperator(objective, data), tolerance=ACCURACY)
    seconds = time.perf_counter() - began
    return Found("this library, both ends", found.largest, found.smallest, found.products, seconds)


def _theirs(objective: Objective, data: Dataset, truth: float) -> list[Found]:
    """Power iteration at tighter and tighter tolerances, until the largest eigenvalue is accurate enough."""
    rows = []
    for tolerance in TOLERANCES:
        with _Counted() as counted:
            began = time.perf_counter()
            largest = power_iteration_pyhessian(
                objective.network, _mean_loss, data.batch(), 1000, tolerance, regulariser=_decay(objective)
            )
            seconds = time.perf_counter() - began
        name = f"pyhessian, tol={tolerance:g}, one end"
        rows.append(Found(name, largest, float("nan"), counted.calls, seconds))
        if abs(largest - truth) <= ACCURACY * abs(truth):
            break
    return rows


def _decay(objective: Objective) -> Callable[[dict[str, Tensor]], Tensor]:
    return lambda params: objective.regulariser_weight * objective.regulariser(params)


def _mean_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(outputs, targets)


class _Counted:
    """Counts pyhessian's Hessian-vector products."""

    def __enter__(self) -> _Counted:
        # The package has a class of the module's name in front of it.
        self._module = import_module("pyhessian.hessian")
        self.calls, self._original = 0, self._module.hessian_vector_product

        def counted(*arguments: object) -> object:
            self.calls += 1
            return self._original(*arguments)

        self._module.hessian_vector_product = counted
        return self

    def __exit__(self, *_: object) -> None:
        self._module.hessian_vector_product = self._original


def _draw(operator: LinearOperator, path: Path) -> None:
    """The density by stochastic Lanczos quadrature, on a symmetric logarithmic axis."""
    began = time.perf_counter()
    density = spectral_density(operator, probes=8, steps=60)
    seconds = time.perf_counter() - began
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    nodes, order = density.nodes.flatten().sort()
    counts = density.weights.flatten()[order] * density.size / len(density.nodes)
    above = counts.flip(0).cumsum(0).flip(0)
    axes.step(nodes, above, where="mid", color="black", linewidth=0.9)
    axes.set_xscale("symlog", linthresh=1e-4)
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.5)
    axes.set_xlabel("eigenvalue")
    axes.set_ylabel("eigenvalues at or above it")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=120)
    mean, moments = density.moment(1), [density.moment(order) for order in (2, 3)]
    dimension = density.effective_dimension(1.0)
    print(
        f"density: 8 probes x 60 steps, {seconds:.1f} s; trace {density.size * mean.value:.4g} +- "
        f"{density.size * mean.standard_error:.2g}; second and third moments "
        + ", ".join(f"{moment.value:.3g} +- {moment.standard_error:.1g}" for moment in moments)
        + f"; effective dimension at delta = 1: {dimension.value:.0f} +- {dimension.standard_error:.0f}"
    )


if __name__ == "__main__":
    typer.run(main)
