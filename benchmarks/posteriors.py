"""What posteriors beside a network are worth: accuracy, NLL and ECE of Laplace, SWAG, deep ensembles and their peers.

    python benchmarks/posteriors.py --dataset digits --out runs/posteriors

Every scheme trains on three seeds with the defaults of `bayes-influence train`, and is predicted on the test part. The
networks of `laplace` are trained once; each structure and prior precision is a posterior around them.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path

import pandas as pd

from bayes_influence.experiments.training.report import predict_all, report_row
from bayes_influence.experiments.training.run import run_training
from bayes_influence.experiments.training.settings import TrainRun
from bayes_influence.training.laplace import laplace
from bayes_influence.training.minibatch import Trained
from bayes_influence.training.schemes import find_schemes

SCHEMES = ("none", "weight-decay", "swag", "deep-ensemble", "bnn", "bnn-tempered", "mean-field-vi", "ivon", "laplace")
SCORES = ("accuracy", "nll", "ece")

LARGEST_FULL = 1000
"""Parameters up to which the whole curvature is taken."""


def trained(run: TrainRun, folder: Path):
    """The run's networks and data."""
    return run_training(run, folder, progress=False)


def laplace_rows(members: Trained, split) -> list[dict]:
    """A row per structure, parameters, prior precision and seed."""
    rows = []
    ways = product(("last-layer", "all"), ("diagonal", "kronecker", "full"), ("weight-decay", "marginal-likelihood"))
    for parameters, covariance, evidence in ways:
        for index in range(len(members)):
            objective = members.at(index)
            if (
                covariance == "full"
                and objective.taking(parameters).resolved(split.train.example.inputs).layout.total > LARGEST_FULL
            ):
                continue
            posterior = laplace(
                objective, split.train, covariance=covariance, parameters=parameters, prior_precision=evidence
            )
            for mode in ("linearized", "sampled"):
                name = f"laplace, {parameters}, {covariance}, {evidence}, {mode}"
                scores = report_row(predict_all(members, index, split.test, mode, posterior), split.test)
                evidence_found = posterior.log_marginal_likelihood()
                rows.append({"posterior": name} | {score: scores[score] for score in SCORES})
                rows[-1] |= {"prior_precision": posterior.prior_precision, "evidence": evidence_found}
    return rows


def rows_of(scheme: str, run: TrainRun, folder: Path) -> list[dict]:
    """A row per seed, and mode of prediction where there is a choice."""
    members, split = trained(run, folder)
    if scheme == "laplace":
        return laplace_rows(members, split)
    modes = ("diagonal",)
    if scheme == "swag":
        modes = ("sampled", "linearized")
    elif members.objective.is_bayesian:
        modes = ("diagonal", "linearized", "sampled")
    rows = []
    for mode, index in product(modes, range(len(members))):
        scores = report_row(predict_all(members, index, split.test, mode), split.test)
        name = f"{scheme}, {mode}" if len(modes) > 1 else scheme
        rows.append({"posterior": name} | {score: scores[score] for score in SCORES})
    return rows


def main() -> None:
    """Trains, predicts and prints means over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=("iris", "digits"), default="digits")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=None)
    parser.add_argument("--schemes", default=",".join(SCHEMES))
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rows = []
    for scheme in arguments.schemes.split(","):
        run = TrainRun(
            arguments.dataset,
            "mlp",
            scheme,
            tuple(range(arguments.seeds)),
            epochs=arguments.epochs,
            activation="selu",
            scheme_options=find_schemes([scheme])[0].own({"prior": "fan-in"}),
            dtype="float64",
        )
        rows += rows_of(scheme, run, arguments.out / arguments.dataset / scheme)
    table = pd.DataFrame(rows).groupby("posterior", sort=False).mean()
    table.to_csv(arguments.out / f"{arguments.dataset}.csv")
    print(table.to_string(float_format="{:.4f}".format))


if __name__ == "__main__":
    main()
