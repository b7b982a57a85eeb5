"""What a retraining protocol is: a named object with everything fixed that a refit depends on."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Int
from torch import Tensor

from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.members import Members
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.reweighting import Removals
from bayes_influence.retraining.refits import Refits

Trained = Members | Objective
"""Networks at their fitted parameters: a stack of them, or the objective of a single one."""


class RetrainingProtocol(ABC):
    """How networks are refitted without some of their training examples.

    Every group is removed on its own, and nothing as a control, batched over networks and removals. What was trained is
    what is refitted, an ELBO included, in the parameters that influence is taken in and in no others.

    Attributes:
        name: What tables and files call it.
        tolerance: Gradient norm at which a refit is done; None where refits follow a schedule and are asked for none.
    """

    name: str
    tolerance: float | None = None

    @abstractmethod
    def refit(
        self, trained: Trained, train: Dataset, removed: Removals | Int[Tensor, "*E k"], *, progress: bool = False
    ) -> Refits:
        """Refits every network without each group, and once without removing anything.

        Args:
            trained: E networks, with the objective and the parameters that are refitted.
            train: Their training examples.
            removed: What to remove, or ids to remove one at a time with 1/n fixed: (E, k), or (k,) the same for all.
            progress: Whether to show a progress bar.

        Raises:
            ValueError: If an id is unknown, the removals are for another number of networks, or as `reduce`.
        """
