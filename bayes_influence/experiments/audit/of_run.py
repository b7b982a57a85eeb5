"""Audits the estimates of a finished training run."""

from __future__ import annotations

from dataclasses import replace
from os import cpu_count
from pathlib import Path
from typing import Any

import torch

from bayes_influence.data.dataset import Dataset
from bayes_influence.experiments.audit.jobs import given_fits
from bayes_influence.experiments.audit.of_networks import audit, audit_config
from bayes_influence.experiments.audit.report import audit_figure
from bayes_influence.experiments.audit.result import Audit
from bayes_influence.experiments.audit.settings import AuditSettings
from bayes_influence.experiments.store.figures import save_figure
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.training.run import load_trained
from bayes_influence.objectives.head import is_last_layer
from bayes_influence.objectives.reweighting import largest_losses
from bayes_influence.training.fits import Fits
from bayes_influence.training.minibatch import Trained


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
        parameters: Where influence is taken, see `select_names`.
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
    if not 1 <= tests <= len(split.test):
        raise ValueError(f"tests must lie in 1..{len(split.test)}, the number of the run's test examples, got {tests}")
    hardest = split.test.at(largest_losses(first, split.test, tests)).to(dtype=torch.float64)
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
        objective = replace(trained.at(index), parameters=parameters)
        objective = objective if is_last_layer(objective) else objective.to(dtype=torch.float64)
        networks.append(given_fits(objective, train, seeds=[seed], name=config["scheme"], measured=False))
    return networks
