"""What an audit measures on one trained network: every stage between retraining and estimate, and the spectrum."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bayes_influence.evaluation.waterfall import waterfall
from bayes_influence.experiments.audit.ground_truth.stored_refits import refit_arrays, refits_from
from bayes_influence.experiments.audit.jobs import AuditJob
from bayes_influence.experiments.audit.spectrum import audit_spectrum
from bayes_influence.experiments.store.cells import CellResult, cell_key
from bayes_influence.moments.arithmetic import mean_of
from bayes_influence.moments.moments import Moments
from bayes_influence.objectives.reduction import reduce
from bayes_influence.objectives.reweighting import Removals
from bayes_influence.retraining.refits import Refits, control_drift, losses_after, outputs_after

logger = logging.getLogger(__name__)


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
    influence = job.settings.influence(job.members.at(0), job.train, job.delta)
    scores = influence.on_loss(job.test).removal[:, job.train.positions(job.removed)]
    estimating = time.perf_counter() - began
    outputs, losses, stages = {}, {}, []
    for name, refit in job.stages(influence).items():
        refits, seconds = _stored(job, name, refit)
        outputs[name] = _logits(outputs_after(refits, job.train))[0].numpy()
        losses[name] = losses_after(refits, job.test)[0].numpy()
        seconds += estimating if name == "solver" else 0.0
        stages.append(_describe_stage(job, name, refits) | {"seconds": seconds})
    tables = {
        "effects": _effects(job, scores, losses),
        "gaps": waterfall(outputs, losses, job.removed.tolist()),
        "stages": pd.DataFrame(stages),
    }
    tables |= audit_spectrum(influence, job.settings.curvature, job.delta, job.train.at(job.removed), job.test)
    for frame in tables.values():
        frame.insert(0, "seed", job.seed)
    return CellResult(tables)


def _stored(job: AuditJob, stage: str, refit: Callable[[], Refits]) -> tuple[Refits, float]:
    """The refits of one stage, kept in the folder or fetched from it, and the seconds that they took."""
    key = cell_key(seed=job.seed, stage=stage)
    if job.folder is not None and job.folder.cell_done(key):
        held = {name: torch.as_tensor(array) for name, array in job.folder.load_cell(key).arrays.items()}
        removals = Removals.one_at_a_time(job.removed.unsqueeze(0))
        return refits_from(held, reduce(job.members, job.train), removals), float(held["seconds"])
    logger.info("seed %d: %s", job.seed, stage)
    began = time.perf_counter()
    refits = refit()
    seconds = time.perf_counter() - began
    if job.folder is not None:
        job.folder.save_cell(key, {}, refit_arrays(refits) | {"seconds": torch.tensor(seconds)})
    return refits, seconds


def _logits(outputs: Tensor | Moments) -> Tensor:
    values = mean_of(outputs)
    return values.reshape(*values.shape[:3], -1)


def _describe_stage(job: AuditJob, name: str, refits: Refits) -> dict[str, object]:
    """How well a stage was computed, and how far its control drifted from the fit."""
    drift = control_drift(refits, job.test, warn=False)
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
