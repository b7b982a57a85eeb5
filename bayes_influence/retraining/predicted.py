"""What an influence estimate predicts, in the form of refits: so that it can be compared with real ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from bayes_influence.data.dataset import Dataset
from bayes_influence.influence.influence import Influence
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.reweighting import Removals, as_removals
from bayes_influence.retraining.minimum import check_seeds
from bayes_influence.retraining.problem import refit_problem
from bayes_influence.retraining.refits import Refits
from bayes_influence.training.fits import Fits


def predicted_refits(
    fits: Fits,
    train: Dataset,
    removed: Removals | Int[Tensor, "S k"],
    influence: Callable[[Objective], Influence],
) -> Refits:
    """Where influence says that the parameters go: theta_hat + sum_i (1 - w_i) (C + D)^-1 g_i / n.

    Args:
        fits: Trained networks, S of them.
        train: Their training examples.
        removed: What to remove, or ids (S, k) to remove one at a time.
        influence: Makes the influence estimate, with its curvature, damping and solver, where a fit stands.

    Returns:
        The predictions. Nothing was minimised: their gradient norms are NaN, and none counts as converged.

    Raises:
        ValueError: If the removals are for another number of seeds than there are fits.
    """
    removals = as_removals(removed)
    objective, whole = refit_problem(fits.objective, fits.params, train)
    check_seeds(removals, len(whole.start))
    lacking = 1 - removals.data_weights(train, torch.float64)
    ends = []
    for seed, start in enumerate(whole.start):
        moved = lacking[seed].abs().sum(0).nonzero()[:, 0]
        steps = influence(fits.at(seed)).on_parameters(train.ids[moved])
        ends.append(start + (lacking[seed][:, moved].to(steps) @ steps).to(start))
    free = whole.layout.unflatten(torch.stack(ends))
    refits = lacking.shape[1]
    norms = torch.full(lacking.shape[:2], torch.nan, dtype=whole.start.dtype, device=whole.start.device)
    params = {
        name: free[name] if name in free else value.unsqueeze(1).repeat(1, refits, *[1] * (value.ndim - 1))
        for name, value in whole.params.items()
    }
    return Refits(objective, params, removals, norms, torch.zeros_like(norms, dtype=torch.bool))
