"""Optimisers on stacked flat parameters, their whole state in named tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.objectives.objective import Objective

OptimiserState = dict[str, Tensor]
"""What an optimiser remembers between steps: stored as it is, it continues exactly."""


class Steps(Protocol):
    """An optimiser at work on one objective."""

    def start(self, flat: Float[Tensor, "E P"]) -> OptimiserState:
        """What it remembers before the first step."""

    def step(
        self,
        flat: Float[Tensor, "E P"],
        gradient: Float[Tensor, "E P"],
        rates: Float[Tensor, " E"],
        state: OptimiserState,
    ) -> None:
        """One step of every member, in place, each at its own learning rate; what is not trained has gradient 0."""


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba 2015), as torch's `Adam` without its coupled weight decay.

    Attributes:
        betas: Decay rates of the averages of gradients and of their squares.
        epsilon: Added to the root of the latter.

    Raises:
        ValueError: If a number is out of its range.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        if not all(0 <= beta < 1 for beta in self.betas) or not self.epsilon > 0:
            raise ValueError(f"Adam needs betas in [0, 1) and epsilon > 0, got {self.betas} and {self.epsilon}")

    def on(self, objective: Objective, names: Sequence[str]) -> Adam:
        """Itself: its steps are the same on every objective."""
        return self

    def start(self, flat: Float[Tensor, "E P"]) -> OptimiserState:
        """Two averages at zero, and the number of steps."""
        return {
            "first": torch.zeros_like(flat),
            "second": torch.zeros_like(flat),
            "steps": torch.zeros((), dtype=torch.int64),
        }

    def step(
        self,
        flat: Float[Tensor, "E P"],
        gradient: Float[Tensor, "E P"],
        rates: Float[Tensor, " E"],
        state: OptimiserState,
    ) -> None:
        """One step of every member, in place, each at its own learning rate."""
        state["steps"] += 1
        steps = int(state["steps"])
        fast, slow = self.betas
        state["first"].lerp_(gradient, 1 - fast)
        state["second"].mul_(slow).addcmul_(gradient, gradient, value=1 - slow)
        denominator = (state["second"].sqrt() / (1 - slow**steps) ** 0.5).add_(self.epsilon)
        flat.sub_(state["first"].div(denominator).mul_((rates / (1 - fast**steps)).unsqueeze(1)))


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum, as torch's `SGD`: b <- mu b + g, theta <- theta - rate b.

    Attributes:
        momentum: mu; 0 is plain gradient descent.

    Raises:
        ValueError: If the momentum lies outside [0, 1).
    """

    momentum: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {self.momentum}")

    def on(self, objective: Objective, names: Sequence[str]) -> SGD:
        """Itself: its steps are the same on every objective."""
        return self

    def start(self, flat: Float[Tensor, "E P"]) -> OptimiserState:
        """The velocity at zero; none without momentum."""
        return {"velocity": torch.zeros_like(flat)} if self.momentum else {}

    def step(
        self,
        flat: Float[Tensor, "E P"],
        gradient: Float[Tensor, "E P"],
        rates: Float[Tensor, " E"],
        state: OptimiserState,
    ) -> None:
        """One step of every member, in place, each at its own learning rate."""
        direction = state["velocity"].mul_(self.momentum).add_(gradient) if self.momentum else gradient
        flat.sub_(direction * rates.unsqueeze(1))


OPTIMISERS: dict[str, Adam | SGD] = {"adam": Adam(), "sgd": SGD()}
"""By name, with the usual settings."""


def clipped(gradient: Float[Tensor, "E P"], norm: float) -> Float[Tensor, "E P"]:
    """Every member's gradient, scaled down to Euclidean length `norm` where it is longer."""
    lengths = gradient.norm(dim=1, keepdim=True)
    return gradient * (norm / lengths.clamp(min=norm))
