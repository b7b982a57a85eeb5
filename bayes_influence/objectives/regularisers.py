"""What an objective adds to the data term: nothing, weight decay, or a KL divergence to the prior."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.arguments import check_number, check_real, check_whole
from bayes_influence.objectives.parameters import RHO, Params


@dataclass(frozen=True)
class NoRegulariser:
    """R = 0."""

    separable: ClassVar[bool] = True

    def __call__(self, params: Params) -> Float[Tensor, ""]:
        """Zero, in the parameters' dtype and on their device."""
        return next(iter(params.values())).new_zeros(())


@dataclass(frozen=True)
class WeightDecay:
    """R = (lambda/2) ||theta||^2 over all parameters: what coupled `weight_decay=lambda` in Adam minimises.

    Attributes:
        decay: lambda.

    Raises:
        TypeError: If lambda is no number.
        ValueError: If lambda is negative or not finite.
    """

    separable: ClassVar[bool] = True
    decay: float

    def __post_init__(self) -> None:
        check_number(**{"weight decay": self.decay})
        if not 0 <= self.decay < inf:
            raise ValueError(f"weight decay must be at least 0, got {self.decay}")

    def __call__(self, params: Params) -> Float[Tensor, ""]:
        """The penalty at `params`."""
        return 0.5 * self.decay * torch.stack([value.square().sum() for value in params.values()]).sum()


@dataclass(frozen=True)
class GaussianKL:
    """R = KL(q || p) / n for independent Gaussians q = N(mu, exp(rho)^2) and p = N(0, prior_scale^2).

    Summed over all weights and biases: 1/2 sum [(sigma^2 + mu^2)/s^2 - 1 - log(sigma^2/s^2)], each mean `name` beside
    its `name_rho`. Parameters without a `_rho` are not variational and add nothing.

    Attributes:
        n_train: Number of training examples n, so that J is the negative ELBO divided by n.
        prior_scale: s, one for all parameters, or one per parameter name.

    Raises:
        TypeError: If n is no whole number, or a scale no number.
        ValueError: If n or a scale is not positive, or no parameter has a `_rho`.
    """

    separable: ClassVar[bool] = True
    n_train: int
    prior_scale: float | dict[str, float] = 1.0

    def __post_init__(self) -> None:
        scales = list(self.prior_scale.values()) if isinstance(self.prior_scale, dict) else [self.prior_scale]
        check_whole(n_train=self.n_train)
        for scale in scales:
            check_real(prior_scale=scale)
        if self.n_train < 1 or not all(scale > 0 for scale in scales):
            raise ValueError(
                f"GaussianKL needs n_train >= 1 and positive prior scales, got {self.n_train} and {self.prior_scale}"
            )

    def __call__(self, params: Params) -> Float[Tensor, ""]:
        """KL(q || p) / n at `params`."""
        means = [name for name in params if name + RHO in params]
        if not means:
            raise ValueError(f"no parameter has a '{RHO}' beside it; convert the network with to_bayesian first")
        terms = [self._divergence(params[name], params[name + RHO], self.scale(name)) for name in means]
        return torch.stack(terms).sum() / self.n_train

    def scale(self, name: str) -> float:
        """The prior's standard deviation of one parameter."""
        return self.prior_scale[name] if isinstance(self.prior_scale, dict) else self.prior_scale

    @staticmethod
    def _divergence(mean: Tensor, rho: Tensor, scale: float) -> Tensor:
        # Summed term by term: autograd then keeps one tensor of the parameters' size, sigma^2.
        squares = torch.exp(2 * rho).sum() + mean.square().sum()
        return 0.5 * (squares / scale**2 - rho.numel()) - (rho - log(scale)).sum()
