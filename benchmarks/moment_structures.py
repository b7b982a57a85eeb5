"""How far propagated moments agree with sampled weights, for every structure, and what a step under each costs.

A network is trained with the given structure; then every structure propagates its posterior. The table has the ratio of
the logits' variances to those of sampled weights (their 10, 50 and 90 % quantiles over examples and classes, and the
ratio of the sums), the error of the mean in standard deviations (root mean square over that of the standard
deviations), and the processor time of a step, the objective of one batch and its gradients, as a multiple of the
deterministic network's. Variance factors are found on training examples; the table is of test examples.

    python benchmarks/moment_structures.py --networks digits
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from torch import nn

from bayes_influence.data.batch import Batch
from bayes_influence.data.dataset import Dataset
from bayes_influence.experiments.training.settings import (
    BAYESIAN_LEARNING_RATE,
    INITIAL_SIGMA,
    LEARNING_RATE,
    TrainRun,
)
from bayes_influence.models.initialisation import seeded
from bayes_influence.models.lenet import LeNet
from bayes_influence.models.mlp import MLP
from bayes_influence.models.resnet import ResNet
from bayes_influence.moments import Moments, sampled_moments
from bayes_influence.moments.moments import STRUCTURES
from bayes_influence.objectives.objective import Objective
from bayes_influence.training.calibration import refreshed_factors
from bayes_influence.training.minibatch import train_minibatches
from bayes_influence.training.minibatch_schedule import MinibatchSchedule
from bayes_influence.training.priors import RELATIVE_SIGMA, network_at
from bayes_influence.training.schemes import SCHEMES, Scheme
from benchmarks.bnn_step import step
from benchmarks.vision_transformer import VisionTransformer


@dataclass(frozen=True)
class Setting:
    """What is trained, and how long."""

    dataset: str
    make: Callable[[], nn.Module]
    scheme: str
    epochs: int
    batch_size: int
    examples: int | None = None
    epochs_before: int = 0
    """Of the deterministic network, where the training starts from one: batch norms take their statistics there."""


def with_maxima(network: nn.Module) -> nn.Module:
    """A network with max pooling in place of average pooling."""
    for name, module in list(network.named_children()):
        if isinstance(module, nn.AvgPool2d):
            setattr(network, name, nn.MaxPool2d(module.kernel_size))
    return network


NETWORKS = {
    "iris": Setting("iris", lambda: MLP(4, 3, 5, activation="tanh"), "bnn", 300, 32),
    "digits": Setting("digits", lambda: MLP(64, 10, 128, depth=2, activation="relu"), "bnn", 60, 64),
    "relu-average": Setting("mnist", lambda: LeNet(activation="relu"), "bnn-tempered", 8, 128, 8000),
    "relu-max": Setting("mnist", lambda: with_maxima(LeNet(activation="relu")), "bnn-tempered", 8, 128, 8000),
    "tanh-max": Setting("mnist", lambda: with_maxima(LeNet(activation="tanh")), "bnn-tempered", 8, 128, 8000),
    "resnet": Setting(
        "mnist",
        lambda: ResNet(input_shape=(1, 28, 28), width=8, batch_norm=True),
        "bnn-tempered",
        4,
        128,
        8000,
        epochs_before=4,
    ),
    "vit": Setting("digits", VisionTransformer, "bnn-tempered", 60, 64),
}


def scheme_of(setting: Setting, method: str, structure: str) -> Scheme:
    """The scheme with the prior that `train` takes for images, and its start."""
    start = {"relative_sigma": RELATIVE_SIGMA} if setting.epochs_before else {"initial_sigma": INITIAL_SIGMA}
    return SCHEMES[setting.scheme].with_options(prior="fan-in", method=method, structure=structure, **start)


def minimised(objective: Objective, train: Dataset, epochs: int, batch_size: int, rate: float) -> Objective:
    """The objective where a training with seed 0 ends."""
    start = {name: value.unsqueeze(0) for name, value in objective.params.items()}
    schedule = MinibatchSchedule(epochs, batch_size, rate, decay="cosine")
    return train_minibatches(objective, start, train, schedule, [0]).at(0)


def at_start(setting: Setting, train: Dataset) -> nn.Module:
    """The deterministic network that a training starts from, trained itself where the setting says so."""
    with seeded(0):
        network = setting.make()
    if not setting.epochs_before:
        return network
    plain = SCHEMES["weight-decay"].objective(network, len(train))
    return network_at(minimised(plain, train, setting.epochs_before, setting.batch_size, LEARNING_RATE))


def built(network: nn.Module, setting: Setting, method: str, structure: str, n: int) -> Objective:
    """What is trained under a structure, at its start."""
    scheme = scheme_of(setting, method, structure)
    return scheme.objective(scheme.prepare(network), n)


def calibrated(objective: Objective, train: Dataset) -> Objective:
    """The objective with the variance factors of where it stands, if it has any."""
    if not any(name.endswith("variance_factor") for name in objective.buffers):
        return objective
    stacks = ({name: value.unsqueeze(0) for name, value in part.items()} for part in (objective.params, {}))
    found = refreshed_factors(objective, *stacks, train, None)
    return objective.at(objective.params, {name: value[0] for name, value in found.items()})


def agreement(propagated: Moments, sampled: Moments) -> dict[str, float]:
    """Quantiles of the ratio of variances, that of their sums, and the error of the mean in standard deviations."""
    ratios = (propagated.variance / sampled.variance).flatten().numpy()
    quantiles = dict(zip(("10 %", "50 %", "90 %"), np.quantile(ratios, [0.1, 0.5, 0.9]), strict=True))
    squares = (propagated.expectation - sampled.expectation).square().sum()
    total = sampled.variance.sum()
    return {
        **quantiles,
        "sums": float(propagated.variance.sum() / total),
        "mean error": float((squares / total).sqrt()),
    }


def step_times(objectives: dict[str, Objective], batch: Batch, repeats: int) -> dict[str, float]:
    """Median seconds of processor time of a step of each, in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in objectives}
    for _ in range(repeats + 1):
        for name, objective in objectives.items():
            began = time.process_time()
            step(objective, batch)
            seconds[name].append(time.process_time() - began)
    return {name: median(values[1:]) for name, values in seconds.items()}


