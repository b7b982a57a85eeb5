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
from bayes_influence.curvature.operators.hessian import Hessian
from bayes_influence.curvature.spectrum.extremes import extreme_eigenvalues
from bayes_influence.evaluation.agreement import agreement
from bayes_influence.experiments.comparison.description import described, is_small
from bayes_influence.experiments.comparison.networks import ComparedNetworks
from bayes_influence.experiments.comparison.study import Study
from bayes_influence.experiments.store.cells import CellResult
from bayes_influence.influence.damping_sweep import damping_sweep
from bayes_influence.influence.influence import Influence
from bayes_influence.influence.scores import InfluenceScores
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.reduction import reduce
from bayes_influence.objectives.reweighting import largest_losses
from bayes_influence.retraining.minimum import Minimum
from bayes_influence.retraining.protocol import RetrainingProtocol
from bayes_influence.retraining.refits import ControlDrift, Refits, control_drift, loss_changes
from bayes_influence.retraining.warm import Warm
from bayes_influence.training.fits import Fits, fit_schemes

DAMPINGS = tuple(10.0**power for power in np.arange(-8, 1.5, 0.5))
"""The deltas of the damping sweep."""

SWEPT = ("delta", "spearman", "pearson", "slope", "top_k_overlap")
"""What is stored of it."""


@dataclass(frozen=True)
class Estimator:
    """One way to take influence: its name, and the parameters that it is taken in."""

    name: str
    parameters: str


def estimators(parameters: str, objective: Objective) -> list[Estimator]:
    """For a Bayesian network the variational influence and that of the posterior mean, for others just influence."""
    if objective.is_bayesian:
        means = "last-layer-means" if parameters == "last-layer" else "means"
        return [Estimator("variational", parameters), Estimator("posterior-mean", means)]
    return [Estimator("influence", parameters)]


def measure(study: Study, *, progress: bool = False) -> CellResult:
    """Measures the networks of a study of one cell, its test example resolved; see `measure_networks`."""
    return measure_networks(study.compared(), progress=progress)


def measure_networks(networks: ComparedNetworks, *, progress: bool = False) -> CellResult:
    """Trains the schemes and holds their influence against retraining.

    Args:
        networks: What is trained and removed.
        progress: Whether to show progress bars of its own.

    Returns:
        Tables `results` (a row per scheme, estimator and seed), `differences` (a row per removed example as well) and
        `damping` (a row per delta, where the curvature is small enough to be decomposed).
    """
    fits = fit_schemes(
        networks.schemes,
        networks.make_network,
        networks.train,
        networks.seeds,
        networks.schedule,
        parameters=networks.parameters,
        tolerance=networks.tolerance,
        progress=progress,
    )
    tables: dict[str, list[pd.DataFrame]] = {"results": [], "differences": [], "damping": []}
    for fit in fits:
        for name, frame in _measure_scheme(networks, fit).items():
            tables[name].append(frame)
    keyed = {name: pd.concat(frames, ignore_index=True) for name, frames in tables.items()}
    for frame in keyed.values():
        for place, (name, size) in enumerate(zip(("depth", "width"), networks.sizes, strict=True)):
            frame.insert(place, name, size)
    return CellResult(tables=keyed)


def _measure_scheme(networks: ComparedNetworks, fits: Fits) -> dict[str, pd.DataFrame]:
    """Truth and estimate move the same parameters: an estimator's truth are refits of those that it is taken in."""
    started = time.perf_counter()
    rows = range(len(fits))
    removed = torch.stack([largest_losses(fits.at(row), networks.train, networks.removals) for row in rows])
    converged = [
        {"gradient_norm": float(fits.gradient_norms[row]), "polished": bool(fits.polished[row])} for row in rows
    ]
    tests = {"test_examples": len(networks.test)}
    columns = [described(fits.at(row), networks.train, networks.test) | converged[row] | tests for row in rows]
    shared = (time.perf_counter() - started + fits.seconds) / len(rows)
    asked = estimators(networks.parameters, fits.objective)
    truths = {parameters: _truth(networks, fits, parameters, removed) for parameters in {e.parameters for e in asked}}
    results: list[dict[str, Any]] = []
    differences: list[pd.DataFrame] = []
    damping: list[dict[str, Any]] = []
    for row in rows:
        for estimator in asked:
            began = time.perf_counter()
            truth = truths[estimator.parameters]
            objective, true = truth.fits.at(row), truth.removal[row].cpu()
            estimate = _estimate(objective, networks, removed[row])
            keys = {"scheme": fits.scheme.name, "estimator": estimator.name, "seed": fits.seeds[row]}
            compared = agreement(estimate.removal, true).to_row()
            seconds = {"seconds": shared + truth.seconds / len(rows) + time.perf_counter() - began}
            results.append(keys | compared | estimate.columns | columns[row] | truth.columns[row] | seconds)
            examples = {"example": removed[row].cpu(), "estimated": estimate.removal, "true": true}
            differences.append(pd.DataFrame(keys | {name: np.asarray(value) for name, value in examples.items()}))
            if estimate.hessian is not None:
                sweep = _sweep(objective, networks, removed[row], true, estimate.hessian)
                damping.extend(keys | entry for entry in sweep)
    frames = {"results": pd.DataFrame(results), "differences": pd.concat(differences, ignore_index=True)}
    # Without a row, pandas cannot tell numbers from text.
    kinds = {"scheme": str, "estimator": str, "seed": np.int64} | dict.fromkeys(SWEPT, np.float64)
    return frames | {"damping": pd.DataFrame(damping, columns=list(kinds)).astype(kinds)}


