"""Per-example losses of deterministic outputs: categorical and Gaussian."""

from __future__ import annotations

from dataclasses import dataclass
from math import log, pi

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class CrossEntropy:
    """l_i = logsumexp(z_i) - z_{i, y_i} for logits z: the negative log-likelihood of a categorical distribution."""

    def __call__(self, outputs: Float[Tensor, "B C"], targets: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Losses in nats, one per example."""
        log_probabilities = torch.log_softmax(outputs, dim=-1)
        return -log_probabilities.gather(-1, targets.unsqueeze(-1)).squeeze(-1)


@dataclass(frozen=True)
class GaussianNoise:
    """l_i = 1/2 sum_k [log(2 pi s^2) + (y_ik - m_ik)^2 / s^2]: regression with known noise.

    Attributes:
        scale: s, the standard deviation of the noise.

    Raises:
        ValueError: If s is not positive.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise ValueError(f"the noise scale must be positive, got {self.scale}")

    def __call__(self, outputs: Float[Tensor, "B *out"], targets: Float[Tensor, "B *out"]) -> Float[Tensor, " B"]:
        """Losses in nats, one per example."""
        terms = log(2 * pi * self.scale**2) + (targets - outputs).square() / self.scale**2
        return 0.5 * terms.reshape(len(targets), -1).sum(dim=-1)
