"""What a study of regularisation schemes is: its settings, checked before any work, and its cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from bayes_influence.data.dataset import Dataset, Split
from bayes_influence.data.tables import find_table, leave_out, load_table
from bayes_influence.evaluation.agreement import MIN_POINTS
from bayes_influence.experiments.store.cells import cell_key
from bayes_influence.models.activations import activation_module
from bayes_influence.models.mlp import MLP
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.schemes import DEFAULT_SCHEMES, SCHEMES, find_schemes

REFERENCE_NETWORK = {"width": 5, "depth": 1, "activation": "selu"}
"""The network that picks the test example: the same for every cell of a grid."""

REFERENCE_SCHEDULE = Schedule(4000)
"""Its training; on Iris the largest leave-one-out losses are then those of examples 83, 133, 70, as published."""


@dataclass(frozen=True)
class Study:
    """Influence estimates against leave-one-out retraining, for several schemes on one network and one test example.

    The protocol is that of Epifano et al. on Iris, corrected: one objective for training, estimate and truth; the
    regulariser in the Hessian; float64; signed statistics; truth by Newton's method, or with a control.

    Attributes:
        dataset: A key of `TABLES`.
        depth: Hidden layers.
        width: Units in each.
        activation: A key of `bayes_influence.models.ACTIVATIONS`.
        repeats: Seeds, from `seed` on.
        removals: Training examples of largest loss that are removed one at a time.
        schemes: Keys of `SCHEMES`.
        parameters: Where influence is taken: "last-layer" or "all".
        epochs: Full-batch steps of training.
        refit_epochs: Steps of a refit where Newton's method does not apply.
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
    removals: int = 40
    schemes: tuple[str, ...] = DEFAULT_SCHEMES
    parameters: str = "last-layer"
    epochs: int = 4000
    refit_epochs: int = 1000
    seed: int = 0
    test_example: int | None = None

    def __post_init__(self) -> None:
        find_table(self.dataset)
        find_schemes(self.schemes)
        activation_module(self.activation)
        if self.parameters not in ("last-layer", "all"):
            raise ValueError(f"parameters must be 'last-layer' or 'all', got {self.parameters!r}")
        least = {"depth": 0, "width": 1, "repeats": 1, "epochs": 1, "refit_epochs": 1, "seed": 0}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ValueError(f"{name} must be at least {smallest}, got {getattr(self, name)}")
        examples = len(self.raw_data())
        if not MIN_POINTS <= self.removals <= examples - 1:
            raise ValueError(
                f"removals must lie in {MIN_POINTS}..{examples - 1} ({self.dataset} has {examples - 1} training "
                f"examples beside the test example), got {self.removals}"
            )
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
    def ensembles(self) -> list[tuple[str, ...]]:
        """The schemes, grouped by the ensemble that they train in."""
        families = dict.fromkeys(SCHEMES[name].family for name in self.schemes)
        return [tuple(name for name in self.schemes if SCHEMES[name].family == family) for family in families]

    def cells(self) -> dict[str, Study]:
        """One cell per ensemble, each a study of its own, under the key that it is stored by."""
        return {
            cell_key(depth=self.depth, width=self.width, schemes="_".join(names)): replace(self, schemes=names)
            for names in self.ensembles
        }

    def to_config(self) -> dict[str, Any]:
        """Everything needed to repeat the study, as JSON can hold it."""
        return asdict(self)


def grid(study: Study, sizes: Sequence[tuple[int, int]]) -> dict[str, Study]:
    """The cells of a study over several (depth, width)."""
    cells: dict[str, Study] = {}
    for depth, width in sizes:
        cells |= replace(study, depth=depth, width=width).cells()
    return cells
