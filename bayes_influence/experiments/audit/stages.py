"""What an audit measures on one trained network: every stage between retraining and estimate, and the spectrum."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from bayes_influence.curvature.damping import Damping, FisherDamping, IdentityDamping
from bayes_influence.curvature.solvers.automatic import METHODS, solve
from bayes_influence.data.dataset import Dataset
from bayes_influence.evaluation.agreement import MIN_POINTS
from bayes_influence.evaluation.waterfall import waterfall
from bayes_influence.experiments.audit.spectrum import audit_spectrum
from bayes_influence.experiments.ground_truth.stored_refits import refit_arrays, refits_from
from bayes_influence.experiments.store.cells import CellResult, cell_key
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.influence.influence import Influence
from bayes_influence.moments.moments import Moments
from bayes_influence.objectives.head import has_head, head_objective, head_params, is_last_layer
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import RHO
from bayes_influence.objectives.reweighting import Removals
from bayes_influence.retraining.predicted import predicted_refits
from bayes_influence.retraining.problem import first_example, stacked_features
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
from bayes_influence.torch_internals import tree_map
from bayes_influence.training.fits import Fits
from bayes_influence.training.schedules import Schedule

logger = logging.getLogger(__name__)

REFITS = ("auto", "newton", "trained")
"""How networks are retrained from the fit."""

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
        refit_schedule: Of the retrainings from the fit, where they are trained.
        refits: How networks are retrained from the fit: "newton", to the minimum that Newton's method finds; "trained",
            on the schedule; "auto", the first for a regularised last layer, which is convex, and else the second. A
            last layer without regulariser has a minimum too, if no weights separate the classes.
        tolerance: Gradient norm to which proximal objective and PBRF are minimised.
        polish: Whether the selected parameters are brought to their minimum before anything else: then the audit is of
            the estimate, not of how far the training went.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    removals: int = 20
    damping: float | None = None
    curvature: str = "ggn"
    solver: str = "auto"
    refit_schedule: Schedule = field(default_factory=Schedule)
    refits: str = "auto"
    tolerance: float = 1e-8
    polish: bool = False

    def __post_init__(self) -> None:
        if self.removals < MIN_POINTS:
            raise ValueError(
                f"an audit needs at least {MIN_POINTS} removed examples for its correlations, got {self.removals}"
            )
        if self.damping is not None and not self.damping > 0:
            raise ValueError(f"the damping must be positive, got {self.damping}; leave it out for the automatic one")
        if self.curvature not in ("ggn", "hessian"):
            raise ValueError(f"curvature must be 'ggn' or 'hessian', got {self.curvature!r}")
        if self.refits not in REFITS:
            raise ValueError(f"refits must be one of {', '.join(REFITS)}, got {self.refits!r}")
        if self.solver not in METHODS:
            raise ValueError(f"unknown solver {self.solver!r}; known: {', '.join(METHODS)}")

    def influence(self, objective: Objective, train: Dataset, damping: str | Damping) -> Influence:
        """The estimate that is audited."""
        solver = self.solver if self.solver in INFLUENCE_SOLVERS else partial(solve, method=self.solver)
        return Influence(objective, train, curvature=self.curvature, solver=solver, damping=damping)


@dataclass(frozen=True, eq=False)
class AuditJob:
    """One network to be audited, reduced by `on_features`.

    Attributes:
        fits: The network, as fits of one seed.
        train: Its training examples.
        test: Test examples.
        removed: Ids of the examples that are removed one at a time.
        settings: How it is audited.
        delta: The damping, resolved.
        make_network: Builds the network for retraining from scratch, None to leave that stage out.
        schedule: Of the fit, for retraining from scratch.
        folder: Where finished stages are kept, so that a killed audit resumes at the next one; None to keep nothing.
    """

    fits: Fits
    train: Dataset
    test: Dataset
    removed: Tensor
    settings: AuditSettings
    delta: float
    make_network: Callable[[], nn.Module] | None = None
    schedule: Schedule | None = None
    folder: StudyFolder | None = None

    @property
    def damping(self) -> Damping:
        """The damping in the metric of the parameters that influence is taken in."""
        return damping_of(self.fits.objective, self.delta)

    @property
    def exact(self) -> bool:
        """Whether retraining goes to a minimum, by Newton's method."""
        convex = is_last_layer(self.fits.objective) and self.fits.scheme.regularised
        return self.settings.refits == "newton" or (self.settings.refits == "auto" and convex)

    def stages(self, influence: Influence) -> dict[str, Callable[[], Refits]]:
        """How every stage of the waterfall is computed, in their order; the last from the estimate itself."""
        settings, removed = self.settings, self.removed.unsqueeze(0)
        protocols: dict[str, RetrainingProtocol] = {}
        repeatable = not (self.fits.scheme.sampled and is_last_layer(self.fits.objective))
        if self.make_network is not None and self.schedule is not None and repeatable:
            protocols["cold"] = FromScratch(self.make_network, self.schedule)
        protocols["warm"] = Minimum() if self.exact else Warm(settings.refit_schedule)
        protocols["proximal"] = Proximal(self.damping, settings.tolerance)
        protocols["pbrf"] = ProximalBregman(self.damping, settings.tolerance)
        protocols["linear"] = LinearResponse(self.damping)
        stages: dict[str, Callable[[], Refits]] = {}
        for name, protocol in protocols.items():
            stages[name] = partial(protocol.refit, self.fits, self.train, removed)
        return stages | {"solver": partial(predicted_refits, self.fits, self.train, removed, lambda _: influence)}


