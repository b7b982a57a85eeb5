"""Refits by going on with the training from where the networks stand."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from bayes_influence.arguments import shown
from bayes_influence.data.dataset import Dataset, check_dataset
from bayes_influence.objectives.reduction import reduce
from bayes_influence.objectives.reweighting import Removals, as_removals
from bayes_influence.retraining.protocol import RetrainingProtocol, Trained
from bayes_influence.retraining.refits import Refits
from bayes_influence.retraining.trained import trained_refits
from bayes_influence.training.schedules import SWA, Schedule, check_schedule


@dataclass(frozen=True)
class Warm(RetrainingProtocol):
    """Training of the selected parameters goes on from the fit, with a fresh optimiser.

    Attributes:
        schedule: Of the refits.
        averaging: How the iterates of the refits are averaged, for networks that are averages themselves; by default
            refits go on from the average and end at their last iterate.
        watch: Examples whose losses are recorded at every epoch.
        at_once: Refits trained as one ensemble, see `trained_refits`.
    """

    schedule: Schedule
    averaging: SWA | None = None
    watch: Dataset | None = None
    at_once: int | None = None
    name = "warm"

    def __post_init__(self) -> None:
        check_schedule(self.schedule)
        if self.averaging is not None and not isinstance(self.averaging, SWA):
            raise TypeError(f"averaging must be an SWA(...), or None for the last iterate, got {shown(self.averaging)}")
        if self.watch is not None:
            check_dataset(self.watch, "the watched examples")

    def refit(
        self, trained: Trained, train: Dataset, removed: Removals | Int[Tensor, "*E k"], *, progress: bool = False
    ) -> Refits:
        """As `RetrainingProtocol.refit`."""
        reduction = reduce(trained, train)
        return trained_refits(
            reduction,
            as_removals(removed, len(reduction.members)),
            self.schedule,
            averaging=self.averaging,
            watch=self.watch,
            at_once=self.at_once,
            progress=progress,
        )
