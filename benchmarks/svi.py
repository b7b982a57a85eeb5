"""Moment propagation against sampled mean-field VI at the same wall time: test NLL of ours and of Pyro's AutoNormal.

The same network, prior N(0, 1), likelihood and data, full batches, Adam at a constant learning rate, one thread. Pyro
trains `AutoNormal` by `SVI` with `TraceMeanField_ELBO` (one draw of the weights per step, analytic KL) on the model
that `to_pyro` makes; ours trains the scheme `bnn`; both at the same learning rates. Both posteriors predict in the same
way, the mean over 256 draws of the weights. The clock includes what each training prepares, after one short run of each
that pays for imports, and stands still while parameters are copied for a later look.

    python benchmarks/svi.py
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import pandas as pd
import pyro
import torch
import typer
from pyro.infer import SVI, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.optim import Adam
from torch import nn

from bayes_influence.data.dataset import Split
from bayes_influence.data.tables import hold_out, load_table
from bayes_influence.models.mlp import MLP
from bayes_influence.objectives.members import stack_members
from bayes_influence.objectives.parameters import Flattening, Params
from bayes_influence.objectives.prediction import predict
from bayes_influence.training.minibatch import TrainingState, train_minibatches
from bayes_influence.training.minibatch_schedule import MinibatchSchedule
from bayes_influence.training.pyro_models import guide_params, to_pyro
from bayes_influence.training.schemes import Variational

PROBLEMS = {"iris": (5, "tanh", (0.5, 1, 2, 4, 8)), "digits": (32, "relu", (1, 2, 5, 10, 20))}
"""Width, activation and wall times in seconds by data set."""

RATES = (0.01, 0.03)
"""Learning rates of Adam, for both."""

MOST_STEPS = 100_000


class TimeIsUpError(Exception):
    """All looks are taken."""


@dataclass
class Looks:
    """Parameters at given times, and the number of steps until then."""

    times: Sequence[float]
    began: float = field(default_factory=time.perf_counter)
    paused: float = 0.0
    steps: int = 0
    taken: list[tuple[float, int, Params]] = field(default_factory=list)

    def at(self, params: Params) -> None:
        """Called before every step; raises when there is nothing more to wait for."""
        now = time.perf_counter()
        while len(self.taken) < len(self.times) and now - self.began - self.paused >= self.times[len(self.taken)]:
            copied = {name: value.detach().clone() for name, value in params.items()}
            self.taken.append((self.times[len(self.taken)], self.steps, copied))
        if len(self.taken) == len(self.times):
            raise TimeIsUpError
        self.steps += 1
        self.paused += time.perf_counter() - now


def ours(network: nn.Module, split: Split, times: Sequence[float], rate: float) -> Looks:
    """Propagated moments, the tilted bound, and the trainer of `bayes-influence train`."""
    scheme = Variational("bnn", method="exact")
    objective = scheme.objective(scheme.prepare(network), len(split.train))
    looks, layout = Looks(times), Flattening.of(objective.params)
    schedule = MinibatchSchedule(MOST_STEPS, len(split.train), rate, decay="constant")

    def look(state: TrainingState) -> None:
        looks.at(layout.unflatten(state["flat"][0]))

    try:
        train_minibatches(objective, stack_members([objective.params]), split.train, schedule, [0], on_epoch=look)
    except TimeIsUpError:
        return looks
    raise RuntimeError(f"{MOST_STEPS} steps took less than {times[-1]} seconds")


def pyros(network: nn.Module, split: Split, times: Sequence[float], rate: float) -> Looks:
    """Pyro's SVI on the same model; the guide starts at the network's weights with its default scale."""
    pyro.clear_param_store()
    start = {name: value.detach().clone() for name, value in network.named_parameters()}
    looks = Looks(times)
    model = to_pyro(network)
    guide = AutoNormal(model, init_loc_fn=lambda site: start[site["name"]])
    svi = SVI(model, guide, Adam({"lr": rate}), TraceMeanField_ELBO())
    svi.step(split.train.inputs, split.train.targets)
    try:
        while True:
            looks.at(guide_params(guide))
            svi.step(split.train.inputs, split.train.targets)
    except TimeIsUpError:
        return looks


def test_nll(network: nn.Module, split: Split, params: Params) -> float:
    """Of the mean over 256 draws of the weights."""
    scheme = Variational("bnn")
    objective = scheme.objective(scheme.prepare(network), len(split.train), "all").at(params)
    found = predict(objective, split.test.inputs, mode="sampled").probabilities
    return -float(found.gather(1, split.test.targets.unsqueeze(1)).log().mean())


def main(
    dataset: Annotated[str, typer.Option(help="iris or digits.")] = "iris",
    seeds: Annotated[int, typer.Option(help="Networks per method.")] = 3,
) -> None:
    """Prints the mean test NLL and the number of steps by wall time and method."""
    torch.set_num_threads(1)
    width, activation, times = PROBLEMS[dataset]
    split = hold_out(load_table(dataset, torch.float64))
    rows = []
    warm = MLP(split.train.inputs.shape[1], split.train.n_classes, 2, 1, activation, seed=0).double()
    for train in (ours, pyros):
        train(warm, split, [0.0], RATES[0])
    for seed in range(seeds):
        network = MLP(split.train.inputs.shape[1], split.train.n_classes, width, 1, activation, seed=seed).double()
        runs = {}
        for rate in RATES:
            pyro.set_rng_seed(seed)
            runs[f"moments, {rate}"] = ours(network, split, times, rate)
            runs[f"pyro, {rate}"] = pyros(network, split, times, rate)
        for method, looks in runs.items():
            for at, steps, params in looks.taken:
                nll = test_nll(network, split, params)
                rows.append({"seconds": at, "method": method, "seed": seed, "steps": steps, "test NLL": nll})
    table = pd.DataFrame(rows)
    print(
        table.pivot_table(index="seconds", columns="method", values=["test NLL", "steps"]).to_string(
            float_format="{:.3f}".format
        )
    )


if __name__ == "__main__":
    typer.run(main)
