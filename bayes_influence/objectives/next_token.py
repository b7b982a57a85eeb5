"""`NextToken`: the loss of a sequence of tokens, each predicted from those before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from bayes_influence.moments.moments import Moments
from bayes_influence.objectives.predictive import Predictive

IGNORED = -100
"""The target of a token that does not count, as Transformers mark padding and prompts."""


@dataclass(frozen=True)
class NextToken(Predictive):
    """l_i = sum_t m_it (-log p(y_it | y_i1, ..., y_i,t-1)): what a language model is trained with, one loss a sequence.

    Outputs are logits (B, T, V), targets the tokens (B, T), as Transformers take them under `labels`: the logits at
    t - 1 predict the token at t, and nothing predicts the first one. m_it is 0 where the target is -100.

    Attributes:
        reduction: `"sum"` over the tokens that count, or `"mean"`: divided by their number in the sequence. (A mean
            over all tokens of a batch, Transformers' own loss, weighs a sequence by the batch that it is in.)
        shift: Whether the logits at t - 1 predict the target at t; otherwise those at t do, for targets that are moved
            already, or labels of tokens.

    Raises:
        ValueError: If the reduction is unknown.
    """

    reduction: Literal["sum", "mean"] = "sum"
    shift: bool = True

    def __post_init__(self) -> None:
        if self.reduction not in ("sum", "mean"):
            raise ValueError(f"a sequence's loss is the 'sum' or the 'mean' over its tokens, got {self.reduction!r}")

    def __call__(self, outputs: Float[Tensor, "B T V"], targets: Int[Tensor, "B T"]) -> Float[Tensor, " B"]:
        """Losses in nats, one per sequence."""
        return self.terms(outputs, targets).sum(dim=1)

    def terms(self, outputs: Float[Tensor, "B T V"], targets: Int[Tensor, "B T"]) -> Float[Tensor, "B T"]:
        """What each token adds to its sequence's loss; 0 for one that does not count."""
        counted = self.counted(targets)
        predicting = functional.pad(outputs[:, :-1], (0, 0, 1, 0)) if self.shift else outputs
        surprisals = -torch.log_softmax(predicting, dim=-1)
        found = surprisals.gather(-1, torch.where(counted, targets, 0).unsqueeze(-1)).squeeze(-1)
        terms = torch.where(counted, found, 0.0)
        return terms / counted.sum(dim=1, keepdim=True).clamp(min=1) if self.reduction == "mean" else terms

    def counted(self, targets: Int[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
        """m: which tokens count."""
        counted = targets != IGNORED
        if not self.shift:
            return counted
        return counted & (torch.arange(targets.shape[1], device=targets.device) > 0)

    def check(self, outputs: Any, targets: Tensor, name: str = "the batch", ids: Tensor | None = None) -> None:
        """Refuses what is no logit per token of a vocabulary, or no token; see `Predictive.check`.

        Raises:
            TypeError: If the outputs are not of this kind, or the targets are no whole numbers.
            ValueError: If shapes or values do not fit, or no token of a sequence counts.
        """
        logits = self._kind_checked(outputs)
        if logits.ndim != 3 or targets.shape[1:] != logits.shape[1:2]:
            raise ValueError(
                f"{name}: NextToken needs logits (n, T, V) and the tokens (n, T) as targets, got outputs of shape "
                f"(n, {', '.join(map(str, logits.shape[1:]))}) and targets {tuple(targets.shape)}; CrossEntropy takes "
                f"one class per example"
            )
        if targets.dtype != torch.int64:
            raise TypeError(f"{name}: NextToken needs tokens as targets, int64, got {targets.dtype}")
        counted, count = self.counted(targets), logits.shape[2]
        wrong = (counted & ((targets < 0) | (targets >= count))).any(dim=1)
        empty = ~counted.any(dim=1)
        for bad, problem in ((wrong, f"has tokens outside 0..{count - 1}"), (empty, "has no token that counts")):
            if bad.any():
                first = int(bad.nonzero()[0, 0])
                number = first if ids is None else int(ids[first])
                raise ValueError(
                    f"{name}: the sequence with id {number} {problem} ({int(bad.sum())} of {len(targets)} do); a token "
                    f"that is not to count has the target {IGNORED}"
                )

    def hits(self, outputs: Tensor | Moments, targets: Tensor) -> Float[Tensor, " B"]:
        """Which share of a sequence's tokens has the largest logit."""
        logits, counted = self._kind_checked(outputs).detach(), self.counted(targets)
        right = (logits.argmax(dim=-1).roll(int(self.shift), dims=1) == targets) & counted
        return right.sum(dim=1).to(logits) / counted.sum(dim=1).clamp(min=1)

    def margin(self, outputs: Tensor | Moments, targets: Tensor) -> Float[Tensor, " B"]:
        """Not defined.

        Raises:
            TypeError: Always.
        """
        raise self._of_one_token("margin")

    def entropy(self, outputs: Tensor | Moments) -> Float[Tensor, " B"]:
        """Not defined.

        Raises:
            TypeError: Always.
        """
        raise self._of_one_token("entropy")

    def variance(self, outputs: Tensor | Moments) -> Float[Tensor, " B"]:
        """Not defined.

        Raises:
            TypeError: Always.
        """
        raise self._of_one_token("variance")

    def mutual_information(self, outputs: Moments) -> Float[Tensor, " B"]:
        """Not defined.

        Raises:
            TypeError: Always.
        """
        raise self._of_one_token("mutual information")

    @staticmethod
    def _of_one_token(what: str) -> TypeError:
        return TypeError(
            f"a sequence has no {what} that could be summed up from one forward pass; measure one token, with "
            f"TokenSurprisal(position) or a function of (outputs, targets)"
        )
