"""What posteriors beside a network are worth: accuracy, NLL and ECE of Laplace, SWAG, deep ensembles and their peers.

    python benchmarks/posteriors.py --dataset digits --out runs/posteriors

Every scheme trains on three seeds with the defaults of `bayes-influence train`, and is predicted on the test part. The
networks of `laplace` are trained once; each structure and prior precision is a posterior around them. Epochs can be
said scheme by scheme, so that all take the same processor time: `seconds` in the table, of a training and its reading
of the data. With `--warm-epochs` Bayesian networks start from deterministic ones under weight decay, whose time counts.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import pandas as pd
import torch

from bayes_influence.data.dataset import Dataset, Split
from bayes_influence.experiments.training.report import BATCH, Predicted, predict_all, report_row
from bayes_influence.experiments.training.run import run_training
from bayes_influence.experiments.training.settings import TrainRun
from bayes_influence.objectives.prediction import predict_classes
from bayes_influence.training.laplace import laplace
from bayes_influence.training.minibatch import Trained
from bayes_influence.training.schemes import find_schemes

SCHEMES = ("none", "weight-decay", "swag", "deep-ensemble", "bnn", "bnn-tempered", "mean-field-vi", "ivon", "laplace")
MODES = ("diagonal", "linearized", "sampled")
SCORES = ("accuracy", "nll", "ece")

LARGEST_FULL = 1000
"""Parameters up to which the whole curvature is taken."""


def trained(run: TrainRun, folder: Path, warm_epochs: int, tests: int | None) -> tuple[Trained, Split, float]:
    """The run's networks, its data with the first test examples, and the processor time that it took."""
    began = time.process_time()
    if warm_epochs and find_schemes([run.scheme])[0].bayesian:
        start = folder.with_name(f"{folder.name}-start")
        deterministic = replace(run, scheme="weight-decay", epochs=warm_epochs, scheme_options={})
        run_training(deterministic, start, progress=False)
        run = replace(run, warm_start=str(start))
    members, split = run_training(run, folder, progress=False)
    seconds = time.process_time() - began
    return members, split if tests is None else replace(split, test=split.test.select(range(tests))), seconds


def predicted(members: Trained, index: int, test: Dataset, mode: str, draws: int) -> Predicted:
    """As `predict_all`, with as many draws of a Bayesian network's weights."""
    objective = members.at(index)
    if not (objective.is_bayesian and mode == "sampled"):
        return predict_all(members, index, test, mode)
    parts = [predict_classes(objective, batch.inputs, mode=mode, n_samples=draws) for batch in test.batches(BATCH)]
    return Predicted(torch.cat([part.probabilities for part in parts]), None)


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


def rows_of(scheme: str, run: TrainRun, arguments: argparse.Namespace) -> list[dict]:
    """A row per seed, and mode of prediction where there is a choice."""
    folder = arguments.out / arguments.dataset / scheme
    members, split, seconds = trained(run, folder, arguments.warm_epochs, arguments.test_examples)
    if scheme == "laplace":
        return laplace_rows(members, split)
    modes = ["diagonal"]
    if scheme == "swag":
        modes = [mode for mode in ("sampled", "linearized") if mode in arguments.modes]
    elif members.objective.is_bayesian:
        modes = arguments.modes
    rows = []
    for mode, index in product(modes, range(len(members))):
        scores = report_row(predicted(members, index, split.test, mode, arguments.draws), split.test)
        name = f"{scheme}, {mode}" if len(modes) > 1 or scheme == "swag" else scheme
        rows.append({"posterior": name} | {score: scores[score] for score in SCORES} | {"seconds": seconds})
    return rows


def epochs_of(text: str) -> dict[str, int]:
    """Epochs by scheme: `none=48,bnn=7`; one number alone is of every scheme."""
    if text.isdecimal():
        return dict.fromkeys(SCHEMES, int(text))
    return {scheme: int(epochs) for scheme, _, epochs in (part.partition("=") for part in text.split(","))}


def main() -> None:
    """Trains, predicts and prints means over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=("iris", "digits", "cifar10"), default="digits")
    parser.add_argument("--network", choices=("mlp", "resnet"), default="mlp")
    parser.add_argument("--width", type=int, default=None)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=epochs_of, default={}, help="of all, or scheme by scheme: none=48,bnn=7")
    parser.add_argument("--warm-epochs", type=int, default=0, help="of the networks that Bayesian ones start from")
    parser.add_argument("--batch-size", type=int, default=None)
    parser.add_argument("--train-examples", type=int, default=None, help="the first ones; all when not given")
    parser.add_argument("--test-examples", type=int, default=None, help="the first ones; all when not given")
    parser.add_argument("--members", type=int, default=5, help="networks of an ensemble")
    parser.add_argument("--schemes", default=",".join(SCHEMES))
    parser.add_argument("--modes", type=lambda text: text.split(","), default=list(MODES))
    parser.add_argument("--draws", type=int, default=256, help="of a Bayesian network's weights")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    of_table = arguments.network == "mlp"
    rows = []
    for scheme in arguments.schemes.split(","):
        run = TrainRun(
            arguments.dataset,
            arguments.network,
            scheme,
            tuple(range(arguments.seeds)),
            width=arguments.width,
            epochs=arguments.epochs.get(scheme),
            batch_size=arguments.batch_size,
            activation="selu" if of_table else None,
            scheme_options=find_schemes([scheme])[0].own({"prior": "fan-in", "size": arguments.members}),
            train_examples=arguments.train_examples,
            dtype="float64" if of_table else "float32",
        )
        rows += rows_of(scheme, run, arguments)
        table = pd.DataFrame(rows).groupby("posterior", sort=False).mean()
        table.to_csv(arguments.out / f"{arguments.dataset}.csv")
        print(table.to_string(float_format="{:.4f}".format), flush=True)


if __name__ == "__main__":
    main()
