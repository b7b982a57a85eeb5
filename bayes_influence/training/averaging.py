"""Averages over the iterates of a training: the mean (SWA), and what a Gaussian around it needs (SWAG)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.objectives.parameters import Flattening
from bayes_influence.objectives.posteriors import WeightPosterior
from bayes_influence.training.schedules import SWA

SWAG_RANK = 20
"""Deviations kept by SWAG, as published."""


@dataclass(frozen=True)
class SWAG(SWA):
    """SWA that also collects the diagonal and low-rank covariance of the iterates (Maddox et al. 2019).

    Attributes:
        rank: K, how many of the last deviations from the running mean are kept.

    Raises:
        ValueError: As `SWA` does, or if the rank is below 2.
    """

    rank: int = SWAG_RANK

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank < 2:
            raise ValueError(f"SWAG needs a rank of at least 2, got {self.rank}")


@dataclass(frozen=True, eq=False)
class SwagPosterior(WeightPosterior):
    """q = N(mean, (diag(variance) + D'D / (K - 1)) / 2), Maddox et al. 2019, eq. 1.

    Attributes:
        layout: Order of the parameters in a flat vector.
        mean: The SWA mean.
        diagonal: Mean square deviation of the iterates from their mean.
        deviations: D, one deviation per row: the iterate minus the running mean at its time.
    """

    layout: Flattening
    mean: Float[Tensor, " P"]
    diagonal: Float[Tensor, " P"]
    deviations: Float[Tensor, "K P"]
    usual_mode: ClassVar[Literal["linearized", "sampled"]] = "sampled"

    @property
    def variance(self) -> Float[Tensor, " P"]:
        """The covariance's diagonal."""
        return 0.5 * (self.diagonal + self.deviations.square().sum(0) / (len(self.deviations) - 1))

    def covariance(self) -> Float[Tensor, "P P"]:
        """The dense covariance, for small P."""
        low_rank = self.deviations.T @ self.deviations / (len(self.deviations) - 1)
        return 0.5 * (torch.diag(self.diagonal) + low_rank)

    def deviations_drawn(self, n_samples: int, generator: torch.Generator) -> Float[Tensor, "S P"]:
        """Draws of N(0, Sigma). The generator is one of the CPU."""
        size, rank = len(self.mean), len(self.deviations)
        normals = torch.randn(n_samples, size + rank, generator=generator, dtype=self.mean.dtype).to(self.mean.device)
        diagonal = self.diagonal.sqrt() * normals[:, :size]
        low_rank = normals[:, size:] @ self.deviations / (rank - 1) ** 0.5
        return (diagonal + low_rank) * 0.5**0.5

    def output_covariance(self, jacobian: Float[Tensor, "*lead C P"]) -> Float[Tensor, "*lead C C"]:
        """J Sigma J' for every Jacobian J: that of the diagonal and that of the low-rank part."""
        along = jacobian @ self.deviations.T / (len(self.deviations) - 1) ** 0.5
        return 0.5 * ((jacobian * self.diagonal) @ jacobian.mT + along @ along.mT)


_AVERAGED = ("mean", "squared_deviations", "deviations")


class IterateAverage:
    """The running equal average of every member's iterates, with second moments and deviations for SWAG.

    Args:
        flat: Stacked flat parameters, for their shape.
        rank: How many deviations are kept; 0 collects the mean alone.
    """

    def __init__(self, flat: Float[Tensor, "E P"], rank: int = 0) -> None:
        self.rank = rank
        self.count = 0
        self.mean = torch.zeros_like(flat)
        self.squared_deviations = torch.zeros_like(flat) if self.rank else flat.new_zeros(0)
        self.deviations = flat.new_zeros(0, *flat.shape)

    def update(self, flat: Float[Tensor, "E P"]) -> None:
        """Takes in one iterate of every member.

        The sum of squared deviations from the mean grows by (x - old mean)(x - new mean), Welford 1962: the mean square
        minus the squared mean is the same number and cancels in float32.
        """
        self.count += 1
        from_old = flat - self.mean
        self.mean.add_(from_old / self.count)
        if self.rank:
            from_new = flat - self.mean
            self.squared_deviations.addcmul_(from_old, from_new)
            self.deviations = torch.cat([self.deviations, from_new.unsqueeze(0)])[-self.rank :]

    def posterior(self, index: int, layout: Flattening) -> SwagPosterior:
        """SWAG's Gaussian of one member.

        Raises:
            ValueError: If fewer than two iterates were averaged.
        """
        if len(self.deviations) < 2:
            raise ValueError(f"SWAG needs at least 2 averaged iterates, got {self.count}; train for more epochs")
        diagonal = self.squared_deviations[index] / self.count
        return SwagPosterior(layout, self.mean[index], diagonal, self.deviations[:, index])

    def tensors(self) -> dict[str, Tensor]:
        """Everything it holds, by name."""
        return {"count": torch.tensor(self.count), **{name: getattr(self, name) for name in _AVERAGED}}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Continues from what `tensors` returned."""
        self.count = int(tensors["count"])
        for name in _AVERAGED:
            setattr(self, name, tensors[name].to(self.mean.device))
