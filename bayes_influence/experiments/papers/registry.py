"""The registry: every study of a paper, by name. A new file of studies is one line in `FILES`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from bayes_influence.data.download import data_folder
from bayes_influence.experiments.papers.study import PaperStudy, Reproduced
from bayes_influence.experiments.store.runner import workers

FILES = (
    "fragility.iris",
    "fragility.images",
    "fragility.curves",
    "fragility.ablation",
    "fragility.ablation_images",
    "fragility.refit_length",
    "fragility.all_layers",
    "fragility.training_recipe",
    "fragility.everything",
    "groups.logistic",
    "groups.selection",
    "groups.network",
    "understanding.loo_logistic",
    "understanding.loo_cnn",
    "understanding.smooth_hinge",
    "understanding.two_models",
    "understanding.mislabelled",
    "understanding.training_attack",
    "understanding.domain_mismatch",
)
"""Modules of this room that have `STUDIES`."""


def paper_studies() -> dict[str, PaperStudy]:
    """All studies by name, in the order of the registry.

    Raises:
        ValueError: If two have one name.
    """
    found: dict[str, PaperStudy] = {}
    for file in FILES:
        for study in import_module(f"{__package__}.{file}").STUDIES:
            if study.name in found:
                raise ValueError(f"two studies are called {study.name!r}; every name needs to be its own")
            found[study.name] = study
    return found


def reproduce(
    name: str,
    options: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    *,
    n_jobs: int | None = None,
    backend: str | None = None,
    progress: bool = True,
) -> Reproduced:
    """Does a study of a paper again.

    Args:
        name: Of the study, a key of `paper_studies`.
        options: Settings that are to be others than the study's, see `PaperStudy.options`.
        out: The result folder, created or continued; the study's own when not given.
        n_jobs: Cells at once; as many as there are cores, when not given.
        backend: What they run on, see `workers`.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If there is no such study, it has no such option, or as the study does.
        FileNotFoundError: If the folder in which data sets are kept does not exist.
    """
    studies = paper_studies()
    if name not in studies:
        raise ValueError(f"unknown study {name!r}; known: {', '.join(studies)}")
    study = studies[name]
    changes = dict(options or {})
    unknown = [option for option in changes if option not in study.options]
    if unknown:
        raise ValueError(f"{name} has no option {unknown[0]!r}; it has {', '.join(study.options)}")
    if changes.get("data_folder") is not None:
        data_folder(changes["data_folder"])
    with workers(backend):
        return study.run(replace(study.settings, **changes), out or study.folder, n_jobs, progress)
