"""The command `audit`: train a scheme on a table of numbers, or take a finished run, and audit its estimates."""

from __future__ import annotations

from dataclasses import replace
from os import cpu_count
from pathlib import Path
from typing import Any

import torch

from bayes_influence.data.dataset import Dataset
from bayes_influence.experiments.audit.audit import Audit, audit, audit_config, given_fits
from bayes_influence.experiments.audit.report import audit_figure
from bayes_influence.experiments.audit.stages import AuditSettings
from bayes_influence.experiments.comparison.compare import resolve_test_example
from bayes_influence.experiments.comparison.figures import save_figure
from bayes_influence.experiments.comparison.study import Study
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.training.run import load_trained
from bayes_influence.objectives.head import is_last_layer
from bayes_influence.retraining.removals import largest_losses
from bayes_influence.training.fits import Fits, fit_schemes
from bayes_influence.training.minibatch import Trained
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
        selection=study.parameters,
        tolerance=tolerance,
        progress=progress,
    )
    return fits


def audit_run(
    run: str | Path,
    out: str | Path,
    settings: AuditSettings,
    *,
    parameters: str = "last-layer",
    tests: int = 5,
    data_folder: str | Path | None = None,
    n_jobs: int | None = None,
    progress: bool = True,
) -> tuple[Audit, StudyFolder]:
    """Audits the networks of a finished training run on the test examples that the first of them predicts worst.

    In float64 behind the feature map, whatever they were trained in. Retraining starts from the networks as they are
    (or, with `settings.polish`, from the minimum nearest to them); in a regularised last layer it is exact.

    Args:
        run: Folder of the run.
        out: The result folder; created, or continued if it holds the same audit.
        settings: What is done.
        parameters: Where influence is taken, a selection of `select_names`.
        tests: How many test examples.
        data_folder: Where image sets are kept.
        n_jobs: Networks at once; as many as there are cores, when not given.
        progress: Whether to show progress bars.

    Raises:
        FileNotFoundError: If the folder holds no run.
        ValueError: If the run is not finished, or a setting is out of range.
    """
    trained, split, config = load_trained(run, data_folder=data_folder)
    networks = _networks_of_run(trained, split.train, config, parameters)
    first = networks[0].at(0)
    hardest = split.test.at(largest_losses(first, split.test, min(tests, len(split.test)))).to(dtype=torch.float64)
    # A last layer's examples are its features, which become float64 when they have been computed.
    train = split.train if is_last_layer(first) else split.train.to(dtype=torch.float64)
    identity = {**audit_config(networks, train, hardest, settings), "run": config}
    folder = StudyFolder(out, identity)
    jobs = n_jobs or min(cpu_count() or 1, len(networks))
    found = audit(networks, train, hardest, settings, folder=folder, n_jobs=jobs, progress=progress)
    title = f"{config['dataset']}, {config['network']}, {config['scheme']}, {parameters}"
    save_figure(audit_figure(found, title), folder, "figure")
    return found, folder


def _networks_of_run(trained: Trained, train: Dataset, config: dict[str, Any], parameters: str) -> list[Fits]:
    """One fit per seed, with the parameters and running statistics of its own.

    In float64 but for a last layer: its feature map stays in the dtype that it was trained in.
    """
    networks = []
    for index, seed in enumerate(config["seeds"]):
        objective = replace(trained.at(index), selection=parameters)
        objective = objective if is_last_layer(objective) else objective.double()
        networks.append(given_fits(objective, train, seeds=[seed], name=config["scheme"], measured=False))
    return networks