def damping_of(objective: Objective, delta: float) -> Damping:
    """Delta in the parameters' own metric: the identity, or for variational parameters the Fisher information of q."""
    variational = any(name.endswith(RHO) for name in objective.names)
    return FisherDamping(delta) if variational else IdentityDamping(delta)


def on_features(fits: Fits, train: Dataset, test: Dataset) -> tuple[Fits, Dataset, Dataset]:
    """The last layer of one network and its features in float64, where that is what is audited; else what was given.

    The network then runs over the data once, in its own dtype.
    """
    if not has_head(fits.objective, first_example(fits.objective, train)):
        return fits, train, test
    objective, params = fits.objective, fits.params
    own = {name: value.double() for name, value in head_params(objective, params).items()}
    head = replace(fits, objective=head_objective(fits.at(0)).to(dtype=torch.float64), params=own)

    def featured(data: Dataset) -> Dataset:
        inputs = tree_map(lambda leaf: leaf[0], stacked_features(objective, params, data.inputs))
        return data.with_inputs(inputs).to(dtype=torch.float64)

    return head, featured(train), featured(test)


def measure_network(job: AuditJob) -> CellResult:
    """Every stage, the estimate and the spectrum of one network.

    Memory beside the data: for a last layer, its features and the outputs of all refits at every stage, 6 (k + 1) n C
    numbers.

    Returns:
        Tables `effects` (a row per test and removed example: the estimated change of the test loss and that at every
        stage), `gaps` (a row per removed example and gap), `stages` (a row per stage: convergence and drift), and
        those of `audit_spectrum`.
    """
    began = time.perf_counter()
    influence = job.settings.influence(job.fits.at(0), job.train, job.damping)
    scores = influence.on_loss(job.test).removal[:, job.train.positions(job.removed)]
    estimating = time.perf_counter() - began
    outputs, losses, stages = {}, {}, []
    for name, refit in job.stages(influence).items():
        refits, seconds = _stored(job, name, refit)
        outputs[name] = _logits(outputs_after(job.fits, refits, job.train))[0].numpy()
        losses[name] = losses_after(job.fits, refits, job.test)[0].numpy()
        seconds += estimating if name == "solver" else 0.0
        stages.append(_describe_stage(job, name, refits) | {"seconds": seconds})
    tables = {
        "effects": _effects(job, scores, losses),
        "gaps": waterfall(outputs, losses, job.removed.tolist()),
        "stages": pd.DataFrame(stages),
    }
    tables |= audit_spectrum(influence, job.settings.curvature, job.delta, job.train.at(job.removed), job.test)
    for frame in tables.values():
        frame.insert(0, "seed", job.fits.seeds[0])
    return CellResult(tables)


def _stored(job: AuditJob, stage: str, refit: Callable[[], Refits]) -> tuple[Refits, float]:
    """The refits of one stage, kept in the folder or fetched from it, and the seconds that they took."""
    key = cell_key(seed=job.fits.seeds[0], stage=stage)
    objective, removals = job.fits.objective, Removals.one_at_a_time(job.removed.unsqueeze(0))
    if job.folder is not None and job.folder.cell_done(key):
        held = {name: torch.as_tensor(array) for name, array in job.folder.load_cell(key).arrays.items()}
        return refits_from(held, objective, removals), float(held["seconds"])
    logger.info("seed %d: %s", job.fits.seeds[0], stage)
    began = time.perf_counter()
    refits = refit()
    seconds = time.perf_counter() - began
    if job.folder is not None:
        job.folder.save_cell(key, {}, refit_arrays(refits) | {"seconds": torch.tensor(seconds)})
    return replace(refits, objective=objective), seconds


def _logits(outputs: Tensor | Moments) -> Tensor:
    values = outputs.expectation if isinstance(outputs, Moments) else outputs
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
