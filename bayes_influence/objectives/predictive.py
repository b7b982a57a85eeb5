"""What a network's outputs mean, which its likelihood knows: one class, several labels, or real numbers with noise.

A likelihood of the library is a `Predictive`: accuracy, entropy, margin and the prediction itself are asked of it. A
function of the user's own says nothing about its outputs; then nothing is assumed about them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import e, log, pi
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bayes_influence.moments.arithmetic import mean_of
from bayes_influence.moments.moments import Moments
from bayes_influence.objectives.quasi_random import sobol_normals

DRAWS = 128
"""Quasi-random draws of the logits; a power of two keeps the set balanced."""


class Predictive(ABC):
    """A likelihood that says what the outputs mean: the predictive distribution q(y) = E p(y | outputs) of the target.

    For `Moments` the expectation is over independent Gaussian outputs, for a tensor there is nothing to average.
    """

    moments: bool = False
    """Whether it takes the `Moments` of a Bayesian network, or one tensor."""

    @abstractmethod
    def check(self, outputs: Any, targets: Tensor, name: str = "the batch", ids: Tensor | None = None) -> None:
        """Refuses outputs and targets that do not fit.

        Args:
            outputs: Of some of the examples; only their kind and the shape of one example's count.
            targets: Of all of them, (n, ...).
            name: Of the data, for the message.
            ids: (n,), named in the message; positions where not given.

        Raises:
            TypeError: If the outputs or targets are of another kind.
            ValueError: If shapes or values do not fit.
        """

    @abstractmethod
    def hits(self, outputs: Tensor | Moments, targets: Tensor) -> Float[Tensor, " B"]:
        """1 where the prediction is right, 0 where it is wrong; NaN where right and wrong do not exist."""

    @abstractmethod
    def margin(self, outputs: Tensor | Moments, targets: Tensor) -> Float[Tensor, " B"]:
        """How far a logit's mean is above that of the closest other class; negative where the prediction is wrong.

        Raises:
            TypeError: If the targets are real numbers.
        """

    @abstractmethod
    def entropy(self, outputs: Tensor | Moments) -> Float[Tensor, " B"]:
        """Of q, in nats."""

    @abstractmethod
    def variance(self, outputs: Tensor | Moments) -> Float[Tensor, " B"]:
        """Total variance of the target under q, that of a class as a one-hot vector."""

    @abstractmethod
    def mutual_information(self, outputs: Moments) -> Float[Tensor, " B"]:
        """Of target and outputs, in nats: the entropy of q minus the mean entropy of p(y | outputs)."""

    def _kind_checked(self, outputs: Any) -> Tensor:
        """The outputs, or their expectations, where they are of the kind that this likelihood takes."""
        wanted: type = Moments if self.moments else Tensor
        if not isinstance(outputs, wanted):
            advice = "make it one with to_bayesian" if self.moments else "take the expected likelihood of that kind"
            came = f"the {type(outputs).__name__} of a Bayesian one" if isinstance(outputs, Moments) else ""
            expected = "Moments of a Bayesian" if self.moments else "tensor of a deterministic"
            raise TypeError(
                f"{self._own_name} takes the {expected} network, got {came or type(outputs).__name__}; "
                + (advice if isinstance(outputs, Tensor | Moments) else "return the outputs alone")
            )
        return mean_of(outputs)

    @property
    def _own_name(self) -> str:
        return type(self).__name__


class ClassPredictive(Predictive):
    """Classes: a softmax over logits (B, C), the target one class index in 0..C-1."""

    def class_logits(self, outputs: Any) -> Any:
        """Logits (B, C) of the classes, or (B, K, 2) of K labels; `Moments` of them where outputs are `Moments`."""
        return outputs

    def members(self, outputs: Any) -> Tensor | None:
        """Logits (K, B, C) of K networks that predict together; None where there is only one."""
        return None

    def class_indices(self, outputs: Tensor | Moments, targets: Tensor) -> Int[Tensor, "B *K"]:
        """The targets as indices into the last axis of `class_logits`."""
        return targets

    def check(self, outputs: Any, targets: Tensor, name: str = "the batch", ids: Tensor | None = None) -> None:
        """Refuses what is no logit per class, or no class; see `Predictive.check`.

        Raises:
            TypeError: If the outputs are not of this kind, or the targets are no whole numbers.
            ValueError: If shapes or values do not fit.
        """
        logits = self._kind_checked(outputs)
        if logits.ndim != 2 or logits.shape[1] < 2:
            alone = logits.ndim < 2 or (logits.ndim == 2 and logits.shape[1] == 1)
            advice = (
                "one logit of two classes is Bernoulli's (ExpectedBernoulli's), a real number GaussianNoise's"
                if alone
                else "take a likelihood of your own that sums over positions; its accuracy is then not reported"
            )
            raise ValueError(
                f"{name}: {self._own_name} needs outputs (n, C), a logit for each of C >= 2 classes, got shape "
                f"(n, {', '.join(map(str, logits.shape[1:]))}); {advice}".replace("(n, )", "(n,)")
            )
        if targets.dtype != torch.int64:
            raise TypeError(
                f"{name}: {self._own_name} needs class indices, int64, got {targets.dtype} of shape "
                f"{tuple(targets.shape)}; take targets.long() if they are, GaussianNoise for real targets, or a "
                f"likelihood of your own for soft labels"
            )
        if targets.ndim != 1:
            raise ValueError(
                f"{name}: {self._own_name} needs one class per example, shape ({len(targets)},), got "
                f"{tuple(targets.shape)}; take targets.flatten() for one column, targets.argmax(1) for one-hot ones, "
                f"Bernoulli for several labels"
            )
        count = logits.shape[1]
        _refuse(
            (targets < 0) | (targets >= count),
            targets,
            ids,
            f"{name}: {self._own_name} needs classes in 0..{count - 1}, one per output",
            "number the classes from 0, leave out examples without a class, or give the network more outputs",
        )

    def hits(self, outputs: Tensor | Moments, targets: Tensor) -> Float[Tensor, " B"]:
        """1 where the largest (mean) logit is the target's, of every label."""
        logits = mean_of(self.class_logits(outputs)).detach()
        right = logits.argmax(-1) == self.class_indices(outputs, targets)
        return right.reshape(len(right), -1).all(-1).to(logits)

    def margin(self, outputs: Tensor | Moments, targets: Tensor) -> Float[Tensor, " B"]:
        """z_y - max_{c != y} z_c of the logits' means; of several labels that of the worst."""
        logits = mean_of(self.class_logits(outputs))
        own = self.class_indices(outputs, targets).unsqueeze(-1) == torch.arange(logits.shape[-1], device=logits.device)
        margins = (logits * own).sum(-1) - torch.where(own, -torch.inf, logits).amax(-1)
        return margins.reshape(len(margins), -1).amin(-1)

    def entropy(self, outputs: Tensor | Moments) -> Float[Tensor, " B"]:
        """-sum_c q_c log q_c, summed over labels; by `DRAWS` fixed draws of the logits."""
        return _per_example(_entropy(self._log_q(self._log_draws(outputs))))

    def variance(self, outputs: Tensor | Moments) -> Float[Tensor, " B"]:
        """sum_c q_c (1 - q_c), summed over labels."""
        q = self._log_draws(outputs).exp().mean(0)
        return _per_example((q * (1 - q)).sum(-1))

    def mutual_information(self, outputs: Moments) -> Float[Tensor, " B"]:
        """Entropy of q minus the mean entropy of the draws, summed over labels."""
        draws = self._log_draws(outputs)
        return _per_example(_entropy(self._log_q(draws)) - _entropy(draws).mean(0))

    def _log_draws(self, outputs: Tensor | Moments) -> Float[Tensor, "S B *K C"]:
        """Log-probabilities of the classes under S draws of the logits; S = 1 for a tensor."""
        logits = self.class_logits(outputs)
        if not isinstance(logits, Moments):
            return torch.log_softmax(logits, dim=-1).unsqueeze(0)
        normals = torch.from_numpy(sobol_normals(DRAWS, logits.shape[-1], seed=0)).to(logits.expectation)
        normals = normals.reshape(DRAWS, *[1] * (logits.ndim - 1), -1)
        return torch.log_softmax(logits.expectation + logits.standard_deviation * normals, dim=-1)

    @staticmethod
    def _log_q(draws: Float[Tensor, "S B *K C"]) -> Float[Tensor, "B *K C"]:
        return torch.logsumexp(draws, dim=0) - log(len(draws))


