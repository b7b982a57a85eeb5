"""What a moment-propagating step costs: time and memory of a Bayesian step as multiples of the deterministic one's.

A step is the objective of one batch and its gradients. Deterministic and Bayesian steps take turns, so that whatever
else the machine does falls on both; the ratio is that of the medians. Memory is what autograd keeps for the backward
pass: the bytes of the distinct tensors saved by the forward pass, parameters aside.

    python benchmarks/bnn_step.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Annotated

import pandas as pd
import torch
import typer
from torch import Tensor, nn

from bayes_influence.data.batch import Batch
from bayes_influence.models.lenet import LeNet
from bayes_influence.models.mlp import MLP
from bayes_influence.models.vgg import VGG
from bayes_influence.objectives.objective import Objective
from bayes_influence.training.schemes import SCHEMES, Variational

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "mlp 784-128-10, tanh": (lambda: MLP(784, 10, 128, activation="tanh", seed=0), (784,), 128),
    "lenet, tanh": (lambda: LeNet(seed=0), (1, 28, 28), 128),
    "lenet, relu": (lambda: LeNet(seed=0, activation="relu"), (1, 28, 28), 128),
    "vgg13, relu": (lambda: VGG(13, seed=0), (3, 32, 32), 64),
}
"""Network, shape of one input, batch size."""


def step(objective: Objective, batch: Batch) -> None:
    """The objective's gradients."""
    leaves = {name: value.clone().requires_grad_() for name, value in objective.params.items()}
    torch.autograd.grad(objective.value(leaves, batch), list(leaves.values()))


def saved_bytes(objective: Objective, batch: Batch) -> int:
    """Bytes of the distinct tensors that autograd saves in one forward pass, without the parameters."""
    leaves = {name: value.clone().requires_grad_() for name, value in objective.params.items()}
    known = {value.untyped_storage().data_ptr() for value in leaves.values()}
    kept: dict[int, Tensor] = {}

    def keep(value: Tensor) -> Tensor:
        kept.setdefault(value.untyped_storage().data_ptr(), value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        objective.value(leaves, batch)
    return sum(value.untyped_storage().nbytes() for pointer, value in kept.items() if pointer not in known)


def main(
    repeats: Annotated[int, typer.Option(help="Steps of each kind.")] = 7,
    networks: Annotated[str, typer.Option(help="Those whose names start so.")] = "",
    threads: Annotated[int, typer.Option(help="Of torch.")] = 1,
) -> None:
    """Prints a row per network and method."""
    torch.set_num_threads(threads)
    rows = []
    for name, (make, shape, size) in NETWORKS.items():
        if not name.startswith(networks):
            continue
        batch = Batch(torch.randn(size, *shape), torch.arange(size) % 10)
        plain = SCHEMES["weight-decay"].objective(make().eval(), size)
        twins = {}
        for method in ("first-order", "exact"):
            scheme = Variational("bnn", method=method)
            twins[method] = scheme.objective(scheme.prepare(make().eval()), size)
        seconds: dict[str, list[float]] = {"deterministic": [], **{method: [] for method in twins}}
        for _ in range(repeats + 1):
            for kind, objective in {"deterministic": plain, **twins}.items():
                began = time.perf_counter()
                step(objective, batch)
                seconds[kind].append(time.perf_counter() - began)
        base, memory = median(seconds["deterministic"][1:]), saved_bytes(plain, batch)
        for method, twin in twins.items():
            ratio = median(seconds[method][1:]) / base
            row = {"network": name, "batch": size, "method": method, "deterministic ms": 1e3 * base, "time": ratio}
            rows.append(row | {"memory": saved_bytes(twin, batch) / memory})
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.2f}".format))


if __name__ == "__main__":
    typer.run(main)
