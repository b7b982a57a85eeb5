"""The learning rate of every member of a training: scheduled, lowered by the plateau rule, and SWA's at its end."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bayes_influence.training.schedules import SWA, Plateau, PlateauState


class LearningRates:
    """Rates of a training in epochs of equally many steps.

    Before averaging, and for members that do not average, the rate of a step is f s(step): the scheduled rate s, and
    the factor f to which the plateau rule has brought it down. From the first averaged epoch on an averaged member's
    factor stays, and its rate goes from where it stood to SWA's, see `SWA.rate_after`.

    Args:
        scheduled: Rate of a step, from 0.
        epochs: Of the training.
        steps: Of one epoch.
        flat: Stacked flat parameters, for members, dtype and device.
        plateau: The rule that observes objectives; None for rates as scheduled.
        averaging: How iterates are averaged, None where none are.
        averaged: Whose iterates; everybody's when not given.
    """

    def __init__(
        self,
        scheduled: Callable[[int], float],
        epochs: int,
        steps: int,
        flat: Float[Tensor, "E P"],
        plateau: Plateau | None = None,
        averaging: SWA | None = None,
        averaged: Bool[Tensor, " E"] | None = None,
    ) -> None:
        members = len(flat)
        self.scheduled, self.epochs, self.steps = scheduled, epochs, steps
        self.averaging = averaging
        self.first_averaged = epochs if averaging is None else averaging.first_step(epochs)
        self._averaged = flat.new_ones(members, dtype=torch.bool) if averaged is None else averaged
        self.factors = flat.new_ones(members)
        self.plateau = PlateauState(plateau, members, flat) if plateau else None

    def at(self, step: int) -> Float[Tensor, " E"]:
        """Every member's rate in a step, counted through all epochs."""
        rates = self.factors * self.scheduled(step)
        epoch = step // self.steps
        if self.averaging is None or epoch < self.first_averaged:
            return rates
        before = self.factors * self.scheduled(max(self.first_averaged * self.steps - 1, 0))
        annealed = self.averaging.rate_after(epoch - self.first_averaged, self.epochs, before)
        return torch.where(self._averaged, annealed, rates)

    def observe(self, epoch: int, values: Float[Tensor, " E"]) -> None:
        """Lowers the factors by the plateau rule, from the mean objectives of an epoch."""
        if self.plateau is None:
            return
        before = None if epoch < self.first_averaged else self.factors.clone()
        self.plateau.step(values, self.factors, self.scheduled((epoch + 1) * self.steps - 1))
        if before is not None:
            self.factors = torch.where(self._averaged, before, self.factors)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that changes, by name."""
        own = {"factors": self.factors}
        return own if self.plateau is None else own | {"best": self.plateau.best, "bad_steps": self.plateau.bad_steps}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Continues from what `tensors` returned."""
        self.factors = tensors["factors"]
        if self.plateau is not None:
            self.plateau.best, self.plateau.bad_steps = tensors["best"], tensors["bad_steps"]
