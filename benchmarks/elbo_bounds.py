"""Which bound trains the best posterior: the sampled -ELBO that each reaches, on Iris 4-5-3 and a digits MLP.

Every objective trains the same network from the same seeds by full-batch Adam; then weights are drawn, and -ELBO is
estimated without propagated moments or bounds (sum over the training examples, in nats, lower is better).

    python benchmarks/elbo_bounds.py
"""

from __future__ import annotations

import time
from typing import Annotated

import pandas as pd
import torch
import typer

from bayes_influence.data.tables import hold_out, load_table
from bayes_influence.experiments.train_settings import LIKELIHOODS
from bayes_influence.models.mlp import MLP
from bayes_influence.moments.prediction import predict
from bayes_influence.training.elbo import sampled_negative_elbo
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.schemes import Variational

PROBLEMS = {"iris": (5, "tanh", torch.float64), "digits": (32, "selu", torch.float32)}
"""Width, activation and type of the network by data set."""


def main(
    dataset: Annotated[str, typer.Option(help="iris or digits.")] = "iris",
    epochs: Annotated[int, typer.Option(help="Full-batch steps.")] = 4000,
    seeds: Annotated[int, typer.Option(help="Networks per objective.")] = 3,
    method: Annotated[str, typer.Option(help="How moments pass activations.")] = "exact",
) -> None:
    """Prints a row per objective and seed, and the means."""
    width, activation, dtype = PROBLEMS[dataset]
    split = hold_out(load_table(dataset, dtype))
    rows = []
    for name, likelihood in LIKELIHOODS.items():
        began = time.perf_counter()
        (fit,) = fit_schemes(
            [Variational(name, likelihood=likelihood, method=method)],
            lambda: MLP(split.train.inputs.shape[1], split.train.n_classes, width, 1, activation).to(dtype),
            split.train,
            range(seeds),
            Schedule(epochs, 0.01),
            tolerance=None,
        )
        seconds = time.perf_counter() - began
        for index in range(seeds):
            objective = fit.at(index)
            elbo = sampled_negative_elbo(objective, split.train)
            predicted = predict(objective.network, split.test.inputs, mode="sampled", params=objective.params)
            nll = -predicted.probabilities.gather(1, split.test.targets.unsqueeze(1)).log().mean()
            row = {"objective": name, "seed": index, "-ELBO": elbo.value, "error": elbo.standard_error}
            rows.append(row | {"KL": elbo.divergence, "test NLL": float(nll), "seconds": seconds})
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format="{:.3f}".format))
    print(
        table.groupby("objective", sort=False)[["-ELBO", "KL", "test NLL"]]
        .mean()
        .to_string(float_format="{:.3f}".format)
    )


if __name__ == "__main__":
    typer.run(main)
