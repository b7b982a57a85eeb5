"""How far Bayesian networks on Iris are from the exact posterior: mean difference of predictive probabilities to NUTS.

The reference is `tests/fixtures/nuts_iris.json`; every posterior is of the same 4-5-3 network, prior and data (that of
`laplace` by a weight decay of 1/n), trained by full-batch Adam for 1500 steps from five seeds. A row per way to
predict, with the mean over seeds of the difference, its range, and the difference of the mean of the five predictions.

    python benchmarks/nuts_iris.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer

from bayes_influence.data.tables import hold_out, load_table
from bayes_influence.models.mlp import MLP
from bayes_influence.objectives.expected_likelihoods import SobolCategorical
from bayes_influence.objectives.prediction import predict
from bayes_influence.training.elbo import sampled_negative_elbo
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.schemes import SCHEMES, Variational

FIXTURE = Path(__file__).parents[1] / "tests" / "fixtures" / "nuts_iris.json"

POSTERIORS = {
    "diagonal, tilted": Variational("bnn", method="exact"),
    "diagonal, 128 Sobol draws": Variational("bnn", method="exact", likelihood=SobolCategorical(128)),
    "covariance, tilted": Variational("bnn", method="exact", structure="covariance"),
    "covariance, 128 Sobol draws": Variational(
        "bnn", method="exact", structure="covariance", likelihood=SobolCategorical(128)
    ),
    "ivon": SCHEMES["ivon"].with_options(method="exact"),
    "laplace": SCHEMES["laplace"].with_options(weight_decay=1 / 120),
}
"""Schemes by what a row calls them."""

DRAWS = 4096


def main(
    seeds: Annotated[int, typer.Option(help="Networks per posterior.")] = 5,
    epochs: Annotated[int, typer.Option(help="Full-batch steps.")] = 1500,
    posteriors: Annotated[str, typer.Option(help="Which ones, separated by semicolons.")] = ";".join(POSTERIORS),
) -> None:
    """Prints the table."""
    split = hold_out(load_table("iris", torch.float64))
    reference = torch.tensor(json.loads(FIXTURE.read_text())["probabilities"], dtype=torch.float64)
    rows = []
    for name in posteriors.split(";"):
        (fits,) = fit_schemes(
            [POSTERIORS[name]],
            lambda: MLP(4, 3, width=5, activation="tanh").double(),
            split.train,
            range(seeds),
            Schedule(epochs, 0.02),
            parameters="all",
            tolerance=None,
        )
        scheme, bound = fits.scheme, float("nan")
        if scheme.bayesian:
            bound = sum(sampled_negative_elbo(one, split.train, DRAWS).value for one in fits) / seeds
        modes = ("sampled", "diagonal", "linearized") if scheme.bayesian else ("sampled", "linearized")
        for mode in modes:
            settings = {"mode": mode, "n_samples": DRAWS}
            found = [
                predict(one, split.test.inputs, posterior=scheme.posterior(one, split.train), **settings)
                for one in fits
            ]
            each = torch.stack([one.probabilities for one in found])
            differences = (each - reference).abs().mean((1, 2))
            together = float((each.mean(0) - reference).abs().mean())
            row = {"posterior": name, "-ELBO": bound, "predictions": mode, "difference": float(differences.mean())}
            row |= {"least": float(differences.min()), "most": float(differences.max()), "together": together}
            rows.append(row)
        print(pd.DataFrame(rows[-len(modes) :]).to_string(index=False, float_format="{:.4f}".format), flush=True)


if __name__ == "__main__":
    typer.run(main)
