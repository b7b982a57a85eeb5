"""Networks that a comparison or an audit trains on a data set from several seeds, and the test example they are for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, TypeVar

import pandas as pd
import torch
from torch import nn

from bayes_influence.data.dataset import Dataset, Split
from bayes_influence.data.own_rows import OwnTable
from bayes_influence.data.tables import Rows, Table
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.training.of_network import OfNetwork
from bayes_influence.experiments.training.settings import usual_rate, usual_scheme_options
from bayes_influence.models.mlp import MLP
from bayes_influence.objectives.reweighting import largest_losses
from bayes_influence.retraining.held_out import hardest_example
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.minibatch_schedule import MinibatchSchedule
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.scheme import Scheme
from bayes_influence.training.schemes import SCHEMES, find_schemes

Own = TypeVar("Own", bound="StudiedNetworks")

REFERENCE_NETWORK: dict[str, Any] = {"width": 5, "depth": 1, "activation": "selu"}
"""The network that picks the test example of a table that is known by name: the same for every network on it."""

REFERENCE_SCHEDULE = Schedule(4000)
"""Its training; on Iris the largest leave-one-out losses are then those of examples 83, 133, 70, as published."""

REFERENCE_SCHEME = "weight-decay"
"""How the network is regularised that picks the test example."""

TEST_EXAMPLE = "test-example"
"""Cell under which the resolved test example is stored."""


@dataclass(frozen=True)
class StudiedNetworks(OfNetwork):
    """A network on a data set, trained in float64 from several seeds, and tested on one example.

    Of a table that is known by name every example but the test example is trained on, full-batch, as the papers do. Of
    all other data the test example is one of the test part, and training is in minibatches, as `TrainRun` trains.

    Attributes:
        repeats: Seeds, from `seed` on.
        parameters: Where influence is taken: "last-layer" or "all".
        epochs: Full-batch steps of training, 4000 when not given; or passes over the data, which have their own number.
        batch_size: Examples in a batch; the data set's own when not given, all of a table that is known by name.
        learning_rate: At its highest; 0.001 full-batch, else 0.002, or 0.005 for Bayesian networks, when not given.
        seed: The first seed.
        test_example: Id of the test example; the one that is predicted worst when not given.
        data_folder: Where image sets are kept; no part of what makes two studies the same.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    dataset: str = "iris"
    repeats: int = 10
    parameters: str = "last-layer"
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    seed: int = 0
    test_example: int | None = None
    data_folder: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_known(parameters=("last-layer", "all"))
        self.check_at_least(repeats=1, epochs=1, batch_size=1, seed=0)
        self.schedule(bayesian=False)
        if self.test_example is not None and isinstance(self.known(), Rows):
            self._candidates().positions(self.test_example)

    @property
    def full_batch(self) -> bool:
        """Whether all examples but one are trained on at once."""
        return isinstance(self.known(), Table) and self.batch_size is None

    @property
    def seeds(self) -> range:
        """Of the repeats."""
        return range(self.seed, self.seed + self.repeats)

    @property
    def sizes(self) -> tuple[int, int]:
        """Depth and width of an MLP; 0 and 0 of other networks."""
        shape = self.said_shape()
        return (shape["depth"], shape["width"]) if self.network == "mlp" else (0, 0)

    @property
    def title(self) -> str:
        """The network in a few words, for a figure."""
        shape = self.said_shape()
        return f"{shape['depth']} x {shape['width']} {shape['activation']}" if self.network == "mlp" else self.network

    def usual_shape(self) -> dict[str, Any]:
        """That of the papers, which has SELUs, of an MLP on a table that is known by name; else as of all networks."""
        papers = REFERENCE_NETWORK if self.network == "mlp" and self.full_batch else {}
        return super().usual_shape() | papers

    def schedule(self, *, bayesian: bool) -> Schedule | MinibatchSchedule:
        """Steps and learning rates of training.

        Args:
            bayesian: Whether they are those of a Bayesian network.
        """
        said = {"epochs": self.epochs, "batch_size": self.batch_size, "learning_rate": self.learning_rate}
        given: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
        if self.full_batch:
            return Schedule(**{"epochs": REFERENCE_SCHEDULE.epochs, **given})
        known = self.known()
        usual = {"epochs": known.epochs, "batch_size": known.batch_size, "learning_rate": usual_rate(bayesian)}
        return MinibatchSchedule(**{**usual, **given}, decay="cosine")

    @property
    def full_schedule(self) -> Schedule:
        """Steps and learning rates of training on all examples at once.

        Raises:
            ValueError: If training is in minibatches.
        """
        schedule = self.schedule(bayesian=False)
        if not isinstance(schedule, Schedule):
            raise ValueError(f"networks on {self.data_name} are trained in minibatches of {schedule.batch_size}")
        return schedule

    def suited_scheme(self, name: str, options: Mapping[str, Any]) -> Scheme:
        """A scheme of the registry for what is predicted, with the numbers that it usually has here.

        Args:
            name: A key of `SCHEMES`.
            options: Numbers and words that are to be others, by field.
        """
        known = self.known()
        usual = {} if self.full_batch else usual_scheme_options(self.usual_moments)
        return find_schemes([name], {**SCHEMES[name].own(usual), **options})[0].suited(known.task, known.n_targets)

    def to_config(self) -> dict[str, Any]:
        """Everything needed to repeat the study, as JSON can hold it; what was left unsaid is said."""
        schedule = self.schedule(bayesian=False)
        found = self.said_shape() | self.found_data() | {"code": self.found_code(), "epochs": schedule.epochs}
        if isinstance(schedule, MinibatchSchedule):
            found["batch_size"] = schedule.batch_size
        return {name: value for name, value in asdict(replace(self, **found)).items() if name != "data_folder"}

    @property
    def tested_id(self) -> int:
        """Id of the test example.

        Raises:
            ValueError: If it is not resolved yet.
        """
        if self.test_example is None:
            raise ValueError("the test example is not resolved yet; give its id")
        return self.test_example

    def _candidates(self) -> Dataset:
        """Those of the examples of which one may be the test example."""
        known = self.known()
        if isinstance(known, Table) and self.full_batch:
            return known.examples()
        return known.split(torch.float64, self.data_folder).test

    def n_train(self) -> int:
        """How many training examples there are, of data in memory without encoding them."""
        known = self.known()
        if self.full_batch:
            return len(self._candidates()) - 1
        if isinstance(known, OwnTable):
            return len(known.train_rows)
        return len(known.raw_split(torch.float64, self.data_folder).train)

    def split(self) -> Split:
        """Training examples and test part, standardised on the former.

        Raises:
            ValueError: If one example is to be left out, and the test example is not resolved yet.
        """
        known = self.known()
        if isinstance(known, Rows) and self.full_batch:
            found = known.left_out(self.tested_id)
        else:
            found = known.split(torch.float64, self.data_folder)
        return Split(found.train.to(self.device), found.test.to(self.device))

    def builder(self, train: Dataset) -> Callable[[], nn.Module]:
        """Builds the deterministic network for these training examples at every call."""
        return partial(self.network_for, tuple(train.example.inputs.shape[1:]), self.n_outputs(train))

    def make_network(self) -> nn.Module:
        """The deterministic network, its parameters drawn from the global generator."""
        return self.builder(self._candidates() if self.full_batch else self.split().train)()

    def resolved(self: Own, folder: StudyFolder, *, progress: bool = True) -> Own:
        """The same networks with a test example: as given, as stored, or the one predicted worst, which is then stored.

        Args:
            folder: Where the example is stored.
            progress: Whether to show a progress bar.
        """
        if self.test_example is not None:
            return self
        if not folder.cell_done(TEST_EXAMPLE):
            example = self._hardest(progress)
            folder.save_cell(TEST_EXAMPLE, {"test_example": pd.DataFrame({"id": [example]})})
        stored = folder.load_cell(TEST_EXAMPLE).tables["test_example"]
        return replace(self, test_example=int(stored["id"].iloc[0]))

    def _hardest(self, progress: bool) -> int:
        """Id of the test example that is predicted worst: by leave-one-out training, or of the test part."""
        if self.full_batch:
            whole, scheme = self._candidates(), SCHEMES[REFERENCE_SCHEME]
            shape = whole.inputs.shape[1], whole.n_classes
            make: Callable[[], nn.Module] = lambda: MLP(*shape, **REFERENCE_NETWORK)  # noqa: E731
            return hardest_example(whole, make, scheme, REFERENCE_SCHEDULE, progress=progress)
        split = self.split()
        (fit,) = fit_schemes(
            [self.suited_scheme(REFERENCE_SCHEME, {})],
            self.builder(split.train),
            split.train,
            [self.seed],
            self.schedule(bayesian=False),
            tolerance=None,
            progress=progress,
        )
        return int(largest_losses(fit.at(0), split.test, 1))
