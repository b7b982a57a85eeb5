"""The likelihood of a deep ensemble: networks that are trained each for itself, and predict together."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.predictive import ClassPredictive


@dataclass(frozen=True)
class EnsembleCrossEntropy(ClassPredictive):
    """l_i = (1/K) sum_k l(z_ik, y_i) for the logits z of K networks; they predict the mean of their softmaxes.

    The mean of the members' losses is what each of them minimises for itself (Lakshminarayanan et al. 2017), and an
    upper bound on the loss of the mean prediction (Jensen).
    """

    def __call__(self, outputs: Float[Tensor, "B K C"], targets: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Losses in nats, one per example."""
        size = outputs.shape[1]
        each = CrossEntropy()(outputs.flatten(0, 1), targets.repeat_interleave(size))
        return each.unflatten(0, (len(targets), size)).mean(1)

    def members(self, outputs: Float[Tensor, "B K C"]) -> Float[Tensor, "K B C"]:
        """Every network's logits."""
        return outputs.transpose(0, 1)

    def class_logits(self, outputs: Float[Tensor, "B K C"]) -> Float[Tensor, "B C"]:
        """Log (1/K) sum_k softmax(z_k): a softmax of them is the mean of the softmaxes."""
        return torch.logsumexp(torch.log_softmax(outputs, dim=-1), dim=1) - log(outputs.shape[1])

    def check(self, outputs: Any, targets: Tensor, name: str = "the batch", ids: Tensor | None = None) -> None:
        """Refuses what are no logits of several networks, or no class; see `Predictive.check`.

        Raises:
            TypeError: If the outputs are not of this kind, or the targets are no whole numbers.
            ValueError: If shapes or values do not fit.
        """
        logits = self._kind_checked(outputs)
        if logits.ndim != 3:
            raise ValueError(
                f"{name}: {self._own_name} needs outputs (n, K, C), the logits of K networks, got shape "
                f"{tuple(logits.shape)}; make one network of several with NetworkEnsemble, or take CrossEntropy"
            )
        super().check(logits[:, 0], targets, name, ids)
