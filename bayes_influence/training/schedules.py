"""How long and how fast to train: learning rates by the plateau rule, and stochastic weight averaging (SWA)."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import cos, inf, pi

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.arguments import check_count, check_number, check_positive, check_whole, shown


@dataclass(frozen=True)
class Plateau:
    """The rule of torch's `ReduceLROnPlateau` (mode "min", relative threshold), one state per member.

    Attributes:
        factor: What the learning rate is multiplied by.
        patience: Steps without improvement that are waited for.
        threshold: Relative improvement that counts.
        smallest_change: A learning rate is left alone when the change would be smaller.

    Raises:
        TypeError: If one is no number, or patience no whole one.
        ValueError: If a number is out of its range.
    """

    factor: float = 0.1
    patience: int = 100
    threshold: float = 1e-4
    smallest_change: float = 1e-8

    def __post_init__(self) -> None:
        check_whole(patience=self.patience)
        check_number(factor=self.factor, threshold=self.threshold, smallest_change=self.smallest_change)
        if not (0 < self.factor < 1 and self.patience >= 0 and 0 <= self.threshold < 1 and self.smallest_change >= 0):
            raise ValueError(
                f"a plateau needs a factor in (0, 1), a threshold in [0, 1), and patience and smallest_change of at "
                f"least 0, got {self}"
            )


class PlateauState:
    """Best value and bad steps of every member; `step` lowers what their learning rates are multiplied by, in place."""

    def __init__(self, rule: Plateau, members: int, like: Tensor) -> None:
        self.rule = rule
        self.best = like.new_full((members,), torch.inf)
        self.bad_steps = like.new_zeros(members)

    def step(self, values: Float[Tensor, " E"], factors: Float[Tensor, " E"], scheduled: float) -> None:
        """One observation of the objective for every member, whose learning rate is its factor times `scheduled`."""
        better = values < self.best * (1 - self.rule.threshold)
        self.best = torch.where(better, values, self.best)
        self.bad_steps = torch.where(better, 0.0, self.bad_steps + 1)
        waited = self.bad_steps > self.rule.patience
        lowered = torch.where(waited, factors * self.rule.factor, factors)
        matters = (factors - lowered) * scheduled > self.rule.smallest_change
        factors.copy_(torch.where(matters, lowered, factors))
        self.bad_steps.masked_fill_(waited, 0.0)


@dataclass(frozen=True)
class SWA:
    """Stochastic weight averaging (Izmailov et al. 2018): equal average of the iterates from `start` on.

    From there the learning rate goes to `learning_rate` along a cosine, as torch's `SWALR` has it, and then stays.

    Attributes:
        start: Fraction of the steps after which averaging begins.
        learning_rate: Where the learning rate goes.
        anneal: Fraction of all steps that it takes to get there.

    Raises:
        TypeError: If one is no number.
        ValueError: If a fraction lies outside [0, 1) or the learning rate is not positive.
    """

    start: float = 0.75
    learning_rate: float = 1e-3
    anneal: float = 0.1

    def __post_init__(self) -> None:
        check_number(start=self.start, anneal=self.anneal, learning_rate=self.learning_rate)
        if not (0 <= self.start < 1 and 0 <= self.anneal < 1 and 0 < self.learning_rate < inf):
            raise ValueError(
                f"SWA needs fractions in [0, 1) and a positive learning rate, got start={self.start}, "
                f"anneal={self.anneal}, learning_rate={self.learning_rate}"
            )

    @property
    def rank(self) -> int:
        """How many deviations from the mean are collected beside it: none."""
        return 0

    def first_step(self, epochs: int) -> int:
        """The first step whose result is averaged."""
        return int(self.start * epochs)

    def rate_after(self, steps: int, epochs: int, initial: Float[Tensor, " E"]) -> Float[Tensor, " E"]:
        """Learning rate after so many averaged steps, from the `initial` one when averaging began."""
        annealing = int(self.anneal * epochs)
        progress = 1.0 if annealing == 0 else min(1.0, steps / annealing)
        alpha = (1 - cos(pi * progress)) / 2
        return self.learning_rate * alpha + initial * (1 - alpha)


@dataclass(frozen=True)
class Schedule:
    """A full-batch Adam training.

    Attributes:
        epochs: Steps, each over all examples.
        learning_rate: Adam's, at the start.
        plateau: When to lower it; None keeps it. Where steps draw random numbers or move buffers (dropout, batch norm),
            the rate goes along a cosine to zero in a plateau's place, which would see only the noise.
        betas: Adam's decay rates.
        epsilon: Adam's epsilon.

    Raises:
        TypeError: If a part is of another kind.
        ValueError: If a number is out of its range.
    """

    epochs: int = 4000
    learning_rate: float = 1e-3
    plateau: Plateau | None = field(default_factory=Plateau)
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        check_count(epochs=self.epochs)
        check_positive(**{"the learning rate": self.learning_rate, "epsilon": self.epsilon})
        if self.plateau is not None and not isinstance(self.plateau, Plateau):
            raise TypeError(f"plateau must be a Plateau(...), or None to keep the rate, got {shown(self.plateau)}")
        if not isinstance(self.betas, tuple | list) or len(self.betas) != 2:
            raise TypeError(f"betas must be Adam's two decay rates, got {shown(self.betas)}")
        for beta in self.betas:
            check_number(**{"each beta": beta})
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"Adam's betas must lie in [0, 1), got {self.betas}")


def check_schedule(value: object) -> None:
    """Refuses what is no `Schedule` where one is needed.

    Raises:
        TypeError: If it is something else.
    """
    if not isinstance(value, Schedule):
        raise TypeError(f"the schedule must be a Schedule, got {shown(value)}; take Schedule(epochs=300)")