class LabelPredictive(ClassPredictive):
    """K labels, each on or off with a logit of its own: outputs (B, K), or (B,) for one; targets 0 or 1 of that shape.

    One logit z is the same as two classes with the logits (0, z).
    """

    def class_logits(self, outputs: Any) -> Any:
        """(0, z_k) for every label: (B, K, 2), or (B, 2) for one label."""
        if isinstance(outputs, Moments):
            return Moments(self.class_logits(outputs.expectation), self.class_logits(outputs.variance))
        labels = outputs.reshape(len(outputs), -1)
        pairs = torch.stack([torch.zeros_like(labels), labels], dim=-1)
        return pairs.squeeze(1) if labels.shape[1] == 1 else pairs

    def class_indices(self, outputs: Tensor | Moments, targets: Tensor) -> Int[Tensor, "B *K"]:
        """0 or 1 for every label, (B, K), or (B,) for one."""
        labels = targets.reshape(len(targets), -1).to(torch.int64)
        return labels.squeeze(1) if labels.shape[1] == 1 else labels

    def check(self, outputs: Any, targets: Tensor, name: str = "the batch", ids: Tensor | None = None) -> None:
        """Refuses what is no logit per label, or no label; see `Predictive.check`.

        Raises:
            TypeError: If the outputs are not of this kind.
            ValueError: If shapes or values do not fit.
        """
        logits = self._kind_checked(outputs)
        count = logits[0].numel()
        if logits.ndim > 2 or targets.ndim > 2 or targets[0].numel() != count:
            raise ValueError(
                f"{name}: {self._own_name} needs a label for every logit, both of shape (labels,) or () per example, "
                f"got logits of shape {tuple(logits.shape[1:])} and targets of shape {tuple(targets.shape[1:])}; take "
                f"CrossEntropy for classes of which one is right"
            )
        wrong = ((targets != 0) & (targets != 1)).reshape(len(targets), -1)
        _refuse(
            wrong.any(1),
            targets.reshape(len(targets), -1).gather(1, wrong.long().argmax(1, keepdim=True)).squeeze(1),
            ids,
            f"{name}: {self._own_name} needs labels that are 0 or 1",
            "take (targets + 1) / 2 for labels of -1 and 1, targets - 1 for 1 and 2, or a likelihood of your own for "
            "soft ones",
        )


