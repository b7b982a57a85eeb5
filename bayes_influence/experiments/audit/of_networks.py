"""Can the estimate be trusted? Influence of trained networks next to real retraining, and where the two part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from bayes_influence.data.dataset import Dataset, check_dataset
from bayes_influence.data.fingerprint import fingerprint
from bayes_influence.experiments.audit.cell import measure_network
from bayes_influence.experiments.audit.jobs import audit_jobs, each_network, given_fits
from bayes_influence.experiments.audit.result import Audit, summarise_audit
from bayes_influence.experiments.audit.settings import AuditSettings
from bayes_influence.experiments.store.fingerprint import described, fingerprint_of_builder, identity_of_fits
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.store.runner import run_cells
from bayes_influence.objectives.objective import Objective
from bayes_influence.training.fits import Fits
from bayes_influence.training.schedules import Schedule


def audit(
    trained: Fits | Objective | Sequence[Fits],
    train: Dataset,
    test: Dataset,
    settings: AuditSettings | None = None,
    *,
    make_network: Callable[[], nn.Module] | None = None,
    schedule: Schedule | None = None,
    folder: str | Path | StudyFolder | None = None,
    n_jobs: int = 1,
    progress: bool = True,
) -> Audit:
    """Holds influence estimates of trained networks against real retraining, and says where the two part.

    Args:
        trained: Networks as `fit_schemes` returns them, one per seed; several such, where networks differ in more
            than their parameters (running statistics); or one objective at its fitted parameters.
        train: Their training examples.
        test: Test examples, whose losses are measured.
        settings: What is done.
        make_network: Builds the deterministic network, for retraining from scratch.
        schedule: That the networks were trained on, for retraining from scratch; without these two, retraining starts
            from the fit.
        folder: Where finished networks, and their finished stages, are stored, so that a killed audit resumes, and
            where tables go.
        n_jobs: Networks at once, in processes of their own; needs a folder.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If there are too few examples to remove, a loss is not finite, or the folder belongs to something
            else.
        FailedCellsError: If an audit of a network failed, after all others were stored.
    """
    check_dataset(train, "the training examples")
    check_dataset(test, "the test examples")
    networks = each_network(given_fits(trained, train) if isinstance(trained, Objective) else trained)
    settings = settings or AuditSettings()
    jobs = audit_jobs(networks, train, test, settings, make_network, schedule)
    if folder is None:
        return summarise_audit({key: measure_network(job) for key, job in jobs.items()}, jobs)
    if not isinstance(folder, StudyFolder):
        folder = StudyFolder(folder, audit_config(networks, train, test, settings, make_network, schedule))
    jobs = {key: replace(job, folder=folder) for key, job in jobs.items()}
    run_cells(jobs, measure_network, folder, n_jobs=n_jobs, progress=progress)
    found = summarise_audit({key: folder.load_cell(key) for key in jobs}, jobs)
    for name, frame in found.tables.items():
        folder.write_table(name, frame)
    folder.write_file("verdict.txt", "\n".join([found.verdict.sentence, *found.notes, ""]).encode())
    return found


def audit_config(
    networks: Sequence[Fits],
    train: Dataset,
    test: Dataset,
    settings: AuditSettings,
    make_network: Callable[[], nn.Module] | None = None,
    schedule: Schedule | None = None,
) -> dict[str, Any]:
    """What identifies an audit: its settings, and a fingerprint of networks and data."""
    again = None
    if make_network is not None and schedule is not None:
        again = {"network": fingerprint_of_builder(make_network), "schedule": described(schedule)}
    return {
        "study": "audit",
        "scheme": networks[0].scheme.name,
        "seeds": [fits.seeds[0] for fits in networks],
        "parameters": list(networks[0].objective.names),
        "test": test.ids.tolist(),
        "settings": described(settings),
        "retraining": again,
        "fingerprint": fingerprint(networks=[identity_of_fits(fits) for fits in networks], train=train, test=test),
    }
