"""What a Bayesian network's posterior predicts when its weights are sampled, beside what its moments say."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.data.dataset import Dataset
from bayes_influence.evaluation.calibration import calibration
from bayes_influence.moments.check import moment_check
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.prediction import predict_classes

logger = logging.getLogger(__name__)

REFEREE_DRAWS = 64
"""Draws of the weights for a report: on LeNet and all test images of MNIST as much work as two epochs."""

CHECKED_EXAMPLES = 32
"""Examples on which moments are held against sampled weights, layer by layer."""

REFEREE_BATCH = 500
"""Examples predicted at once."""

PARTING = 0.1
"""Share of the propagated negative log-likelihood by which the sampled one may be another before a report warns."""


def neglect(objective: Objective, data: Dataset) -> dict[str, float | str]:
    """What the moments of a Bayesian network neglect, by name and size, in a row of a report.

    Args:
        objective: A Bayesian network, or any other.
        data: Examples, of which the first `CHECKED_EXAMPLES` are propagated and sampled.

    Returns:
        `variance_ratio`, propagated over sampled variances at the output, and `neglect`, see `MomentCheck.summary`;
        NaN and nothing for a network without a posterior, and NaN and why where the network cannot be checked.
    """
    if not objective.is_bayesian:
        return {"variance_ratio": np.nan, "neglect": ""}
    few = objective.fitting(data.select(range(min(CHECKED_EXAMPLES, len(data)))).batch()).inputs
    try:
        check = moment_check(objective.network, few, n_samples=REFEREE_DRAWS)
    except ValueError as error:
        return {"variance_ratio": np.nan, "neglect": f"not checked: {error}"}
    return {"variance_ratio": check.layers[-1].variance_ratio, "neglect": check.summary}


def sampled_row(objective: Objective, data: Dataset, propagated: Float[Tensor, "n C"]) -> dict[str, float]:
    """Scores of predictions averaged over sampled weights, and how far they are from those of the moments.

    Args:
        objective: A Bayesian network, or any other.
        data: Test examples of one class each.
        propagated: What the moments predict for them.

    Returns:
        `sampled_nll` and `sampled_ece`, and `sampled_nll_error`, the standard error over the examples of the difference
        of the two negative log-likelihoods; NaN for a network without a posterior.
    """
    if not objective.is_bayesian:
        return dict.fromkeys(("sampled_nll", "sampled_ece", "sampled_nll_error"), np.nan)
    parts = [
        predict_classes(objective, batch.inputs, mode="sampled", n_samples=REFEREE_DRAWS)
        for batch in data.batches(REFEREE_BATCH)
    ]
    sampled = torch.cat([part.probabilities for part in parts])
    targets = data.targets.unsqueeze(-1)
    logarithms = [part.double().gather(-1, targets).log() for part in (sampled, propagated)]
    found = calibration(sampled.double().cpu().numpy(), data.targets.cpu().numpy())
    error = float((logarithms[0] - logarithms[1]).std()) / len(data) ** 0.5
    return {"sampled_nll": found.nll, "sampled_ece": found.ece, "sampled_nll_error": error}


def warn_where_parted(label: str, nll: float, sampled: dict[str, float], options: Mapping[str, Any]) -> None:
    """Warns where sampled weights predict another thing than the moments that were trained.

    That is a difference of the negative log-likelihoods of more than `PARTING` of the propagated one and more than two
    standard errors.

    Args:
        label: The network.
        nll: Of the predictions by moments.
        sampled: As `sampled_row` returns it.
        options: Of the scheme: what moments it was trained with decides what may help.
    """
    exact, calibrated = options.get("method") == "exact", str(options.get("structure")).startswith("calibrated")
    better = ["the method 'exact'"] * (not exact) + ["the structure 'calibrated-covariance'"] * (not calibrated)
    difference = sampled["sampled_nll"] - nll
    if abs(difference) > max(PARTING * nll, 2 * sampled["sampled_nll_error"]):
        logger.warning(
            "%s: with sampled weights its negative log-likelihood is %.4f, by its moments %.4f: the moments are not "
            "the posterior's; look at moment_check, and train with %s",
            label,
            sampled["sampled_nll"],
            nll,
            " and ".join(better) or "a smaller regulariser_weight, for a narrower posterior",
        )
