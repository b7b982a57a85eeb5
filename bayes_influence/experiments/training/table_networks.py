"""Networks that are trained on a table of numbers, full-batch and from several seeds, and tested on one example."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import pandas as pd

from bayes_influence.data.dataset import Dataset, Split
from bayes_influence.data.tables import find_table, leave_out, load_table
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.store.settings import Settings
from bayes_influence.models.activations import activation_module
from bayes_influence.models.mlp import MLP
from bayes_influence.retraining.held_out import hardest_example
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.schemes import SCHEMES

Own = TypeVar("Own", bound="TableNetworks")

REFERENCE_NETWORK = {"width": 5, "depth": 1, "activation": "selu"}
"""The network that picks the test example: the same for every network on a table."""

REFERENCE_SCHEDULE = Schedule(4000)
"""Its training; on Iris the largest leave-one-out losses are then those of examples 83, 133, 70, as published."""

TEST_EXAMPLE = "test-example"
"""Cell under which the resolved test example is stored."""


@dataclass(frozen=True)
class TableNetworks(Settings):
    """A multi-layer perceptron on a table, trained in float64 from several seeds.

    Attributes:
        dataset: A key of `TABLES`.
        depth: Hidden layers.
        width: Units in each.
        activation: A key of `bayes_influence.models.ACTIVATIONS`.
        repeats: Seeds, from `seed` on.
        parameters: Where influence is taken: "last-layer" or "all".
        epochs: Full-batch steps of training.
        seed: The first seed.
        test_example: Id of the test example; the one with the largest leave-one-out loss when not given.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    dataset: str = "iris"
    depth: int = 1
    width: int = 5
    activation: str = "selu"
    repeats: int = 10
    parameters: str = "last-layer"
    epochs: int = 4000
    seed: int = 0
    test_example: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        find_table(self.dataset)
        self.check_known(parameters=("last-layer", "all"))
        activation_module(self.activation)
        self.check_at_least(depth=0, width=1, repeats=1, epochs=1, seed=0)
        if self.test_example is not None:
            self.raw_data().positions(self.test_example)

    def raw_data(self) -> Dataset:
        """The dataset, float64, not standardised."""
        return load_table(self.dataset)

    def split(self) -> Split:
        """Training examples and the test example, standardised on the former.

        Raises:
            ValueError: If the test example is not resolved yet.
        """
        if self.test_example is None:
            raise ValueError("the test example is not resolved yet; give its id")
        return leave_out(self.raw_data(), self.test_example)

    def make_network(self) -> MLP:
        """The deterministic network, its parameters drawn from the global generator."""
        data = self.raw_data()
        return MLP(data.inputs.shape[1], data.n_classes, self.width, self.depth, self.activation)

    def reference_network(self) -> MLP:
        """The network that picks the test example."""
        return replace(self, **REFERENCE_NETWORK).make_network()  # type: ignore[arg-type]

    @property
    def seeds(self) -> range:
        """Of the repeats."""
        return range(self.seed, self.seed + self.repeats)

    @property
    def title(self) -> str:
        """The network in a few words, for a figure."""
        return f"{self.depth} x {self.width} {self.activation}"

    def resolved(self: Own, folder: StudyFolder, *, progress: bool = True) -> Own:
        """The same networks with a test example: as given, as stored, or by leave-one-out training, then stored.

        Args:
            folder: Where the example is stored.
            progress: Whether to show a progress bar.
        """
        if self.test_example is not None:
            return self
        if not folder.cell_done(TEST_EXAMPLE):
            example = hardest_example(
                self.raw_data(), self.reference_network, SCHEMES["weight-decay"], REFERENCE_SCHEDULE, progress=progress
            )
            folder.save_cell(TEST_EXAMPLE, {"test_example": pd.DataFrame({"id": [example]})})
        stored = folder.load_cell(TEST_EXAMPLE).tables["test_example"]
        return replace(self, test_example=int(stored["id"].iloc[0]))
