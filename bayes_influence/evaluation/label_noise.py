"""How probable it is that a label is wrong, and which list of labels holds at most a given share of right ones.

A mixture of right and wrong labels, fitted to what networks predict of examples that they were not trained on, by
nothing but these predictions and the labels as they are; no example needs to be known.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

TAIL = 0.75
"""gamma: right labels against a confident prediction are more frequent than a softmax has them (gamma = 1). Chosen on
the first seed of `benchmarks/label_errors.py`: 1 let false discoveries rise to .35, 0.5 found half as much as 0.75."""

STRANGE = 0.002
"""epsilon: share of the right labels of which predictions know nothing, being of kinds that networks have not learned.
Chosen on two seeds of MNIST and Fashion-MNIST, see docs/find_mislabelled.md: with 0, of the labels that 2 % wrong ones
of any class let it flag there, .17 were right, with 0.002 .12; 0.004 found half as many."""

SHARPNESS = torch.logspace(-0.5, 1.3, 32, dtype=torch.float64)
"""beta that are averaged over."""

RATES = torch.linspace(0.03, 0.67, 64, dtype=torch.float64) ** 2
"""Shares of wrong labels that are averaged over, .1 % to 45 %, closer to each other where they are small."""

TURNS = 30
"""Turns of expectation and maximisation, for every beta."""

TINY = 1e-12
"""Added to probabilities before their logarithm is taken."""


@dataclass(frozen=True, eq=False)
class LabelNoise:
    """What labels are likely to be, given predictions.

    Attributes:
        rate: Share of the labels that is wrong.
        posterior: (n, C) probability that each class is the right one.
        wrong: (n,) probability that the label is wrong.
        proposed: (n,) the most probable class other than the label.
    """

    rate: float
    posterior: Float[Tensor, "n C"]
    wrong: Float[Tensor, " n"]
    proposed: Int[Tensor, " n"]

    @property
    def false_discovery_rate(self) -> Float[Tensor, " n"]:
        """For each example, the expected share of right labels in the shortest list that holds it (Sun & Cai 2007).

        Lists are by falling probability; the share is the mean of 1 - wrong over the list, and never falls with its
        length. Examples up to a level form the list with at most that rate.
        """
        order = self.wrong.argsort(descending=True, stable=True)
        counts = torch.arange(1, len(order) + 1, dtype=self.wrong.dtype)
        found = torch.empty_like(self.wrong)
        found[order] = (1 - self.wrong[order]).cumsum(0) / counts
        return found

    def flagged(self, level: float) -> Bool[Tensor, " n"]:
        """Which labels are on the longest list whose expected share of right labels is at most `level`.

        Args:
            level: The share, between 0 and 1.

        Raises:
            ValueError: If the level is no such number.
        """
        if not 0 < level < 1:
            raise ValueError(f"the level of a false-discovery rate lies between 0 and 1, got {level}")
        return self.false_discovery_rate <= level


def label_noise(probabilities: Float[Tensor, "n C"], labels: Int[Tensor, " n"]) -> LabelNoise:
    """Fits a mixture of right and wrong labels to predictions, and reads off which are wrong.

    p(label | x) = (1 - pi) [(1 - epsilon) s_label(x) + epsilon / C] + pi sum_k s_k(x) W_k,label

    s(x) = softmax(-beta d(x)^gamma) is what is believed of the right class, with d_c = log max_k p_k(x) - log p_c(x)
    and p the predictions; W_kl is the share of class k's wrong labels that say l, found by expectation and
    maximisation for every beta (one more wrong label of each class, spread over the others, keeps it from 0). The
    answer is the average over beta and pi, each weighed by its likelihood.

    Networks that were trained on wrong labels, too, are less sure than they should be, which beta mends; wrong labels
    are told from ambiguous examples by that they contradict sure predictions as often as unsure ones.

    The rate of right labels is therefore kept where the right labels of surely predicted examples agree with the
    prediction, but for the share epsilon. More right labels that do not, of rare examples, are counted as wrong.

    Args:
        probabilities: Of the classes, by networks that were trained without the example.
        labels: As they are, right or wrong.

    Raises:
        ValueError: If probabilities are none, or labels no classes of theirs.
    """
    if not bool(((probabilities >= 0) & (probabilities <= 1)).all()):
        raise ValueError("probabilities lie between 0 and 1; take softmax(logits) where these are logits")
    if len(labels) != len(probabilities) or int(labels.max()) >= probabilities.shape[1] or int(labels.min()) < 0:
        raise ValueError(
            f"labels must be one class in 0..{probabilities.shape[1] - 1} for each of {len(probabilities)} examples"
        )
    logs = (probabilities.double() + TINY).log()
    distance = (logs.amax(dim=1, keepdim=True) - logs) ** TAIL
    beliefs = [torch.softmax(-beta * distance, dim=1) for beta in SHARPNESS]
    pairs = [(belief, _confusion(belief, labels)) for belief in beliefs]
    parts = [_parts(belief, confusion, labels) for belief, confusion in pairs]
    evidence = torch.stack([_evidence(*part, confusion) for part, (_, confusion) in zip(parts, pairs, strict=True)])
    weights = torch.softmax(evidence.flatten(), dim=0).reshape(evidence.shape)
    posterior = torch.zeros_like(logs)
    for (belief, confusion), part, own in zip(pairs, parts, weights, strict=True):
        wrong = _wrong(*part) @ own
        share = belief * confusion[:, labels].T
        posterior += wrong[:, None] * share / share.sum(dim=1, keepdim=True).clamp(min=torch.finfo().tiny)
    wrong = posterior.sum(dim=1).clamp(max=1)
    rows = torch.arange(len(labels))
    proposed = posterior.argmax(dim=1)
    posterior[rows, labels] = 1 - wrong
    return LabelNoise(float((weights.sum(dim=0) * RATES).sum()), posterior, wrong, proposed)


def _confusion(belief: Float[Tensor, "n C"], labels: Int[Tensor, " n"]) -> Float[Tensor, "C C"]:
    """W of one beta: rows sum to 1, the diagonal is 0."""
    classes, rate = belief.shape[1], 0.1
    other = 1 - torch.eye(classes, dtype=belief.dtype)
    confusion = other / (classes - 1)
    if classes == 2:
        return confusion
    given = torch.nn.functional.one_hot(labels, classes).to(belief.dtype)
    right = _right(belief, labels)
    for _ in range(TURNS):
        share = belief * confusion[:, labels].T
        moved = share.sum(dim=1)
        wrong = rate * moved / ((1 - rate) * right + rate * moved).clamp(min=torch.finfo().tiny)
        rate = max(float(wrong.mean()), float(RATES[0]))
        counts = (share * (wrong / moved.clamp(min=torch.finfo().tiny))[:, None]).T @ given
        confusion = other * (counts + 1 / (classes - 1))
        confusion = confusion / confusion.sum(dim=1, keepdim=True)
    return confusion


def _parts(
    belief: Float[Tensor, "n C"], confusion: Float[Tensor, "C C"], labels: Int[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Probabilities of each label if it is right, and if it is wrong."""
    return _right(belief, labels), (belief * confusion[:, labels].T).sum(dim=1)


def _right(belief: Float[Tensor, "n C"], labels: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Probability of each label if it is right."""
    return (1 - STRANGE) * belief.gather(1, labels[:, None])[:, 0] + STRANGE / belief.shape[1]


def _evidence(
    right: Float[Tensor, " n"], wrong: Float[Tensor, " n"], confusion: Float[Tensor, "C C"]
) -> Float[Tensor, " rates"]:
    """Log-likelihood of all labels at each of `RATES`, with the prior of W."""
    mixed = right[:, None] * (1 - RATES) + wrong[:, None] * RATES
    away = confusion[~torch.eye(len(confusion), dtype=torch.bool)]
    return mixed.clamp(min=torch.finfo().tiny).log().sum(dim=0) + away.log().sum() / (len(confusion) - 1)


def _wrong(right: Float[Tensor, " n"], wrong: Float[Tensor, " n"]) -> Float[Tensor, "n rates"]:
    """Probability that each label is wrong at each of `RATES`."""
    moved = wrong[:, None] * RATES
    return moved / (right[:, None] * (1 - RATES) + moved).clamp(min=torch.finfo().tiny)
