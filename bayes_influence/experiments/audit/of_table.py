"""Trains a scheme on a table of numbers and audits its estimates."""

from __future__ import annotations

from os import cpu_count
from pathlib import Path

from bayes_influence.data.dataset import Dataset
from bayes_influence.experiments.audit.of_networks import audit
from bayes_influence.experiments.audit.report import audit_figure
from bayes_influence.experiments.audit.result import Audit
from bayes_influence.experiments.audit.settings import AuditedTable, AuditSettings
from bayes_influence.experiments.store.figures import save_figure
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.retraining.from_scratch import FromScratch
from bayes_influence.training.fits import Fits, fit_schemes
from bayes_influence.training.schedules import Schedule


def audit_table(
    table: AuditedTable,
    out: str | Path,
    settings: AuditSettings | None = None,
    *,
    n_jobs: int | None = None,
    progress: bool = True,
) -> tuple[Audit, StudyFolder]:
    """Trains one scheme from several seeds and audits its influence estimates on the table's test example.

    A last layer with a regulariser is polished to its minimum, and its retraining is exact. All other networks are
    audited as the schedule left them, unless `settings.polish` says otherwise.

    Writes one table per part of the audit, `verdict.txt`, `figure.png`, `figure.pdf` and `config.json`. Networks are
    stored as they finish: the same call on the same folder continues where it was killed.

    Args:
        table: Data, network, scheme and seeds.
        out: The result folder; created, or continued if it holds the same audit.
        settings: What is done.
        n_jobs: Networks at once; as many as there are cores, when not given.
        progress: Whether to show progress bars.

    Returns:
        The audit, and the folder that holds it.

    Raises:
        ValueError: If there are fewer training examples than are to be removed, or the folder belongs to another audit.
        FailedCellsError: If a network could not be audited, after all others were stored.
    """
    settings = settings or AuditSettings()
    others = len(table.raw_data()) - 1
    if settings.removals >= others:
        raise ValueError(
            f"{table.dataset} has {others} training examples beside the test example, of which at most {others - 1} "
            f"can be removed; got removals={settings.removals}"
        )
    folder = StudyFolder(out, {"study": "audit", **table.configuration(), "settings": settings.to_config()})
    table = table.resolved(folder, progress=progress)
    split = table.split()
    fits = _fitted(table, split.train, progress)
    cold = FromScratch(fits.scheme, table.make_network, Schedule(table.epochs))
    found = audit(
        fits,
        split.train,
        split.test,
        settings,
        cold=cold,
        folder=folder,
        n_jobs=n_jobs or min(cpu_count() or 1, table.repeats),
        progress=progress,
    )
    title = f"{table.dataset}, {table.scheme}, {table.title}, {table.parameters}, test example {table.test_example}"
    save_figure(audit_figure(found, title), folder, "figure")
    return found, folder


def _fitted(table: AuditedTable, train: Dataset, progress: bool) -> Fits:
    """The networks; cheap enough, and reproducible, to be trained again when an audit resumes."""
    tolerance = 1e-10 if table.parameters == "last-layer" else None
    (fits,) = fit_schemes(
        [table.resolved_scheme()],
        table.make_network,
        train,
        table.seeds,
        Schedule(table.epochs),
        parameters=table.parameters,
        tolerance=tolerance,
        progress=progress,
    )
    return fits
