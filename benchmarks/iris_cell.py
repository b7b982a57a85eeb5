"""One cell of the Iris study, serially and as an ensemble: processor seconds per seed, measured in one run.

Serial: the plain PyTorch loop of the published protocol (full-batch Adam with coupled weight decay, plateau rule,
then a fine-tuning of the last layer for each of the removed examples), one seed, timed on a fraction of its steps
before and after the ensemble and extrapolated linearly. Ensemble: every seed at once for all steps, then all refits: by
Newton's method to a gradient norm of 1e-10 where the scheme is regularised, else by as many steps. The floor is what
the arithmetic of the ensemble's steps costs at the rates that this machine reaches on large products and on large
exponentials.

    python benchmarks/iris_cell.py --scheme weight-decay
    python benchmarks/iris_cell.py --scheme none --width 50
"""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Annotated

import torch
import typer
from torch import nn

from bayes_influence.experiments.comparison.study import Study
from bayes_influence.objectives.reweighting import largest_losses
from bayes_influence.retraining.minimum import Minimum
from bayes_influence.retraining.warm import Warm
from bayes_influence.training.deterministic import WEIGHT_DECAY
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.schedules import Plateau, Schedule
from bayes_influence.training.schemes import find_schemes
from bayes_influence.training.threads import torch_threads

TEST_EXAMPLE = 83
REFIT_EPOCHS = 7500


def _serial_epochs(network: nn.Module, parameters: list[nn.Parameter], data, epochs: int, weight_decay: float) -> float:
    """Seconds of the processor for a plain training loop."""
    rule = Plateau()
    optimiser = torch.optim.Adam(parameters, 1e-3, weight_decay=weight_decay)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=rule.factor, patience=rule.patience)
    criterion = nn.CrossEntropyLoss()
    started = time.process_time()
    for _ in range(epochs):
        optimiser.zero_grad()
        loss = criterion(network(data.inputs), data.targets)
        loss.backward()
        optimiser.step()
        plateau.step(loss.detach())
    return time.process_time() - started


def serial_seconds(study: Study, fraction: float) -> float:
    """Seconds that the published protocol takes for one seed, from a fraction of its steps."""
    train = study.split().train
    network = study.make_network().double()
    training, refit = int(study.epochs * fraction), int(REFIT_EPOCHS * fraction * 10)
    decay = WEIGHT_DECAY * ("weight-decay" in study.schemes)
    whole = _serial_epochs(network, list(network.parameters()), train, training, decay) / fraction
    head = list(network[-1].parameters())
    for parameter in network.parameters():
        parameter.requires_grad_(any(parameter is own for own in head))
    one_refit = _serial_epochs(network, head, train.without(int(train.ids[0])), refit, decay) * REFIT_EPOCHS / refit
    return whole + study.removals * one_refit


def ensemble_seconds(study: Study) -> tuple[float, float, float]:
    """Seconds of the processor for training and for refits of all seeds, and the worst gradient norm of a refit."""
    train = study.split().train
    with torch_threads(1):
        started = time.process_time()
        (fits,) = fit_schemes(
            find_schemes(study.schemes), study.make_network, train, study.seeds, Schedule(study.epochs)
        )
        trained = time.process_time()
        rows = range(study.repeats)
        removed = torch.stack([largest_losses(fits.at(row), train, study.removals) for row in rows])
        protocol = Minimum() if fits.scheme.regularised else Warm(Schedule(REFIT_EPOCHS, plateau=None))
        worst = float(protocol.refit(fits, train, removed).gradient_norms.max())
    return trained - started, time.process_time() - trained, worst


def floor_seconds(study: Study) -> float:
    """Arithmetic of the training steps of all seeds on one core, at measured peak rates.

    Per member, example and epoch: 6 operations per weight (forward, and two products backward) and one exponential per
    unit and class.
    """
    square, line = torch.randn(1500, 1500).double(), torch.randn(2_000_000).double()
    with torch_threads(1):
        square @ square, line.exp()
        started = time.process_time()
        square @ square
        per_operation = (time.process_time() - started) / (2 * 1500**3)
        started = time.process_time()
        line.exp()
        per_exponential = (time.process_time() - started) / len(line)
    sizes = [4, *[study.width] * study.depth, 3]
    weights = sum(before * after for before, after in pairwise(sizes))
    examples = study.repeats * study.epochs * 149
    return examples * (6 * weights * per_operation + sum(sizes[1:]) * per_exponential)


def main(
    scheme: Annotated[str, typer.Option(help="weight-decay or none.")] = "weight-decay",
    depth: Annotated[int, typer.Option(help="Hidden layers.")] = 1,
    width: Annotated[int, typer.Option(help="Units of each.")] = 5,
    seeds: Annotated[int, typer.Option(help="Members of the ensemble.")] = 50,
    epochs: Annotated[int, typer.Option(help="Steps of training.")] = 60_000,
    fraction: Annotated[float, typer.Option(help="Share of the serial steps that is timed.")] = 0.02,
) -> None:
    """Prints processor seconds per seed of both, their ratio, and the floor."""
    size = {"depth": depth, "width": width}
    study = Study(repeats=seeds, epochs=epochs, schemes=(scheme,), test_example=TEST_EXAMPLE, **size)
    with torch_threads(1):
        before = serial_seconds(study, fraction)
    training, refits, worst = ensemble_seconds(study)
    with torch_threads(1):
        after = serial_seconds(study, fraction)
    serial, ensemble, floor = (before + after) / 2, (training + refits) / seeds, floor_seconds(study) / seeds
    print(f"serial    {serial:9.2f} s per seed ({before:.1f} before, {after:.1f} after the ensemble)")
    print(f"ensemble  {ensemble:9.2f} s per seed ({seeds} seeds, worst refit norm {worst:.1e})")
    print(f"          {training:9.1f} s training and {refits:.1f} s refits of all seeds")
    print(f"floor     {floor:9.2f} s per seed (arithmetic of the steps of training)")
    print(f"serial / ensemble  {serial / ensemble:.0f}")
    print(f"training / floor   {training / seeds / floor:.1f}")


if __name__ == "__main__":
    typer.run(main)