class RealPredictive(Predictive):
    """Real numbers: a Gaussian around each output, of standard deviation `scale`, or learned where that is None."""

    scale: float | tuple[float, ...] | None

    def split(self, outputs: Float[Tensor, "B *out"]) -> tuple[Float[Tensor, "B *target"], Float[Tensor, "*scales"]]:
        """The means m, and log s for each of them: one number for all, one for each target, or as it is learned."""
        if self.scale is None:
            mean, log_scale = outputs.chunk(2, dim=-1)
            return mean, log_scale
        if isinstance(self.scale, tuple):
            return outputs, outputs.new_tensor([log(scale) for scale in self.scale]).expand_as(outputs)
        return outputs, torch.full_like(outputs, log(self.scale))

    def check(self, outputs: Any, targets: Tensor, name: str = "the batch", ids: Tensor | None = None) -> None:
        """Refuses targets that are not a real number for every mean; see `Predictive.check`.

        Raises:
            TypeError: If the outputs are not of this kind, or the targets are no real numbers.
            ValueError: If the shapes do not fit.
        """
        mean, _ = self.split(self._kind_checked(outputs))
        if not targets.is_floating_point():
            raise TypeError(
                f"{name}: {self._own_name} needs real targets, got {targets.dtype}; take targets.to(torch.float32), or "
                f"CrossEntropy (TiltedCategorical) for classes"
            )
        if mean.shape[1:] != targets.shape[1:]:
            raise ValueError(
                f"{name}: targets must have the shape of the predicted means {(len(targets), *mean.shape[1:])}, got "
                f"{tuple(targets.shape)}; give them a column per output (and see LearnedNoise where the noise is "
                f"learned)"
            )

    def hits(self, outputs: Tensor | Moments, targets: Tensor) -> Float[Tensor, " B"]:
        """NaN: no prediction of a real number is right."""
        return torch.full((len(targets),), torch.nan, device=targets.device)

    def margin(self, outputs: Tensor | Moments, targets: Tensor) -> Float[Tensor, " B"]:
        """Not defined.

        Raises:
            TypeError: Always.
        """
        raise TypeError(f"{self._own_name} predicts real numbers, which have no margin; measure the loss instead")

    def entropy(self, outputs: Tensor | Moments) -> Float[Tensor, " B"]:
        """1/2 sum_k log(2 pi e (s_k^2 + v_k)), v the variances of the outputs: q is Gaussian."""
        return self._summed(lambda noise, variance: 0.5 * torch.log(2 * pi * e * (noise + variance)), outputs)

    def variance(self, outputs: Tensor | Moments) -> Float[Tensor, " B"]:
        """sum_k s_k^2 + v_k."""
        return self._summed(lambda noise, variance: noise + variance, outputs)

    def mutual_information(self, outputs: Moments) -> Float[Tensor, " B"]:
        """1/2 sum_k log(1 + v_k / s_k^2)."""
        return self._summed(lambda noise, variance: 0.5 * torch.log1p(variance / noise), outputs)

    def _summed(self, term: Callable[[Tensor, Tensor], Tensor], outputs: Tensor | Moments) -> Float[Tensor, " B"]:
        """The sum over targets of a term in s^2 and v."""
        noise = (2 * self.split(mean_of(outputs))[1]).exp()
        variance = self.split(outputs.variance)[0] if isinstance(outputs, Moments) else torch.zeros_like(noise)
        return _per_example(term(noise, variance))


