"""One cell of a study: train, estimate, retrain, compare. Every number of the tables comes from here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bayes_influence.curvature.errors import IndefiniteCurvatureError
from bayes_influence.curvature.spectrum.extremes import extreme_eigenvalues
from bayes_influence.curvature.spectrum.power_iteration import power_iteration_pyhessian
from bayes_influence.data.dataset import Dataset, Split
from bayes_influence.evaluation.agreement import agreement
from bayes_influence.experiments.comparison.study import Study
from bayes_influence.experiments.store.cells import CellResult
from bayes_influence.influence.damping_sweep import damping_sweep
from bayes_influence.influence.influence import Influence
from bayes_influence.moments.convert import to_deterministic
from bayes_influence.objectives.derivatives import dense_hessian
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.predictive import predictive_of
from bayes_influence.objectives.reduction import reduce
from bayes_influence.objectives.reweighting import largest_losses
from bayes_influence.retraining.minimum import Minimum
from bayes_influence.retraining.refits import ControlDrift, Refits, control_drift, loss_changes
from bayes_influence.retraining.warm import Warm
from bayes_influence.training.fits import Fits, fit_schemes
from bayes_influence.training.schedules import Schedule

DAMPINGS = tuple(10.0**power for power in np.arange(-8, 1.5, 0.5))
"""The deltas of the damping sweep."""

REFIT_RATE = 1e-3
"""Learning rate of the refits by training, as published."""


@dataclass(frozen=True)
class Estimator:
    """One way to take influence: its name, and the parameters that it is taken in."""

    name: str
    parameters: str


def estimators(study: Study, objective: Objective) -> list[Estimator]:
    """For a Bayesian network the variational influence and that of the posterior mean, for others just influence."""
    if objective.is_bayesian:
        means = "last-layer-means" if study.parameters == "last-layer" else "means"
        return [Estimator("variational", study.parameters), Estimator("posterior-mean", means)]
    return [Estimator("influence", study.parameters)]


def measure(study: Study, *, progress: bool = False) -> CellResult:
    """Trains the study's schemes, which must share an ensemble, and holds their influence against retraining.

    Args:
        study: One cell, its test example resolved.
        progress: Whether to show progress bars of its own.

    Returns:
        Tables `results` (a row per scheme, estimator and seed), `differences` (a row per removed example as well) and
        `damping` (a row per delta).
    """
    split = study.split()
    fits = fit_schemes(
        study.resolved_schemes(),
        study.make_network,
        split.train,
        study.seeds,
        Schedule(study.epochs),
        parameters=study.parameters,
        progress=progress,
    )
    tables: dict[str, list[pd.DataFrame]] = {"results": [], "differences": [], "damping": []}
    for fit in fits:
        for name, frame in _measure_scheme(study, fit, split).items():
            tables[name].append(frame)
    keyed = {name: pd.concat(frames, ignore_index=True) for name, frames in tables.items()}
    for frame in keyed.values():
        frame.insert(0, "depth", study.depth)
        frame.insert(1, "width", study.width)
    return CellResult(tables=keyed)


def _measure_scheme(study: Study, fits: Fits, split: Split) -> dict[str, pd.DataFrame]:
    """Truth and estimate move the same parameters: an estimator's truth are refits of those that it is taken in."""
    started = time.perf_counter()
    rows = range(len(fits))
    removed = torch.stack([largest_losses(fits.at(row), split.train, study.removals) for row in rows])
    described = [_describe(fits, row, split) for row in rows]
    shared = (time.perf_counter() - started + fits.seconds) / len(rows)
    asked = estimators(study, fits.objective)
    truths = {
        parameters: _truth(study, fits, parameters, split, removed) for parameters in {e.parameters for e in asked}
    }
    results: list[dict[str, Any]] = []
    differences: list[pd.DataFrame] = []
    damping: list[dict[str, Any]] = []
    for row in rows:
        for estimator in asked:
            began = time.perf_counter()
            truth = truths[estimator.parameters]
            objective, true = truth.fits.at(row), truth.removal[row]
            estimate = _estimate(objective, split, removed[row])
            keys = {"scheme": fits.scheme.name, "estimator": estimator.name, "seed": fits.seeds[row]}
            compared = agreement(estimate.removal, true).to_row()
            seconds = {"seconds": shared + truth.seconds / len(rows) + time.perf_counter() - began}
            results.append(keys | compared | estimate.columns | described[row] | truth.columns[row] | seconds)
            examples = {"example": removed[row], "estimated": estimate.removal, "true": true}
            differences.append(pd.DataFrame(keys | {name: np.asarray(value) for name, value in examples.items()}))
            damping.extend(keys | entry for entry in _sweep(objective, split, removed[row], true))
    frames = {"results": pd.DataFrame(results), "damping": pd.DataFrame(damping)}
    return frames | {"differences": pd.concat(differences, ignore_index=True)}


