"""`compare`: schemes side by side on any network and data set, as objects in Python."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from bayes_influence.arguments import shown
from bayes_influence.data.dataset import Dataset, check_dataset
from bayes_influence.data.fingerprint import fingerprint
from bayes_influence.data.own_rows import usual_epochs
from bayes_influence.data.tables import Rows
from bayes_influence.experiments.comparison.cell import measure_networks
from bayes_influence.experiments.comparison.networks import TOLERANCE, ComparedNetworks, refit_schedule
from bayes_influence.experiments.comparison.regularisers import draw_comparison
from bayes_influence.experiments.comparison.result import TABLES, Comparison, gathered
from bayes_influence.experiments.store.cells import cell_key
from bayes_influence.experiments.store.fingerprint import described, fingerprint_of_builder
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.store.runner import run_cells
from bayes_influence.experiments.store.settings import Settings
from bayes_influence.experiments.training.settings import usual_rate, usual_scheme_options
from bayes_influence.objectives.reweighting import largest_losses
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.minibatch_schedule import MinibatchSchedule
from bayes_influence.training.prepared import built_network
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.scheme import Scheme
from bayes_influence.training.schemes import DEFAULT_SCHEMES, SCHEMES, check_builder, check_schemes, find_schemes
from bayes_influence.training.usual_moments import usual_moments


@dataclass(frozen=True)
class CompareSettings(Settings):
    """What a comparison does.

    Attributes:
        seeds: One network each and per scheme.
        parameters: Where influence is taken: "last-layer" or "all".
        removals: Training examples of largest loss that are removed one at a time.
        refit_epochs: Steps of a refit where Newton's method does not apply, see `Study`.
        test_example: Id of the test example; the one that is predicted worst when not given.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    parameters: str = "last-layer"
    removals: int = 40
    refit_epochs: int | None = None
    test_example: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_known(parameters=("last-layer", "all"))
        self.check_at_least(refit_epochs=1)
        if not self.seeds or len(set(self.seeds)) != len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds must be one or more different numbers from 0 on, got {self.seeds}")


def compare(
    make_network: Callable[[], nn.Module],
    train: Dataset,
    test: Dataset,
    schemes: Sequence[str | Scheme] = DEFAULT_SCHEMES,
    settings: CompareSettings | None = None,
    *,
    schedule: Schedule | MinibatchSchedule | None = None,
    folder: str | Path | None = None,
    n_jobs: int = 1,
    progress: bool = True,
) -> Comparison:
    """Compares regularisation schemes on one network: influence estimates against retraining, and the spectrum.

    Everything is in float64. Where the last layer is a problem of its own with a regulariser, networks are polished to
    its minimum and retraining is exact; the result says which truth each estimate was held against.

    Args:
        make_network: Builds the deterministic network, for the data at every call.
        train: Training examples; targets are class indices, labels of 0 and 1, or real numbers.
        test: Test examples, on which accuracy is reported; influence is on the loss of one of them.
        schemes: Names, with the numbers that they have in training in minibatches, or schemes as they are.
        settings: What is done.
        schedule: Of training; in minibatches, as `bayes-influence train` has it, when not given.
        folder: Where finished schemes are stored, so that a killed comparison resumes, and where tables and figures go.
        n_jobs: Schemes at once, in processes of their own; needs a folder.
        progress: Whether to show progress bars.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If a scheme is unknown, there are fewer training examples than are to be removed, or the folder
            belongs to something else.
        FailedCellsError: If a scheme failed, after all others were stored.
    """
    check_builder(make_network)
    check_dataset(train, "the training examples")
    check_dataset(test, "the test examples")
    if not isinstance(settings, CompareSettings | None):
        raise TypeError(
            f"settings must be CompareSettings(...), got {shown(settings)}; leave them out for its defaults"
        )
    settings = settings or CompareSettings()
    asked = _resolved_schemes(schemes, make_network, train)
    train, test = train.to(dtype=torch.float64), test.to(dtype=torch.float64)
    example = settings.test_example
    if example is None:
        example = _worst_predicted(make_network, train, test, asked[0], settings.seeds[0], schedule)
    cells = {
        cell_key(scheme=scheme.name): ComparedNetworks(
            [scheme],
            make_network,
            train,
            test,
            example,
            settings.seeds,
            schedule or usual_schedule(len(train), bayesian=scheme.bayesian),
            settings.parameters,
            settings.removals,
            refit_schedule(settings.refit_epochs, len(train)),
            tolerance=TOLERANCE if settings.parameters == "last-layer" else None,
        )
        for scheme in asked
    }
    names = [scheme.name for scheme in asked]
    if folder is None:
        measured = [measure_networks(cell, progress=progress).tables for cell in cells.values()]
        tables = {name: pd.concat([own[name] for own in measured], ignore_index=True) for name in TABLES}
        return gathered(tables, names, example)
    config = _config(cells, settings, train, test)
    stored = StudyFolder(folder, config)
    run_cells(cells, partial(measure_networks, progress=False), stored, n_jobs=n_jobs, progress=progress)
    tables = {name: stored.table(name, list(cells)) for name in TABLES}
    result = gathered(tables, names, example, stored)
    draw_comparison(result, stored, f"{train.name}, test example {example}")
    return result


