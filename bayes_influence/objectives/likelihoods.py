"""Per-example losses of deterministic outputs: categorical, Bernoulli and Gaussian."""

from __future__ import annotations

from dataclasses import dataclass
from math import log, pi

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bayes_influence.objectives.expected_softplus import softplus
from bayes_influence.objectives.predictive import ClassPredictive, LabelPredictive, RealPredictive


@dataclass(frozen=True)
class CrossEntropy(ClassPredictive):
    """l_i = logsumexp(z_i) - z_{i, y_i} for logits z: the negative log-likelihood of a categorical distribution.

    With class weights a and smoothing e it is (1 - e) a_y (-log p_y) + (e / C) sum_c a_c (-log p_c), torch's
    `cross_entropy` without its reduction: weights multiply an example's loss, they are not divided by their sum.

    Attributes:
        class_weights: a, one factor per class; all 1 when not given.
        label_smoothing: e, the share of the target that is spread over all classes.

    Raises:
        ValueError: If a weight is not finite and at least 0, or the smoothing is not in [0, 1]; when called, if the
            logits are not one per weight.
    """

    class_weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if self.class_weights is not None:
            object.__setattr__(self, "class_weights", tuple(float(weight) for weight in self.class_weights))
            if not all(0 <= weight < float("inf") for weight in self.class_weights) or not any(self.class_weights):
                raise ValueError(f"class weights must be finite, at least 0 and not all 0, got {self.class_weights}")
        if not 0 <= self.label_smoothing <= 1:
            raise ValueError(f"label smoothing is a share between 0 and 1, got {self.label_smoothing}")

    def __call__(self, outputs: Float[Tensor, "B C"], targets: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Losses in nats, one per example."""
        surprisals = -torch.log_softmax(outputs, dim=-1)
        if self.class_weights is not None:
            if len(self.class_weights) != outputs.shape[-1]:
                raise ValueError(
                    f"class weights must be one per output, {outputs.shape[-1]}, got {len(self.class_weights)}"
                )
            surprisals = surprisals * surprisals.new_tensor(self.class_weights)
        losses = surprisals.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        if self.label_smoothing == 0:
            return losses
        return (1 - self.label_smoothing) * losses + self.label_smoothing * surprisals.mean(-1)


@dataclass(frozen=True)
class Bernoulli(LabelPredictive):
    """l_i = sum_k log(1 + e^{z_ik}) - y_ik z_ik for logits z: K labels that are on or off, independently of each other.

    One logit decides between two classes (outputs (B,) or (B, 1), targets 0 or 1); several are a multi-label network.
    """

    def __call__(self, outputs: Float[Tensor, "B *K"], targets: Tensor) -> Float[Tensor, " B"]:
        """Losses in nats, one per example, the sum over its labels."""
        logits = outputs.reshape(len(outputs), -1)
        return (softplus(logits) - targets.reshape(len(targets), -1).to(logits) * logits).sum(-1)


@dataclass(frozen=True)
class GaussianNoise(RealPredictive):
    """l_i = 1/2 sum_k [log(2 pi s_k^2) + (y_ik - m_ik)^2 / s_k^2]: regression with known or learned noise.

    Attributes:
        scale: s, the standard deviation of the noise, or s_k of each target; None where the network carries it as a
            parameter, see `LearnedNoise`: the second half of its outputs is then log s_k.

    Raises:
        ValueError: If s is not positive; when called, if outputs and targets do not fit.
    """

    scale: float | tuple[float, ...] | None = 1.0

    def __post_init__(self) -> None:
        scales = self.scale if isinstance(self.scale, tuple) else (1.0 if self.scale is None else self.scale,)
        if not scales or not all(scale > 0 for scale in scales):
            raise ValueError(f"the noise scale must be positive, got {self.scale}")

    def __call__(self, outputs: Float[Tensor, "B *out"], targets: Float[Tensor, "B *target"]) -> Float[Tensor, " B"]:
        """Losses in nats, one per example."""
        mean, log_scale = self.split(outputs)
        return self.losses(mean, log_scale, targets)

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
