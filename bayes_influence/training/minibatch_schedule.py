"""How a training in minibatches goes: batches, optimiser, learning rates, annealing of the regulariser, clipping."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, inf, pi

from bayes_influence.arguments import check_number, check_whole, shown
from bayes_influence.training.ivon import IVON
from bayes_influence.training.optimisers import SGD, Adam
from bayes_influence.training.schedules import Plateau, Schedule

DECAYS = ("constant", "cosine")


@dataclass(frozen=True)
class MinibatchSchedule:
    """A training in shuffled minibatches.

    Attributes:
        epochs: Passes over the training examples.
        batch_size: Largest number of examples in a batch; an epoch's batches are equally large, up to one example.
        learning_rate: At its highest.
        optimiser: `Adam(...)`, `SGD(...)`, or of Gaussian posteriors `IVON(...)`.
        decay: `"constant"`, or `"cosine"` to zero at the last step (Loshchilov & Hutter 2017).
        warmup: Fraction of the steps over which the learning rate rises linearly.
        plateau: When to lower the learning rate by an epoch's mean objective, its patience in epochs; None never.
        annealing: Fraction of the steps over which the regulariser's weight rises linearly from 0 to its own (KL
            annealing). The weight of step t is `regulariser_factor(t, steps)` times the objective's.
        clip: Longest gradient that is followed at its length, None for any.

    Raises:
        TypeError: If a part is of another kind.
        ValueError: If a number is out of its range.
    """

    epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 1e-3
    optimiser: Adam | SGD | IVON = Adam()  # noqa: RUF009 - frozen and without state
    decay: str = "constant"
    warmup: float = 0.0
    plateau: Plateau | None = None
    annealing: float = 0.0
    clip: float | None = None

    def __post_init__(self) -> None:
        check_whole(epochs=self.epochs, batch_size=self.batch_size)
        check_number(learning_rate=self.learning_rate, warmup=self.warmup, annealing=self.annealing)
        if not isinstance(self.optimiser, Adam | SGD | IVON):
            raise TypeError(f"optimiser must be Adam(...), SGD(...) or IVON(...), got {shown(self.optimiser)}")
        if self.plateau is not None and not isinstance(self.plateau, Plateau):
            raise TypeError(f"plateau must be a Plateau(...), or None to keep the rate, got {shown(self.plateau)}")
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError(
                f"epochs and batch_size must be at least 1, got epochs={self.epochs}, batch_size={self.batch_size}"
            )
        if not 0 < self.learning_rate < inf or not (self.clip is None or self.clip > 0):
            raise ValueError(
                f"learning rate and clip must be positive, got learning_rate={self.learning_rate}, clip={self.clip}"
            )
        if self.decay not in DECAYS:
            raise ValueError(f"unknown decay {self.decay!r}; known: {', '.join(DECAYS)}")
        if not (0 <= self.warmup < 1 and 0 <= self.annealing <= 1):
            raise ValueError(
                f"warmup must lie in [0, 1) and annealing in [0, 1] (fractions of all steps), "
                f"got {self.warmup} and {self.annealing}"
            )

    def batches(self, n_train: int) -> int:
        """Batches in one epoch."""
        return -(-n_train // self.batch_size)

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step (from 0) of so many, before plateaus and averaging have their say."""
        warming = int(self.warmup * steps)
        if step < warming:
            return self.learning_rate * (step + 1) / (warming + 1)
        if self.decay == "constant":
            return self.learning_rate
        return self.learning_rate * (1 + cos(pi * (step - warming) / (steps - warming))) / 2

    def regulariser_factor(self, step: int, steps: int) -> float:
        """Share of the regulariser's weight that applies in a step (from 0) of so many."""
        annealed = int(self.annealing * steps)
        return 1.0 if step >= annealed else (step + 1) / (annealed + 1)


def full_batches(schedule: Schedule, examples: int) -> MinibatchSchedule:
    """A full-batch schedule for noisy objectives: the rate along a cosine, as a plateau would see only the noise.

    Where there is no plateau the rate is kept.
    """
    optimiser = Adam(schedule.betas, schedule.epsilon)
    decay = "constant" if schedule.plateau is None else "cosine"
    return MinibatchSchedule(schedule.epochs, examples, schedule.learning_rate, optimiser, decay=decay)
