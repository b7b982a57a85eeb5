"""What an audit measures on one trained network: every stage between retraining and estimate, and the spectrum."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from bayes_influence.curvature.damping import Damping, FisherDamping, IdentityDamping
from bayes_influence.curvature.operators.hessian import HessianOperator
from bayes_influence.curvature.solvers.automatic import METHODS, solve
from bayes_influence.data.dataset import Dataset
from bayes_influence.evaluation.agreement import MIN_POINTS
from bayes_influence.evaluation.spectral_attribution import ROUNDING, spectral_attribution
from bayes_influence.evaluation.waterfall import waterfall
from bayes_influence.experiments.cells import CellResult
from bayes_influence.influence.influence import Influence
from bayes_influence.moments.moments import Moments
from bayes_influence.objectives.head import is_last_layer
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import RHO
from bayes_influence.retraining.predicted import predicted_refits
from bayes_influence.retraining.protocols import (
    FromScratch,
    LinearResponse,
    Minimum,
    Proximal,
    ProximalBregman,
    RetrainingProtocol,
    Warm,
)
from bayes_influence.retraining.refits import Refits, control_drift, losses_after, outputs_after
from bayes_influence.training.fits import Fits
from bayes_influence.training.schedules import Schedule

DENSE_PARAMETERS = 2000
"""Up to this P the whole spectrum is computed."""

INFLUENCE_SOLVERS = ("auto", "cholesky", "eigendecomposition")
"""Solvers that an influence estimate knows by itself; the others are handed to it as functions."""


@dataclass(frozen=True)
class AuditSettings:
    """What an audit does to a trained network.

    Attributes:
        removals: Training examples of largest loss (mean over seeds), removed one at a time.
        damping: The delta of estimate, proximal objective and PBRF; None for the automatic one of the first seed. In
            the identity's metric, for variational parameters in that of the Fisher information of q.
        curvature: Of the estimate, "ggn" or "hessian"; the waterfall's linear response is always Gauss-Newton.
        solver: Of the estimate: a key of `curvature.solvers.automatic.METHODS`.
        refit_schedule: Of the retrainings from the fit, where they are not exact.
        tolerance: Gradient norm to which proximal objective and PBRF are minimised.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    removals: int = 20
    damping: float | None = None
    curvature: str = "ggn"
    solver: str = "auto"
    refit_schedule: Schedule = field(default_factory=Schedule)
    tolerance: float = 1e-8

    def __post_init__(self) -> None:
        if self.removals < MIN_POINTS:
            raise ValueError(
                f"an audit needs at least {MIN_POINTS} removed examples for its correlations, got {self.removals}"
            )
        if self.damping is not None and not self.damping > 0:
            raise ValueError(f"the damping must be positive, got {self.damping}; leave it out for the automatic one")
        if self.curvature not in ("ggn", "hessian"):
            raise ValueError(f"curvature must be 'ggn' or 'hessian', got {self.curvature!r}")
        if self.solver not in METHODS:
            raise ValueError(f"unknown solver {self.solver!r}; known: {', '.join(METHODS)}")

    def influence(self, objective: Objective, train: Dataset, damping: str | Damping) -> Influence:
        """The estimate that is audited."""
        solver = self.solver if self.solver in INFLUENCE_SOLVERS else partial(solve, method=self.solver)
        return Influence(objective, train, curvature=self.curvature, solver=solver, damping=damping)


@dataclass(frozen=True, eq=False)
class AuditJob:
    """One network to be audited.

    Attributes:
        fits: The network, as fits of one seed.
        train: Its training examples.
        test: Test examples.
        removed: Ids of the examples that are removed one at a time.
        settings: How it is audited.
        delta: The damping, resolved.
        make_network: Builds the network for retraining from scratch, None to leave that stage out.
        schedule: Of the fit, for retraining from scratch.
    """

    fits: Fits
    train: Dataset
    test: Dataset
    removed: Tensor
    settings: AuditSettings
    delta: float
    make_network: Callable[[], nn.Module] | None = None
    schedule: Schedule | None = None

    @property
    def damping(self) -> Damping:
        """The damping in the metric of the parameters that influence is taken in."""
        return damping_of(self.fits.objective, self.delta)

    @property
    def exact(self) -> bool:
        """Whether retraining is a convex problem, which Newton's method solves."""
        return is_last_layer(self.fits.objective) and self.fits.scheme.regularised

    def stages(self) -> dict[str, Callable[[], Refits]]:
        """How every stage of the waterfall is computed, in their order."""
        settings, removed = self.settings, self.removed.unsqueeze(0)
        protocols: dict[str, RetrainingProtocol] = {}
        if self.make_network is not None and self.schedule is not None and not self.fits.scheme.sampled:
            protocols["cold"] = FromScratch(self.make_network, self.schedule)
        protocols["warm"] = Minimum() if self.exact else Warm(settings.refit_schedule)
        protocols["proximal"] = Proximal(self.damping, settings.tolerance)
        protocols["pbrf"] = ProximalBregman(self.damping, settings.tolerance)
        protocols["linear"] = LinearResponse(self.damping)
        stages: dict[str, Callable[[], Refits]] = {}
        for name, protocol in protocols.items():
            stages[name] = partial(protocol.refit, self.fits, self.train, removed)
        return stages | {"solver": partial(predicted_refits, self.fits, self.train, removed, self.influence)}

    def influence(self, objective: Objective) -> Influence:
        """The estimate where an objective stands."""
        return self.settings.influence(objective, self.train, self.damping)


