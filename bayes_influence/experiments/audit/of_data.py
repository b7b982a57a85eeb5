"""Trains a scheme on a data set and audits its estimates."""

from __future__ import annotations

from pathlib import Path

from bayes_influence.data.dataset import Dataset
from bayes_influence.experiments.audit.of_networks import audit
from bayes_influence.experiments.audit.report import audit_figure
from bayes_influence.experiments.audit.result import Audit
from bayes_influence.experiments.audit.settings import AuditedData, AuditSettings
from bayes_influence.experiments.store.drawings import Drawing
from bayes_influence.experiments.store.figures import save_figure
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.store.runner import jobs_at_once
from bayes_influence.objectives.reweighting import largest_losses
from bayes_influence.retraining.from_scratch import FromScratch
from bayes_influence.training.fits import Fits, fit_schemes


def audit_data(
    data: AuditedData,
    out: str | Path,
    settings: AuditSettings | None = None,
    *,
    n_jobs: int | None = None,
    progress: bool = True,
) -> tuple[Audit, StudyFolder]:
    """Trains one scheme from several seeds and audits its influence estimates on the data's test examples.

    A last layer with a regulariser is polished to its minimum, and its retraining is exact. All other networks are
    audited as the schedule left them, unless `settings.polish` says otherwise.

    Writes one table per part of the audit, `verdict.txt`, `figure.png`, `figure.pdf` and `config.json`. Networks are
    stored as they finish: the same call on the same folder continues where it was killed.

    Args:
        data: Data, network, scheme and seeds.
        out: The result folder; created, or continued if it holds the same audit.
        settings: What is done.
        n_jobs: Networks at once; as many as there are cores, when not given.
        progress: Whether to show progress bars.

    Returns:
        The audit, and the folder that holds it.

    Raises:
        ValueError: If there are fewer training examples than are to be removed, fewer test examples than asked for, or
            the folder belongs to another audit.
        FailedCellsError: If a network could not be audited, after all others were stored.
    """
    settings = settings or AuditSettings()
    count = data.n_train()
    if settings.removals >= count:
        raise ValueError(
            f"{data.data_name} has {count} training examples, of which at most {count - 1} can be removed; got "
            f"removals={settings.removals}"
        )
    folder = StudyFolder(out, {"study": "audit", **data.configuration(), "settings": settings.to_config()})
    if data.full_batch:
        data = data.resolved(folder, progress=progress)
    split = data.split()
    fits = _fitted(data, split.train, progress)
    tests = _tests(data, fits, split.test)
    scheme = fits.scheme
    cold = FromScratch(scheme, data.builder(split.train), data.schedule(bayesian=scheme.bayesian))
    found = audit(
        fits,
        split.train,
        tests,
        settings,
        cold=cold,
        folder=folder,
        n_jobs=jobs_at_once(data.repeats, n_jobs),
        progress=progress,
    )
    named = f"test example{'s' * (len(tests) > 1)} {', '.join(map(str, tests.ids.tolist()))}"
    title = f"{data.data_name}, {data.scheme}, {data.title}, {data.parameters}, {named}"
    save_figure(Drawing(audit_figure, (found, title)), folder, "figure")
    return found, folder


def _tests(data: AuditedData, fits: Fits, test: Dataset) -> Dataset:
    """The test examples that are measured: the one that is named or left out, or those that are predicted worst."""
    if data.test_example is not None:
        return test.at(data.test_example)
    if data.tests > len(test):
        raise ValueError(f"tests must lie in 1..{len(test)}, the number of test examples, got {data.tests}")
    return test.at(largest_losses(fits.at(0), test, data.tests))


def _fitted(data: AuditedData, train: Dataset, progress: bool) -> Fits:
    """The networks; cheap enough, and reproducible, to be trained again when an audit resumes."""
    scheme = data.resolved_scheme()
    (fits,) = fit_schemes(
        [scheme],
        data.builder(train),
        train,
        data.seeds,
        data.schedule(bayesian=scheme.bayesian),
        parameters=data.parameters,
        tolerance=1e-10 if data.parameters == "last-layer" else None,
        progress=progress,
    )
    return fits