@dataclass(frozen=True, eq=False)
class _Truth:
    """What removals do to the test loss by retraining some parameters.

    Attributes:
        fits: The networks, in those parameters.
        removal: (S, k) changes of the test loss.
        columns: How well each network's refits went.
        seconds: That it took, all networks together.
    """

    fits: Fits
    removal: Tensor
    columns: list[dict[str, float | bool]]
    seconds: float


def _truth(study: Study, fits: Fits, parameters: str, split: Split, removed: Tensor) -> _Truth:
    began = time.perf_counter()
    fits = fits.taking(parameters)
    refits = _refits(study, fits, split.train, removed)
    drift = control_drift(refits, split.test)
    columns = [_describe_refits(refits, row, drift) for row in range(len(fits))]
    removal = loss_changes(refits, split.test)[:, :, 0]
    return _Truth(fits, removal, columns, time.perf_counter() - began)


def _refits(study: Study, fits: Fits, train: Dataset, removed: Tensor) -> Refits:
    """Newton in a regularised last layer, where the minimum is one; otherwise training from the fit, with control."""
    if fits.scheme.regularised and study.parameters == "last-layer":
        return Minimum().refit(fits, train, removed)
    return Warm(Schedule(study.refit_epochs, REFIT_RATE, plateau=None)).refit(fits, train, removed)


@dataclass(frozen=True, eq=False)
class _Estimate:
    removal: Tensor
    columns: dict[str, float]


def _estimate(objective: Objective, split: Split, removed: Tensor) -> _Estimate:
    """Removal effects of the given examples; undamped where the curvature allows it, else automatically damped."""
    reduced = reduce(objective, split.train)
    problem = reduced.problem
    extremes = extreme_eigenvalues(dense_hessian(problem.at(0), reduced.examples().batch()))
    try:
        influence = Influence(objective, split.train, damping=0.0)
    except IndefiniteCurvatureError:
        influence = Influence(objective, split.train, damping="auto")
    scores = influence.on_loss(split.test)
    columns = {
        "hessian_max": extremes.largest,
        "hessian_min": extremes.smallest,
        "damping": influence.damping.delta,
        "condition_number": scores.condition_number or float("nan"),
    }
    return _Estimate(scores.removal[0][split.train.positions(removed)], columns)


def _sweep(objective: Objective, split: Split, removed: Tensor, truth: Tensor) -> Iterator[dict[str, float]]:
    sweep = damping_sweep(objective, split.train, split.test, DAMPINGS)
    positions = split.train.positions(removed)
    for delta, removal in zip(sweep.deltas, sweep.removal[:, 0, :], strict=True):
        compared = agreement(removal[positions], truth)
        kept = ("spearman", "pearson", "slope", "top_k_overlap")
        yield {"delta": float(delta)} | {name: getattr(compared, name) for name in kept}


def _describe(fits: Fits, row: int, split: Split) -> dict[str, float | bool]:
    """What a trained network is like: accuracies, how well it converged, and the spectrum of its loss."""
    objective = fits.at(row)
    columns: dict[str, float | bool] = {
        "train_accuracy": _accuracy(objective, split.train),
        "test_accuracy": _accuracy(objective, split.test),
        "gradient_norm": float(fits.gradient_norms[row]),
        "polished": bool(fits.polished[row]),
    }
    loss = _mean_network_loss(objective)
    extremes = extreme_eigenvalues(dense_hessian(loss, split.train.batch()))
    power = power_iteration_pyhessian(
        loss.network, lambda outputs, targets: CrossEntropy()(outputs, targets).mean(), split.train.batch()
    )
    return columns | {
        "loss_hessian_max": extremes.largest,
        "loss_hessian_min": extremes.smallest,
        "power_iteration": power,
    }


def _mean_network_loss(objective: Objective) -> Objective:
    """Cross-entropy in all parameters at the (posterior) mean: the same loss for every scheme."""
    network = to_deterministic(objective.network) if objective.is_bayesian else objective.network
    return Objective(network, CrossEntropy())


def _describe_refits(refits: Refits, row: int, drift: ControlDrift) -> dict[str, float | bool]:
    """How well the refits converged, and how far the control, which removes nothing, moved beside their effects."""
    return {
        "refit_gradient_norm": float(refits.gradient_norms[row].max()),
        "refits_converged": bool(refits.converged[row].all()),
        "control_drift": float(drift.drift[row, 0]),
        "relative_drift": float(drift.relative[row, 0]),
    }


def _accuracy(objective: Objective, data: Dataset) -> float:
    with torch.no_grad():
        outputs = objective.outputs(objective.params, data.inputs)
    return float(predictive_of(objective.likelihood, "accuracy").hits(outputs, data.targets).double().mean())