def predictive_of(likelihood: object, what: str) -> Predictive:
    """The likelihood as something that says what outputs mean.

    Args:
        likelihood: Of an objective.
        what: What is to be computed from it, for the message.

    Raises:
        TypeError: If it does not say.
    """
    if isinstance(likelihood, Predictive):
        return likelihood
    name = getattr(likelihood, "__name__", type(likelihood).__name__)
    raise TypeError(
        f"{what} depends on what the outputs mean, and the likelihood {name!r} does not say; take one that does "
        f"(CrossEntropy, Bernoulli, GaussianNoise, or their expectations), or a function of (outputs, targets)"
    )


def check_outputs(
    likelihood: object, outputs: Any, targets: Tensor, name: str = "the batch", ids: Tensor | None = None
) -> None:
    """Refuses outputs and targets that do not fit a likelihood that says what they mean, see `Predictive.check`.

    Args:
        likelihood: Any; nothing is known about the targets of a function of the user's own.
        outputs: Of some of the examples.
        targets: Of all of them.
        name: Of the data, for the message.
        ids: (n,), named in the message.
    """
    if isinstance(likelihood, Predictive):
        likelihood.check(outputs, targets, name, ids)


def _refuse(bad: Bool[Tensor, " n"], values: Tensor, ids: Tensor | None, expected: str, advice: str) -> None:
    if not bad.any():
        return
    first = int(bad.nonzero()[0, 0])
    example = f"example {first}" if ids is None else f"id {int(ids[first])}"
    raise ValueError(
        f"{expected}, got {values[first].item():g} ({int(bad.sum())} of {len(bad)} examples do not fit, the first is "
        f"{example}); {advice}"
    )


def _entropy(log_p: Float[Tensor, "*lead C"]) -> Float[Tensor, "*lead"]:
    return -(log_p.exp() * log_p).sum(-1)


def _per_example(values: Float[Tensor, "B *rest"]) -> Float[Tensor, " B"]:
    return values.reshape(len(values), -1).sum(-1)
