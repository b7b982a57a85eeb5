"""Which bound trains the best posterior: the sampled -ELBO that each reaches, on Iris 4-5-3 and a digits MLP.

Every objective trains the same network from the same seeds by full-batch Adam; then weights are drawn, and -ELBO is
estimated without propagated moments or bounds (sum over the training examples, in nats, lower is better). `ivon` draws
weights in every step; its own value is the tilted bound where it ends. Two more
columns say where a difference comes from: `own` is the objective's own value, `logits` the same with its expected
likelihood replaced by 1024 draws of the propagated logits. From `own` to `logits` it is the bound (or too few draws)
that errs, from `logits` to `-ELBO` the propagated moments.

    python benchmarks/elbo_bounds.py
    python benchmarks/elbo_bounds.py --dataset digits --epochs 600 --seeds 1 --method first-order
    python benchmarks/elbo_bounds.py --dataset digits --epochs 600 --seeds 1 --structure covariance --objectives tilted
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Annotated

import pandas as pd
import torch
import typer

from bayes_influence.data.tables import hold_out, load_table
from bayes_influence.models.mlp import MLP
from bayes_influence.objectives.expected_likelihoods import LIKELIHOODS, SobolCategorical, TiltedCategorical
from bayes_influence.objectives.prediction import predict
from bayes_influence.training.elbo import sampled_negative_elbo
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.schemes import OnlineNewton, Variational

PROBLEMS = {"iris": (5, "tanh", torch.float64), "digits": (32, "selu", torch.float32)}
"""Width, activation and type of the network by data set."""

MANY_DRAWS = SobolCategorical(1024, seed=1)


def main(
    dataset: Annotated[str, typer.Option(help="iris or digits.")] = "iris",
    epochs: Annotated[int, typer.Option(help="Full-batch steps.")] = 4000,
    seeds: Annotated[int, typer.Option(help="Networks per objective.")] = 3,
    method: Annotated[str, typer.Option(help="How moments pass activations.")] = "exact",
    structure: Annotated[str, typer.Option(help="What of their covariance is taken in.")] = "diagonal",
    activation: Annotated[str | None, typer.Option(help="Iris has tanh and digits SELU when not given.")] = None,
    prior: Annotated[str, typer.Option(help="isotropic or fan-in.")] = "isotropic",
    objectives: Annotated[str, typer.Option(help="Which ones.")] = ",".join([*LIKELIHOODS, "ivon"]),
    draws: Annotated[int, typer.Option(help="Logit draws of the objective sobol.")] = 16,
) -> None:
    """Prints a row per objective and seed, and the means."""
    width, usual, dtype = PROBLEMS[dataset]
    split = hold_out(load_table(dataset, dtype))
    likelihoods = {**LIKELIHOODS, "sobol": SobolCategorical(draws)}
    rows = []
    for name in objectives.split(","):
        likelihood = likelihoods.get(name, TiltedCategorical())
        kind = Variational if name in likelihoods else OnlineNewton
        scheme = kind(name, likelihood=likelihood, method=method, structure=structure, prior=prior)
        began = time.perf_counter()
        (fit,) = fit_schemes(
            [scheme],
            lambda: MLP(split.train.inputs.shape[1], split.train.n_classes, width, 1, activation or usual).to(dtype),
            split.train,
            range(seeds),
            Schedule(epochs, 0.01),
            tolerance=None,
        )
        seconds = time.perf_counter() - began
        for index in range(seeds):
            objective = fit.at(index)
            many = replace(objective, likelihood=MANY_DRAWS)
            with torch.no_grad():
                own, logits = (
                    len(split.train) * float(one.value(one.params, split.train.batch())) for one in (objective, many)
                )
            elbo = sampled_negative_elbo(objective, split.train)
            predicted = predict(objective, split.test.inputs, mode="sampled")
            nll = -predicted.probabilities.gather(1, split.test.targets.unsqueeze(1)).log().mean()
            row = {"objective": name, "seed": index, "own": own, "logits": logits, "-ELBO": elbo.value}
            row |= {"error": elbo.standard_error, "KL": elbo.divergence, "test NLL": float(nll), "seconds": seconds}
            rows.append(row)
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format="{:.3f}".format))
    means = table.groupby("objective", sort=False)[["own", "logits", "-ELBO", "KL", "test NLL"]].mean()
    print(means.to_string(float_format="{:.3f}".format))


if __name__ == "__main__":
    typer.run(main)
