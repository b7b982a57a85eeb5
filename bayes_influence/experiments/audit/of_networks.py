"""Can the estimate be trusted? Influence of trained networks next to real retraining, and where the two part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from bayes_influence.arguments import shown
from bayes_influence.curvature.cost import tell
from bayes_influence.data.dataset import Dataset, check_dataset
from bayes_influence.data.fingerprint import fingerprint
from bayes_influence.experiments.audit.cell import measure_network
from bayes_influence.experiments.audit.jobs import audit_jobs, audit_plan
from bayes_influence.experiments.audit.result import Audit, summarise_audit
from bayes_influence.experiments.audit.settings import AuditSettings
from bayes_influence.experiments.store.fingerprint import described, fingerprint_of_builder, identity_of_members
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.store.runner import run_cells
from bayes_influence.objectives.members import Members
from bayes_influence.objectives.objective import Objective
from bayes_influence.retraining.from_scratch import FromScratch


def audit(
    trained: Members | Objective,
    train: Dataset,
    test: Dataset,
    settings: AuditSettings | None = None,
    *,
    cold: FromScratch | None = None,
    folder: str | Path | StudyFolder | None = None,
    n_jobs: int = 1,
    progress: bool = True,
) -> Audit:
    """Holds influence estimates of trained networks against real retraining, and says where the two part.

    Args:
        trained: Networks at their fitted parameters: as `fit_schemes` returns them, a stack of others' making, or the
            objective of a single one.
        train: Their training examples.
        test: Test examples, whose losses are measured.
        settings: What is done.
        cold: Retraining from scratch; without it, retraining starts from the fit.
        folder: Where finished networks, and their finished stages, are stored, so that a killed audit resumes, and
            where tables go.
        n_jobs: Networks at once, in processes of their own; needs a folder.
        progress: Whether to show a progress bar.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If there are too few examples to remove, a loss is not finite, or the folder belongs to something
            else.
        TooLargeError: If the outputs of all refits of a network do not fit.
        FailedCellsError: If an audit of a network failed, after all others were stored.
    """
    check_dataset(train, "the training examples")
    check_dataset(test, "the test examples")
    members = Members.of(trained)
    if not isinstance(settings, AuditSettings | None):
        raise TypeError(f"settings must be AuditSettings(...), got {shown(settings)}; leave them out for its defaults")
    settings = settings or AuditSettings()
    jobs = audit_jobs(members, train, test, settings, cold)
    plan = audit_plan(jobs)
    plan.check(members.objective.device)
    if folder is None:
        measured = {key: measure_network(job) for key, job in plan.timed(jobs.items(), len(jobs))}
        return summarise_audit(measured, jobs)
    if not isinstance(folder, StudyFolder):
        folder = StudyFolder(folder, audit_config(members, train, test, settings, cold))
    jobs = {key: replace(job, folder=folder) for key, job in jobs.items()}
    if progress:
        tell(str(plan))
    run_cells(jobs, measure_network, folder, n_jobs=n_jobs, progress=progress, plan=plan)
    found = summarise_audit({key: folder.load_cell(key) for key in jobs}, jobs)
    for name, frame in found.tables.items():
        folder.write_table(name, frame)
    folder.write_file("verdict.txt", "\n".join([found.verdict.sentence, *found.notes, *found.polished, ""]).encode())
    return found


def audit_config(
    members: Members, train: Dataset, test: Dataset, settings: AuditSettings, cold: FromScratch | None
) -> dict[str, Any]:
    """What identifies an audit: its settings, and a fingerprint of networks and data."""
    objective, again = members.objective, None
    if cold is not None:
        again = {"network": fingerprint_of_builder(cold.make_network), "schedule": described(cold.schedule)}
    return {
        "study": "audit",
        "labels": list(members.labels),
        "seeds": list(members.seeds),
        "parameters": list(objective.names),
        "test": test.ids.tolist(),
        "settings": described(settings),
        "retraining": again,
        "fingerprint": fingerprint(networks=identity_of_members(members), train=train, test=test),
    }
