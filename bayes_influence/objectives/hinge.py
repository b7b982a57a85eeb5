"""The hinge of support vector machines, and its smooth approximation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from jaxtyping import Float
from torch import Tensor

from bayes_influence.arguments import check_at_least
from bayes_influence.objectives.expected_softplus import softplus
from bayes_influence.objectives.predictive import LabelPredictive


@dataclass(frozen=True)
class SmoothHinge(LabelPredictive):
    """l_i = t log(1 + exp((1 - s_i z_i) / t)), s_i = +-1: Koh & Liang (2017), section 4.2, in which t = 0 is the hinge.

    Outputs are one score z per label, (B,) or (B, K), targets 0 or 1 (s = -1 or 1); of several labels it is the sum. It
    exceeds the hinge max(0, 1 - s z) by at most t log 2, at the kink, where its second derivative is 1 / (4 t). That of
    the hinge is 0 everywhere and does not exist there, so that influence at t = 0 knows the regulariser's curvature
    alone.

    Attributes:
        temperature: t, at least 0.

    Raises:
        ValueError: If t is negative or not finite.
    """

    temperature: float

    def __post_init__(self) -> None:
        check_at_least(0, temperature=self.temperature)

    def __call__(self, outputs: Float[Tensor, "B *K"], targets: Tensor) -> Float[Tensor, " B"]:
        """Losses, one per example."""
        scores = outputs.reshape(len(outputs), -1)
        signs = 2 * targets.reshape(len(targets), -1).to(scores) - 1
        slack = 1 - signs * scores
        if self.temperature == 0:
            return slack.clamp(min=0).sum(-1)
        return (self.temperature * softplus(slack / self.temperature)).sum(-1)

    def entropy(self, outputs: object) -> NoReturn:
        """Refused: a hinge is no likelihood, and its scores have no distribution of labels."""
        raise TypeError(
            f"{self!r} is no likelihood: its scores say which label, not how probable; take Bernoulli for probabilities"
        )

    variance = mutual_information = entropy
