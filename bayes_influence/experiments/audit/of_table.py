"""Trains a scheme on a table of numbers and audits its estimates."""

from __future__ import annotations

from dataclasses import replace
from os import cpu_count
from pathlib import Path

from bayes_influence.data.dataset import Dataset
from bayes_influence.experiments.audit.of_networks import audit
from bayes_influence.experiments.audit.report import audit_figure
from bayes_influence.experiments.audit.result import Audit
from bayes_influence.experiments.audit.settings import AuditSettings
from bayes_influence.experiments.comparison.figures import save_figure
from bayes_influence.experiments.comparison.regularisers import resolve_test_example
from bayes_influence.experiments.comparison.study import Study
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.training.fits import Fits, fit_schemes
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.schemes import find_schemes


def audit_study(
    study: Study,
    out: str | Path,
    *,
    damping: float | None = None,
    curvature: str = "ggn",
    solver: str = "auto",
    refits: str = "auto",
    n_jobs: int | None = None,
    progress: bool = True,
) -> tuple[Audit, StudyFolder]:
    """Trains one scheme from several seeds and audits its influence estimates on the study's test example.

    A last layer with a regulariser is polished to its minimum, and its retraining is exact. All other networks are
    audited as the schedule left them.

    Writes one table per part of the audit, `verdict.txt`, `figure.png`, `figure.pdf` and `config.json`. Networks are
    stored as they finish: the same call on the same folder continues where it was killed.

    Args:
        study: Data, network, scheme (one), seeds and removals.
        out: The result folder; created, or continued if it holds the same audit.
        damping: As in `AuditSettings`.
        curvature: As in `AuditSettings`.
        solver: As in `AuditSettings`.
        refits: As in `AuditSettings`.
        n_jobs: Networks at once; as many as there are cores, when not given.
        progress: Whether to show progress bars.

    Returns:
        The audit, and the folder that holds it.

    Raises:
        ValueError: If the study has several schemes, a setting is out of range, or the folder belongs to another audit.
        FailedCellsError: If a network could not be audited, after all others were stored.
    """
    if len(study.schemes) != 1:
        raise ValueError(f"an audit takes one scheme, got {', '.join(study.schemes)}")
    settings = AuditSettings(study.removals, damping, curvature, solver, Schedule(study.refit_epochs), refits)
    own = {"damping": damping, "curvature": curvature, "solver": solver, "refits": refits}
    folder = StudyFolder(out, {"study": "audit", **study.to_config(), **own})
    example = resolve_test_example(study, folder, progress=progress)
    split = replace(study, test_example=example).split()
    found = audit(
        _fitted(study, split.train, progress),
        split.train,
        split.test,
        settings,
        make_network=study.make_network,
        schedule=Schedule(study.epochs),
        folder=folder,
        n_jobs=n_jobs or min(cpu_count() or 1, study.repeats),
        progress=progress,
    )
    network = f"{study.depth} x {study.width} {study.activation}"
    title = f"{study.dataset}, {study.schemes[0]}, {network}, {study.parameters}, test example {example}"
    save_figure(audit_figure(found, title), folder, "figure")
    return found, folder


def _fitted(study: Study, train: Dataset, progress: bool) -> Fits:
    """The networks; cheap enough, and reproducible, to be trained again when an audit resumes."""
    (scheme,) = find_schemes(study.schemes)
    tolerance = 1e-10 if study.parameters == "last-layer" else None
    (fits,) = fit_schemes(
        [scheme],
        study.make_network,
        train,
        study.seeds,
        Schedule(study.epochs),
        parameters=study.parameters,
        tolerance=tolerance,
        progress=progress,
    )
    return fits
