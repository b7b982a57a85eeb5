"""`ComparedNetworks`: what one cell of a comparison trains, on which examples, and what it removes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from bayes_influence.data.dataset import Dataset
from bayes_influence.evaluation.agreement import MIN_POINTS
from bayes_influence.training.minibatch_schedule import MinibatchSchedule
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.scheme import Scheme

USUAL_REFIT_EPOCHS, USUAL_REFIT_WORK, LEAST_REFIT_EPOCHS = 1000, 1_000_000, 100
"""Steps of a refit by training when nothing is said: fewer the more there are than a thousand examples, but not fewer
than a hundred. The estimate is held against what training does in that time; the control's drift says how far that is
from a minimum."""

REFIT_RATE = 1e-3
"""Learning rate of the refits by training, as published."""

TOLERANCE = 1e-10
"""Gradient norm of the polish in a last layer."""


def refit_schedule(epochs: int | None, n_train: int) -> Schedule:
    """Steps of a refit by training, as they were said or as they usually are for so many examples."""
    usual = min(USUAL_REFIT_EPOCHS, max(LEAST_REFIT_EPOCHS, USUAL_REFIT_WORK // n_train))
    return Schedule(epochs or usual, REFIT_RATE, plateau=None)


@dataclass(frozen=True, eq=False)
class ComparedNetworks:
    """Networks of some schemes from several seeds, and the test example on which influence is measured.

    Attributes:
        schemes: How they are regularised; schemes that share an ensemble, or just one.
        make_network: Builds the deterministic network.
        train: Training examples.
        test: Test examples, on which accuracy is reported.
        example: Id of the one whose loss influence is on.
        seeds: One per network.
        schedule: Of training.
        parameters: Where influence is taken.
        removals: How many training examples of largest loss are removed, one at a time.
        refit_schedule: Of the refits by training.
        sizes: Depth and width; 0 and 0 of a network that has none to choose.
        tolerance: Of the polish, None to leave networks as the schedule left them.

    Raises:
        ValueError: If there are fewer training examples than are to be removed.
    """

    schemes: Sequence[Scheme]
    make_network: Callable[[], nn.Module]
    train: Dataset
    test: Dataset
    example: int
    seeds: Sequence[int]
    schedule: Schedule | MinibatchSchedule
    parameters: str
    removals: int
    refit_schedule: Schedule
    sizes: tuple[int, int] = (0, 0)
    tolerance: float | None = TOLERANCE

    def __post_init__(self) -> None:
        check_removals(self.removals, len(self.train), self.train.name)

    @property
    def tested(self) -> Dataset:
        """The test example."""
        return self.test.at(self.example)


def check_removals(removals: int, n_train: int, name: str) -> None:
    """Refuses to remove more examples than there are, or fewer than a correlation needs.

    Args:
        removals: How many are to be removed.
        n_train: How many training examples there are.
        name: What the data are called.

    Raises:
        ValueError: Saying between which numbers it must lie.
    """
    if not MIN_POINTS <= removals <= n_train:
        raise ValueError(
            f"removals must lie in {MIN_POINTS}..{n_train} ({name} has {n_train} training examples), got {removals}"
        )
