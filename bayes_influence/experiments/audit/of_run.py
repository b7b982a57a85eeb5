"""Audits the estimates of a finished training run."""

from __future__ import annotations

from pathlib import Path

from bayes_influence.experiments.audit.of_networks import audit, audit_config
from bayes_influence.experiments.audit.report import audit_figure
from bayes_influence.experiments.audit.result import Audit
from bayes_influence.experiments.audit.settings import AuditSettings
from bayes_influence.experiments.store.drawings import Drawing
from bayes_influence.experiments.store.figures import save_figure
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.store.runner import jobs_at_once
from bayes_influence.experiments.training.run import load_trained
from bayes_influence.objectives.members import Members
from bayes_influence.objectives.reweighting import largest_losses


def audit_run(
    run: str | Path,
    out: str | Path,
    settings: AuditSettings,
    *,
    parameters: str = "last-layer",
    tests: int = 5,
    data_folder: str | Path | None = None,
    device: str | None = None,
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
        device: Where it is computed; where the run was trained when not given.
        n_jobs: Networks at once; as many as there are cores, when not given.
        progress: Whether to show progress bars.

    Raises:
        FileNotFoundError: If the folder holds no run.
        ValueError: If the run is not finished, or a setting is out of range.
    """
    trained, split, config = load_trained(run, data_folder=data_folder, device=device)
    if not 1 <= tests <= len(split.test):
        raise ValueError(f"tests must lie in 1..{len(split.test)}, the number of the run's test examples, got {tests}")
    seeds = config["seeds"]
    labels = [f"{config['scheme']}, seed {seed}" for seed in seeds]
    networks = Members.of([trained.at(index).taking(parameters) for index in range(len(seeds))], labels, seeds)
    hardest = split.test.at(largest_losses(networks.at(0), split.test, tests))
    identity = {**audit_config(networks, split.train, hardest, settings, None), "run": config}
    folder = StudyFolder(out, identity)
    jobs = jobs_at_once(len(networks), n_jobs)
    found = audit(networks, split.train, hardest, settings, folder=folder, n_jobs=jobs, progress=progress)
    title = f"{split.train.name}, {config['network']}, {config['scheme']}, {parameters}"
    save_figure(Drawing(audit_figure, (found, title)), folder, "figure")
    return found, folder