def damping_of(objective: Objective, delta: float) -> Damping:
    """Delta in the parameters' own metric: the identity, or for variational parameters the Fisher information of q."""
    variational = any(name.endswith(RHO) for name in objective.names)
    return FisherDamping(delta) if variational else IdentityDamping(delta)


def measure_network(job: AuditJob) -> CellResult:
    """Every stage, the estimate and the spectrum of one network.

    Returns:
        Tables `effects` (a row per test and removed example: the estimated change of the test loss and that at every
        stage), `gaps` (a row per removed example and gap), `stages` (a row per stage: convergence and drift); and, up
        to `DENSE_PARAMETERS`, `spectrum`, `eigenvalues` and `attribution` of the Hessian and the estimate's curvature.
    """
    outputs, losses, stages = {}, {}, []
    for name, refit in job.stages().items():
        began = time.perf_counter()
        refits = refit()
        outputs[name] = _logits(outputs_after(job.fits, refits, job.train))[0].numpy()
        losses[name] = losses_after(job.fits, refits, job.test)[0].numpy()
        stages.append(_describe_stage(job, name, refits) | {"seconds": time.perf_counter() - began})
    influence = job.influence(job.fits.at(0))
    scores = influence.on_loss(job.test).removal[:, job.train.positions(job.removed)]
    tables = {
        "effects": _effects(job, scores, losses),
        "gaps": waterfall(outputs, losses, job.removed.tolist()),
        "stages": pd.DataFrame(stages),
    }
    if job.fits.objective.layout.total <= DENSE_PARAMETERS:
        tables |= _spectrum(job, influence)
    for frame in tables.values():
        frame.insert(0, "seed", job.fits.seeds[0])
    return CellResult(tables)


def _logits(outputs: Tensor | Moments) -> Tensor:
    values = outputs.mean if isinstance(outputs, Moments) else outputs
    return values.reshape(*values.shape[:3], -1)


def _describe_stage(job: AuditJob, name: str, refits: Refits) -> dict[str, object]:
    """How well a stage was computed, and how far its control drifted from the fit."""
    drift = control_drift(job.fits, refits, job.test, warn=False)
    minimised = name in ("proximal", "pbrf") or (name == "warm" and job.exact)
    return {
        "stage": name,
        "gradient_norm": float(refits.gradient_norms.max()),
        "unconverged": int((~refits.converged).sum()) if minimised else 0,
        "refits": refits.converged.numel(),
        "control_drift": float(drift.relative.median()),
        "drift_exceeds_effects": bool(drift.exceeds_effects.any()),
    }


def _effects(job: AuditJob, scores: Tensor, losses: dict[str, np.ndarray]) -> pd.DataFrame:
    tests, count = scores.shape
    columns = {
        "test": job.test.ids.repeat_interleave(count).numpy(),
        "example": job.removed.repeat(tests).numpy(),
        "estimated": scores.reshape(-1).numpy(),
    }
    changes = {name: (values[1:] - values[:1]).T.reshape(-1) for name, values in losses.items()}
    return pd.DataFrame(columns | changes)


def _spectrum(job: AuditJob, influence: Influence) -> dict[str, pd.DataFrame]:
    """Eigenvalues of the objective's Hessian and of the estimate's curvature, both in the metric of the damping."""
    problem = influence.problem
    root = (influence.damping.diagonal(problem.reduced) / job.delta).sqrt()
    whitened = influence.response.operator.dense() / torch.outer(root, root)
    eigenvalues, vectors = torch.linalg.eigh(whitened)
    eigenvalues = eigenvalues - job.delta
    hessian = HessianOperator(problem.reduced, problem.data).dense() / torch.outer(root, root)
    spectra = {"hessian": torch.linalg.eigvalsh(hessian), job.settings.curvature: eigenvalues}
    rows = [_describe_spectrum(name, values, job.delta) for name, values in spectra.items()]
    examples = (problem.gradients(problem.data.at(job.removed)) / root) @ vectors
    tests = (problem.gradients(problem.reduce(job.test)) / root) @ vectors
    parts = []
    for index, row in zip(job.test.ids.tolist(), tests, strict=True):
        found = spectral_attribution(eigenvalues.numpy(), row.numpy(), examples.numpy(), job.delta, len(job.train))
        parts.append(found.assign(test=index))
    lists = [pd.DataFrame({"matrix": name, "eigenvalue": values.numpy()}) for name, values in spectra.items()]
    return {
        "spectrum": pd.DataFrame(rows),
        "eigenvalues": pd.concat(lists, ignore_index=True),
        "attribution": pd.concat(parts, ignore_index=True),
    }


def _describe_spectrum(name: str, eigenvalues: Tensor, delta: float) -> dict[str, object]:
    """Both ends, trace, and the effective dimension sum lambda / (lambda + delta) over the positive eigenvalues."""
    positive = eigenvalues.clamp(min=0)
    return {
        "matrix": name,
        "parameters": len(eigenvalues),
        "largest": float(eigenvalues[-1]),
        "smallest": float(eigenvalues[0]),
        "negative": int((eigenvalues < -ROUNDING * eigenvalues[-1]).sum()),
        "trace": float(eigenvalues.sum()),
        "damping": delta,
        "effective_dimension": float((positive / (positive + delta)).sum()),
    }