def main(
    networks: Annotated[str, typer.Option(help="Which, separated by commas.")] = ",".join(NETWORKS),
    methods: Annotated[str, typer.Option(help="Of the activations; the first one trains.")] = "exact,first-order",
    structures: Annotated[str, typer.Option(help="That propagate.")] = ",".join(STRUCTURES),
    trained_with: Annotated[str, typer.Option(help="The structure that trains.")] = "diagonal",
    examples: Annotated[int, typer.Option(help="Test examples.")] = 100,
    draws: Annotated[int, typer.Option(help="Draws of the weights.")] = 4000,
    repeats: Annotated[int, typer.Option(help="Steps of each kind.")] = 9,
    data_folder: Annotated[str | None, typer.Option(help="Where image sets are kept.")] = None,
) -> None:
    """Prints a row per network, method and structure."""
    torch.set_num_threads(1)
    for name in networks.split(","):
        setting = NETWORKS[name]
        kind = "lenet" if setting.dataset == "mnist" else "mlp"
        split = TrainRun(setting.dataset, kind, train_examples=setting.examples).split(data_folder)
        network, n = at_start(setting, split.train), len(split.train)
        beginning = built(network, setting, methods.partition(",")[0], trained_with, n)
        began = time.perf_counter()
        end = minimised(beginning, split.train, setting.epochs, setting.batch_size, BAYESIAN_LEARNING_RATE)
        seconds = time.perf_counter() - began
        inputs = split.test.inputs[:examples]
        sampled = sampled_moments(end.network, inputs, n_samples=draws, generator=torch.Generator().manual_seed(7))
        plain = SCHEMES["weight-decay"].objective(network.eval(), n)
        objectives = {
            f"{method}, {structure}": calibrated(
                built(network, setting, method, structure, n).at(end.params), split.train
            )
            for method in methods.split(",")
            for structure in structures.split(",")
        }
        batch = split.train.select(range(setting.batch_size)).batch()
        times = step_times({"plain": plain, **objectives}, batch, repeats)
        rows = []
        for kind, objective in objectives.items():
            with torch.no_grad():
                row = agreement(objective.network(inputs), sampled)
            rows.append({"network": name, "moments": kind} | row | {"time": times[kind] / times["plain"]})
        print(f"{name}: trained {trained_with} in {seconds:.0f} s, {draws} draws on {len(inputs)} test examples")
        print(pd.DataFrame(rows).to_string(index=False, float_format="{:.2f}".format), flush=True)


if __name__ == "__main__":
    typer.run(main)
