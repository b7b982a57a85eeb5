"""Refits from scratch of schemes that draw random numbers while they train: dropout, sampled bounds."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.head import Head
from bayes_influence.objectives.parameters import Params
from bayes_influence.objectives.reweighting import Removals, as_removals
from bayes_influence.retraining.minimum import check_seeds
from bayes_influence.retraining.problem import RefitProblem, refit_problem
from bayes_influence.retraining.refits import Refits, per_seed, repeated
from bayes_influence.training.fits import Fits
from bayes_influence.training.minibatch import train_minibatches
from bayes_influence.training.minibatch_schedule import full_batches
from bayes_influence.training.schedules import Schedule


def sampled_refits(
    fits: Fits,
    train: Dataset,
    removed: Removals | Int[Tensor, "S k"],
    schedule: Schedule,
    start: Params,
    *,
    progress: bool = False,
) -> Refits:
    """Trains without each group as `fit_schemes` trains such a scheme, with the random numbers of the fit's seed.

    The control and all removals of a seed share that seed in every step, so they see the same masks: what differs
    between them is the removal, not the noise. Refits take turns.

    Args:
        fits: Trained networks, S of them, in all of their parameters.
        train: Their training examples.
        removed: What to remove, or ids (S, k) to remove one at a time.
        schedule: The fits' own: full batches, the learning rate along a cosine.
        start: Stacked parameters (S, ...) that the refits start from.
        progress: Whether to show a progress bar.

    Raises:
        NonFiniteTrainingError: Naming scheme, seed and refit.
        ValueError: If the fits' objective selects the last layer alone, or the removals are for another number of
            seeds.
    """
    removals = as_removals(removed)
    objective, whole = refit_problem(fits.objective, fits.params, train)
    if isinstance(objective.network, Head):
        raise ValueError(
            f"the scheme {fits.scheme.name} draws random numbers in the whole network while it trains, which a "
            f"training of the last layer alone does not repeat; retrain from the fit (`Minimum`), or select all "
            f"parameters"
        )
    seeds, refits = len(fits.seeds), removals.count + 1
    check_seeds(removals, seeds)
    weights = removals.data_weights(train, whole.start.dtype).flatten(0, 1)
    trained = train_minibatches(
        objective,
        repeated({name: start[name] for name in whole.params}, refits),
        train,
        full_batches(schedule, len(train)),
        [seed for seed in fits.seeds for _ in range(refits)],
        averaging=fits.scheme.averaging,
        data_weights=weights,
        step=fits.scheme.step(objective, len(train)),
        labels=[f"{fits.scheme.name}, seed {seed}, refit {index}" for seed in fits.seeds for index in range(refits)],
        progress=progress,
    )
    ends = RefitProblem(objective, trained.params, whole.batch, weights)
    gradients, _ = ends.gradients(ends.start, torch.arange(len(weights), device=weights.device))
    norms = gradients.norm(dim=1).unflatten(0, (seeds, -1))
    return Refits(
        objective=objective,
        params=per_seed(trained.params, seeds),
        removals=removals,
        gradient_norms=norms,
        converged=torch.zeros_like(norms, dtype=torch.bool),
    )
