"""Trainings that leave the finite numbers: noticed within a few steps, refused with the member and the step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from bayes_influence.errors import BayesInfluenceError

CHECK_EVERY = 25
"""Steps between two looks for non-finite objectives: often enough to lose little, rare enough to cost nothing where a
look waits for an accelerator."""


class NonFiniteTrainingError(BayesInfluenceError, RuntimeError):
    """A member's objective became NaN or infinite; the message names the member and the step."""


def check_finite(values: Float[Tensor, "steps E"], first: int, labels: Sequence[str]) -> None:
    """Refuses objectives that are NaN or infinite.

    Args:
        values: Objectives of the last steps.
        first: Number of the first of these steps.
        labels: What the members are called.

    Raises:
        NonFiniteTrainingError: Naming the first such step, and the first member in it.
    """
    bad = ~torch.isfinite(values)
    if not bad.any():
        return
    step, which = (int(index) for index in bad.nonzero()[0])
    raise NonFiniteTrainingError(
        f"{labels[which]}: the objective became {float(values[step, which])} at step {first + step}; lower the "
        "learning rate, clip the gradient (`clip` of a training in minibatches), standardise the inputs, or use a "
        "smaller initial scale"
    )
