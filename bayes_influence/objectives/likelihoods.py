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
    """l_i = 1/2 sum_k [log(2 pi s_k^2) + (y_ik - m_ik)^2 / s_k^2]: regression with known or learned noise.

    Attributes:
        scale: s, the standard deviation of the noise; None where the network carries it as a parameter, see
            `LearnedNoise`: the second half of its outputs is then log s_k.

    Raises:
        ValueError: If s is not positive; when called, if outputs and targets do not fit.
    """

    scale: float | None = 1.0

    def __post_init__(self) -> None:
        if self.scale is not None and not self.scale > 0:
            raise ValueError(f"the noise scale must be positive, got {self.scale}")

    def __call__(self, outputs: Float[Tensor, "B *out"], targets: Float[Tensor, "B *target"]) -> Float[Tensor, " B"]:
        """Losses in nats, one per example."""
        mean, log_scale = self.split(outputs)
        return self.losses(mean, log_scale, targets)

    def split(self, outputs: Float[Tensor, "B *out"]) -> tuple[Float[Tensor, "B *target"], Float[Tensor, "*scales"]]:
        """The means m, and log s: one for all, or one for each mean where it is learned."""
        if self.scale is None:
            mean, log_scale = outputs.chunk(2, dim=-1)
            return mean, log_scale
        return outputs, torch.full_like(outputs, log(self.scale))

    @staticmethod
    def losses(
        mean: Float[Tensor, "B *target"],
        log_scale: Float[Tensor, "B *target"],
        targets: Float[Tensor, "B ..."],
        variance: Float[Tensor, "B *target"] | float = 0.0,
    ) -> Float[Tensor, " B"]:
        """1/2 sum_k [log(2 pi s_k^2) + ((y_k - m_k)^2 + v_k) / s_k^2], the expectation over outputs of variance v.

        Raises:
            ValueError: If targets and predicted means differ in shape.
        """
        if mean.shape != targets.shape:
            raise ValueError(
                f"targets must have the shape of the predicted means {tuple(mean.shape)}, got {tuple(targets.shape)}; "
                "give them a column per output (and see LearnedNoise where the noise is learned)"
            )
        squares = ((targets - mean).square() + variance) * torch.exp(-2 * log_scale)
        return 0.5 * (log(2 * pi) + 2 * log_scale + squares).reshape(len(targets), -1).sum(dim=-1)
