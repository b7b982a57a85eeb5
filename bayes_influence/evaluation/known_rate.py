"""Whether the rate of a list of wrong labels can be told, by what is seen of the predictions and labels themselves."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

PER_CLASS = 30
"""Examples of a class, on average, below which networks contradict too many right labels surely: of the digits with 20
and 10 each, a third of the flagged labels were right at a level of a tenth, and of wine's with 20 two fifths."""

AGREEING = 0.6
"""Share of the labels that held-out networks must predict. Of 20 searches below it in which the mixture flagged labels,
more were right than the level says, beyond their interval, in 15; see `benchmarks/label_errors.py --hard`."""

RISE = 2.5
"""Standard errors by which the surest predictions may contradict fewer labels than the next ones: 2.4 at most in 216
searches of the tables of `benchmarks/label_errors.py`, 2.9 to 6.7 in those of 3 000 images of CIFAR-10."""

SUREST, NEXT = 10, 3
"""The surest predictions are one in ten; the next ones are those up to three in ten."""


def doubt_of_rate(probabilities: Float[Tensor, "n C"], labels: Int[Tensor, " n"]) -> str | None:
    """Why the false-discovery rate of `label_noise` cannot be told here, in a few words; None where it can.

    The rate rests on that wrong labels contradict sure predictions as often as unsure ones, and right labels sure ones
    next to never. Then the share of contradicted labels is the same among the surest predictions as among the next
    ones. Where it rises from the surest tenth to the next two,

        z = (c_next - c_surest) / sqrt(c (1 - c) (1 / n_surest + 1 / n_next)) > `RISE`

    with shares c of contradicted labels, networks are wrong even where they are surest. They also are where they
    predict less than `AGREEING` of all labels, or no more than naming the most frequent one does, and where there are
    fewer than `PER_CLASS` examples a class.

    Args:
        probabilities: Of the classes, by networks that were trained without the example.
        labels: As they are, right or wrong.
    """
    contradicted = (probabilities.argmax(dim=1) != labels).double()
    agreement, most = 1 - float(contradicted.mean()), float(labels.bincount().max()) / len(labels)
    predict, per_class = (
        f"held-out networks predict {agreement:.1%} of the labels",
        len(labels) / probabilities.shape[1],
    )
    if agreement <= most:
        return (
            f"{predict}, and the most frequent one alone {most:.1%}: they learn nothing here that would tell wrong "
            "labels from right ones"
        )
    if per_class < PER_CLASS:
        return (
            f"there are {per_class:.3g} examples of a class on average, and at least {PER_CLASS} are needed: networks "
            "that see so few contradict many right labels"
        )
    if agreement < AGREEING:
        return (
            f"{predict}, and at least {AGREEING:.0%} are needed: networks that know so little contradict many right "
            "labels"
        )
    unsure = probabilities.sort(dim=1, descending=True).values[:, 1:].sum(dim=1)
    in_order = contradicted[unsure.argsort(stable=True)]
    count = len(labels) // SUREST
    surest, after = in_order[:count], in_order[count : NEXT * count]
    if _rise(surest, after) > RISE:
        return (
            f"the surest tenth of the held-out predictions contradicts {float(surest.mean()):.1%} of the labels and "
            f"the next two tenths {float(after.mean()):.1%}: networks are wrong even where they are sure"
        )
    return None


def _rise(first: Float[Tensor, " m"], second: Float[Tensor, " k"]) -> float:
    """By how many standard errors the mean of the second is above that of the first; 0 where all are alike."""
    share = float(torch.cat([first, second]).mean()) if len(first) else 0.0
    if not 0 < share < 1:
        return 0.0
    error = math.sqrt(share * (1 - share) * (1 / len(first) + 1 / len(second)))
    return (float(second.mean()) - float(first.mean())) / error