def usual_schedule(examples: int, *, bayesian: bool) -> MinibatchSchedule:
    """How `bayes-influence train` trains on so many examples when nothing is said.

    Args:
        examples: Training examples.
        bayesian: Whether a Bayesian network is trained.
    """
    return MinibatchSchedule(usual_epochs(examples), Rows.batch_size, usual_rate(bayesian), decay="cosine")


def _resolved_schemes(
    schemes: Sequence[str | Scheme], make_network: Callable[[], nn.Module], train: Dataset
) -> list[Scheme]:
    """Schemes by name for what network and targets are, and others as they are."""
    if isinstance(schemes, str) or not isinstance(schemes, Sequence):
        raise TypeError(f"schemes must be a list of names or schemes, such as ['none', 'bnn'], got {shown(schemes)}")
    task, count = task_of(train)
    rows = train.example.inputs
    on_table = isinstance(rows, Tensor) and rows.is_floating_point() and rows.ndim == 2
    moments = usual_moments(built_network(make_network), on_table=on_table)
    usual = usual_scheme_options(moments)
    found: list[Any] = []
    for scheme in schemes:
        if isinstance(scheme, str):
            (known,) = find_schemes([scheme], SCHEMES[scheme].own(usual) if scheme in SCHEMES else {})
            found.append(known.suited(task, count))
        else:
            found.append(scheme)
    check_schemes(found)
    return found


def task_of(train: Dataset) -> tuple[str, int]:
    """What targets say is predicted, and how many numbers or labels of an example.

    Class indices are whole numbers; real numbers that are all 0 or 1 are labels.

    Args:
        train: Training examples.
    """
    targets = train.targets
    if not targets.is_floating_point():
        return "classification", 1
    return "labels" if bool(((targets == 0) | (targets == 1)).all()) else "regression", targets[0].numel()


def _worst_predicted(
    make_network: Callable[[], nn.Module],
    train: Dataset,
    test: Dataset,
    scheme: Scheme,
    seed: int,
    schedule: Schedule | MinibatchSchedule | None,
) -> int:
    """Id of the test example with the largest loss, under the first scheme from the first seed."""
    schedule = schedule or usual_schedule(len(train), bayesian=scheme.bayesian)
    (fit,) = fit_schemes([scheme], make_network, train, [seed], schedule, tolerance=None)
    return int(largest_losses(fit.at(0), test, 1))


def _config(
    cells: dict[str, ComparedNetworks], settings: CompareSettings, train: Dataset, test: Dataset
) -> dict[str, Any]:
    """What identifies a comparison: its settings, and a fingerprint of networks and data."""
    first = next(iter(cells.values()))
    return {
        "study": "compare",
        "settings": settings.to_config(),
        "schemes": [described(cell.schemes[0]) for cell in cells.values()],
        "schedules": [described(cell.schedule) for cell in cells.values()],
        "test_example": first.example,
        "network": fingerprint_of_builder(first.make_network),
        "fingerprint": fingerprint(train=train, test=test),
    }