@dataclass(frozen=True, eq=False)
class _Truth:
    """What removals do to the test loss by retraining some parameters.

    Attributes:
        fits: The networks, in those parameters.
        removal: (S, k) changes of the test loss.
        columns: How each network was refitted, and how well that went.
        seconds: That it took, all networks together.
    """

    fits: Fits
    removal: Tensor
    columns: list[dict[str, Any]]
    seconds: float


def _truth(networks: ComparedNetworks, fits: Fits, parameters: str, removed: Tensor) -> _Truth:
    began = time.perf_counter()
    fits = fits.taking(parameters)
    protocol = refitted_by(networks, fits)
    refits = protocol.refit(fits, networks.train, removed)
    drift = control_drift(refits, networks.tested)
    columns = [{"truth": protocol.name} | _describe_refits(refits, row, drift) for row in range(len(fits))]
    removal = loss_changes(refits, networks.tested)[:, :, 0]
    return _Truth(fits, removal, columns, time.perf_counter() - began)


def refitted_by(networks: ComparedNetworks, fits: Fits) -> RetrainingProtocol:
    """Newton in a regularised last layer, where the minimum is one; otherwise training from the fit, with control."""
    if fits.scheme.regularised and networks.parameters == "last-layer":
        return Minimum()
    return Warm(networks.refit_schedule)


@dataclass(frozen=True, eq=False)
class _Estimate:
    removal: Tensor
    columns: dict[str, float]
    hessian: Tensor | None


def _estimate(objective: Objective, networks: ComparedNetworks, removed: Tensor) -> _Estimate:
    """Removal effects of the given examples; undamped where the curvature allows it, else automatically damped."""
    reduced = reduce(objective, networks.train)
    problem, data = reduced.problem.at(0), reduced.examples()
    small = is_small(problem, data, reduced.is_head)
    operator = Hessian().operator(problem, data)
    hessian = operator.dense() if small else None
    extremes = extreme_eigenvalues(operator, dense_size=0) if hessian is None else extreme_eigenvalues(hessian)
    influence, scores = _scores(objective, networks)
    columns = {
        "hessian_max": extremes.largest,
        "hessian_min": extremes.smallest,
        "damping": influence.damping.delta,
        "condition_number": scores.condition_number or float("nan"),
    }
    return _Estimate(scores.removal[0][networks.train.positions(removed)].cpu(), columns, hessian)


def _scores(objective: Objective, networks: ComparedNetworks) -> tuple[Influence, InfluenceScores]:
    try:
        influence = Influence(objective, networks.train, damping=0.0)
        return influence, influence.on_loss(networks.tested)
    except IndefiniteCurvatureError:
        influence = Influence(objective, networks.train, damping="auto")
        return influence, influence.on_loss(networks.tested)


def _sweep(
    objective: Objective, networks: ComparedNetworks, removed: Tensor, truth: Tensor, hessian: Tensor
) -> Iterator[dict[str, float]]:
    sweep = damping_sweep(objective, networks.train, networks.tested, DAMPINGS, hessian=hessian)
    positions = networks.train.positions(removed)
    for delta, removal in zip(sweep.deltas, sweep.removal[:, 0, :], strict=True):
        compared = agreement(removal[positions].cpu(), truth)
        yield {"delta": float(delta)} | {name: getattr(compared, name) for name in SWEPT[1:]}


def _describe_refits(refits: Refits, row: int, drift: ControlDrift) -> dict[str, Any]:
    """How well the refits converged, and how far the control, which removes nothing, moved beside their effects."""
    return {
        "refit_gradient_norm": float(refits.gradient_norms[row].max()),
        "refits_converged": bool(refits.converged[row].all()),
        "control_drift": float(drift.drift[row, 0]),
        "relative_drift": float(drift.relative[row, 0]),
    }
