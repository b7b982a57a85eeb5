"""IVON, an optimiser of Gaussian posteriors: natural gradients in their means and precisions, at the cost of Adam."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bayes_influence.arguments import check_number
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import RHO, Flattening
from bayes_influence.objectives.regularisers import GaussianKL
from bayes_influence.training.optimisers import Adam, OptimiserState


@dataclass(frozen=True)
class IVON:
    """The improved variational online Newton method (Shen et al. 2024, algorithm 1).

    Of J = data + w KL(q || p)/n in means and rho = log sigma, with prior N(0, s^2), lambda = n/w, delta = 1/(lambda
    s^2) and a precision lambda (h + delta) = 1/sigma^2, a step is, with g the gradient of the data term in the means:

        h <- beta2 h + (1 - beta2) h' + (1 - beta2)^2 (h - h')^2 / (2 (h + delta)),   h' = E[g (theta - mu)] / sigma^2
        a <- beta1 a + (1 - beta1) g
        mu <- mu - rate (a / (1 - beta1^t) + delta mu) / (h + delta)

    The last term of the first line keeps h + delta positive. As dJ/drho = sigma^2 (h' + delta) - 1/lambda, the line is
    rho <- rho - log(1 + x + x^2/2)/2, x = (1 - beta2) lambda dJ/drho: gradients of J in means and rho, sampled or
    propagated, are all that is needed. Where it rests both of them vanish.

    Parameters that are no Gaussian's are taken by Adam at the learning rate as it is.

    Attributes:
        decay: beta1, of the average of gradients.
        mean_scale: The rate of the means, in learning rates; at a rate of 1 a step is Newton's.
        hessian_scale: 1 - beta2, in learning rates. Where these go to zero along a schedule, the noise in h does, too.

    Raises:
        TypeError: If one is no number.
        ValueError: If a number is out of its range.
    """

    decay: float = 0.9
    mean_scale: float = 20.0
    hessian_scale: float = 5.0

    def __post_init__(self) -> None:
        check_number(decay=self.decay, mean_scale=self.mean_scale, hessian_scale=self.hessian_scale)
        if not 0 <= self.decay < 1 or not (0 < self.mean_scale < inf and 0 < self.hessian_scale < inf):
            raise ValueError(
                f"IVON needs a decay in [0, 1) and positive scales of the learning rate, got decay={self.decay}, "
                f"mean_scale={self.mean_scale}, hessian_scale={self.hessian_scale}"
            )

    def on(self, objective: Objective, names: Sequence[str]) -> IvonSteps:
        """Its steps on an objective.

        Args:
            objective: Of a Bayesian network.
            names: Parameters that are trained.

        Raises:
            TypeError: If its regulariser is no `GaussianKL`.
            ValueError: If the regulariser has no weight.
        """
        divergence, weight = objective.regulariser, objective.regulariser_weight
        if not isinstance(divergence, GaussianKL):
            raise TypeError(
                f"IVON needs a GaussianKL as the regulariser, got {type(divergence).__name__}; "
                "take Adam for other objectives"
            )
        if not weight > 0:
            raise ValueError(
                f"IVON needs a KL of positive weight, got regulariser_weight={weight}: it has no prior then"
            )
        layout = Flattening.of(objective.params)
        parts = torch.arange(layout.total, device=objective.device).split(layout.sizes)
        where = dict(zip(layout.names, parts, strict=True))
        means = [name for name in layout.names if name in names and name + RHO in where]
        rhos = [name + RHO for name in layout.names if name + RHO in where and name + RHO in names]
        others = [name for name in layout.names if name in names and name not in {*means, *rhos}]
        samples = divergence.n_train / weight
        pull = [
            objective.params[name].new_full((len(where[name]),), 1 / (samples * divergence.scale(name) ** 2))
            for name in means
        ]
        none = parts[0][:0]
        return IvonSteps(
            self,
            samples,
            means=torch.cat([none, *(where[name] for name in means)]),
            beside=torch.cat([none, *(where[name + RHO] for name in means)]),
            rhos=torch.cat([none, *(where[name] for name in rhos)]),
            others=torch.cat([none, *(where[name] for name in others)]),
            prior=torch.cat([next(iter(objective.params.values())).new_empty(0), *pull]),
        )


@dataclass(frozen=True, eq=False)
class IvonSteps:
    """Steps of `IVON` on one objective, its parameters laid end to end.

    Attributes:
        settings: Decay rates and the scale of the learning rate.
        samples: lambda = n/w.
        means: Where the trained means are.
        beside: Where the rho of each of them is.
        rhos: Where the trained rhos are.
        others: Where the trained parameters are that are no Gaussian's.
        prior: delta of each of the means.
    """

    settings: IVON
    samples: float
    means: Int[Tensor, " m"]
    beside: Int[Tensor, " m"]
    rhos: Int[Tensor, " r"]
    others: Int[Tensor, " o"]
    prior: Float[Tensor, " m"]

    def start(self, flat: Float[Tensor, "E P"]) -> OptimiserState:
        """The average of gradients at zero, the number of steps, and Adam's state of the other parameters."""
        others = Adam().start(flat[:, self.others])
        return {
            "first": torch.zeros_like(flat[:, self.means]),
            "steps": torch.zeros((), dtype=torch.int64),
            **{f"others/{name}": value for name, value in others.items()},
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
        slow = (self.settings.hessian_scale * rates).clamp(max=1).unsqueeze(1)
        excess = slow * self.samples * gradient[:, self.rhos]
        flat[:, self.rhos] -= torch.log1p(excess + excess.square() / 2) / 2
        means = flat[:, self.means]
        prior = self.prior.to(flat) * means
        state["first"].lerp_(gradient[:, self.means] - prior, 1 - self.settings.decay)
        slope = state["first"] / (1 - self.settings.decay ** int(state["steps"])) + prior
        curvature = torch.exp(-2 * flat[:, self.beside]) / self.samples
        flat[:, self.means] = means - self.settings.mean_scale * rates.unsqueeze(1) * slope / curvature
        others = flat[:, self.others]
        Adam().step(others, gradient[:, self.others], rates, _others(state))
        flat[:, self.others] = others


def _others(state: OptimiserState) -> OptimiserState:
    """Adam's part of the state; its tensors change in place."""
    return {name.removeprefix("others/"): value for name, value in state.items() if name.startswith("others/")}
