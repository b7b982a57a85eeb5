"""The linear datamodelling score of last-layer influence, this library's and that of dattri and captum.

A 784-64-10 network on 2 000 examples of MNIST, mean cross-entropy with weight decay, the last layer at its minimum; all
methods are asked about the last layer, and all are scored against the same retrainings on random halves of the
examples:

- *last layer*: Newton's method to a gradient norm of 1e-10 on the features of the trained network;
- *network*: the whole network from its own initialisation, with the schedule that it was trained on.

Test losses of the retrainings are kept in a folder and used again by every later run.

    python -m benchmarks.lds
"""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import nn

from bayes_influence.data.dataset import Dataset
from bayes_influence.data.images import load_images
from bayes_influence.evaluation.lds import lds
from bayes_influence.experiments.audit.ground_truth.subsets import SubsetLosses, retrain_on_subsets
from bayes_influence.models.mlp import MLP
from bayes_influence.retraining.from_scratch import FromScratch
from bayes_influence.retraining.minimum import Minimum
from bayes_influence.retraining.protocol import RetrainingProtocol
from bayes_influence.training.deterministic import Deterministic
from bayes_influence.training.fits import Fits, fit_schemes
from bayes_influence.training.schedules import Schedule
from benchmarks.peers.installed import adapter, present
from benchmarks.peers.problem import Problem

DECAY, WIDTH = 1e-3, 64
SCHEDULE = Schedule(150, 5e-3)

METHODS = {
    "bayes_influence, exact": "ours:automatic",
    "captum naive, full rank": "with_captum:full_rank",
    "captum naive, as it comes": "with_captum:default_rank",
    "captum Arnoldi": "with_captum:arnoldi",
    "captum TracInCPFast": "with_captum:tracin",
    "dattri explicit": "with_dattri:explicit",
    "dattri conjugate gradients": "with_dattri:conjugate_gradients",
    "dattri Arnoldi": "with_dattri:arnoldi",
    "dattri DataInf": "with_dattri:datainf",
    "dattri gradient products": "with_dattri:gradient_products",
}


def main(
    folder: Annotated[Path, typer.Option(help="Where the retrainings are kept.")] = Path("runs/lds"),
    examples: Annotated[int, typer.Option(help="Training examples.")] = 2000,
    tests: Annotated[int, typer.Option(help="Test examples.")] = 50,
    subsets: Annotated[int, typer.Option(help="Of the last layer's retrainings.")] = 100,
    network_subsets: Annotated[int, typer.Option(help="Of the whole network's; 0 leaves them out.")] = 30,
    threads: Annotated[int, typer.Option(help="Of torch.")] = 1,
) -> None:
    """Prints the table."""
    torch.set_num_threads(threads)
    methods = present(METHODS)
    train, test = _data(examples, tests)
    fits = _fits(train, "last-layer")
    found = {"last layer": _retrained(fits, train, test, Minimum(), folder / "last-layer", subsets)}
    if network_subsets:
        whole = _fits(train, "all")
        protocol = FromScratch(whole.scheme, _network, SCHEDULE, at_once=10)
        found["network"] = _retrained(whole, train, test, protocol, folder / "network", network_subsets)
    problem = _problem(fits, train, test)
    rows = [f"| method | {' | '.join(f'LDS, {name} retrained' for name in found)} | seconds |"]
    rows.append("|---|" + "---|" * (len(found) + 1))
    for name, entry in methods.items():
        began = time.perf_counter()
        try:
            removal = adapter(entry)(problem).removal.detach().double().numpy()
        except Exception as error:  # a library that fails is a result
            rows.append(f"| {name} | failed: {type(error).__name__}: {error} |")
            continue
        seconds = time.perf_counter() - began
        scores = [_score(removal, losses) for losses in found.values()]
        rows.append(f"| {name} | {' | '.join(scores)} | {seconds:.2f} |")
    # Printed last: other libraries write progress bars and warnings.
    print("\n".join(rows))


def _score(removal: np.ndarray, truth: SubsetLosses) -> str:
    """Having an example in the training set changes a loss by minus what its removal does."""
    if not np.isfinite(removal).all():
        return "not finite"
    score = lds(truth.masks, -removal, truth.losses).score
    return f"{score.estimate:.3f} [{score.low:.3f}, {score.high:.3f}]"


def _data(examples: int, tests: int) -> tuple[Dataset, Dataset]:
    split = load_images("mnist")
    parts = split.train.select(range(examples)), split.test.select(range(tests))
    train, test = (
        Dataset(part.inputs.flatten(1).double(), part.targets, part.ids, name=part.name, class_names=part.class_names)
        for part in parts
    )
    return train, test


def _network() -> nn.Module:
    return MLP(784, 10, width=WIDTH, activation="relu")


def _fits(train: Dataset, parameters: str) -> Fits:
    tolerance = 1e-10 if parameters == "last-layer" else None
    scheme = Deterministic("weight-decay", weight_decay=DECAY)
    (fits,) = fit_schemes([scheme], _network, train, [0], SCHEDULE, parameters=parameters, tolerance=tolerance)
    return fits


def _retrained(
    fits: Fits, train: Dataset, test: Dataset, protocol: RetrainingProtocol, folder: Path, subsets: int
) -> SubsetLosses:
    began = time.perf_counter()
    found = retrain_on_subsets(fits, train, test, protocol, folder, n_subsets=subsets, n_jobs=1)
    seconds = time.perf_counter() - began
    print(f"{protocol.name}: {subsets} subsets, {found.unconverged} not converged, {seconds:.0f} s")
    return found


def _problem(fits: Fits, train: Dataset, test: Dataset) -> Problem:
    """The network at its fit, influence in the last layer, the regulariser in the Hessian and no damping."""
    network = copy.deepcopy(fits.at(0).network)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in fits.objective.names)
    assert isinstance(network, nn.Sequential)
    return Problem(
        network.eval(),
        train.inputs,
        train.targets,
        test.inputs,
        test.targets,
        damping=0.0,
        parameters="last-layer",
        decay=DECAY,
    )


if __name__ == "__main__":
    typer.run(main)
