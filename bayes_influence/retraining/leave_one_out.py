"""Leave-one-out retraining of whole ensembles: every seed times every removal, and a control that removes nothing.

Two ways, both from the fitted parameters (warm), both batched over seeds and removals:

- `newton_refits` minimises the objective in its selected parameters to a stated gradient norm. In the last layer the
  problem is convex, and this is *the* answer;
- `trained_refits` continues the training for a fixed number of epochs, in the last layer or in all parameters. For
  unregularised losses, whose minimum may lie at infinity, and for whole networks, which have no unique one.

What a removal does is the difference to the control, never to the parameters that the refits started from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_map
from tqdm.auto import tqdm

from bayes_influence.data.dataset import Batch, Dataset
from bayes_influence.objectives.head import head_params, is_last_layer, stacked_features
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import Params
from bayes_influence.retraining.removals import leave_one_out_weights
from bayes_influence.training.ensemble import train_ensemble
from bayes_influence.training.fits import Fits, stacked_problem
from bayes_influence.training.newton import StackedProblem, minimise_newton
from bayes_influence.training.schedules import Schedule

HESSIANS_AT_ONCE = 30_000_000
"""Entries of all Hessians that may be held at once; more seeds are refitted in turns."""


@dataclass(frozen=True, eq=False)
class Refits:
    """Parameters after every removal.

    Attributes:
        objective: The problem that was refitted: of the last layer on its features, or of the whole network.
        params: Stacked parameters (S, k+1, ...): S seeds, first the control, then one refit per removal.
        removed: (S, k) ids of the removed examples, each seed its own.
        gradient_norms: (S, k+1) norm of grad J where the refits ended.
        converged: (S, k+1) whether that is within the tolerance asked for.
    """

    objective: Objective
    params: Params
    removed: Int[Tensor, "S k"]
    gradient_norms: Float[Tensor, "S k_plus_1"]
    converged: Bool[Tensor, "S k_plus_1"]


def _removed_positions(train: Dataset, removed: Int[Tensor, "S k"]) -> Int[Tensor, "S k"]:
    return train.positions(removed.reshape(-1)).reshape(removed.shape)


def newton_refits(
    fits: Fits, train: Dataset, removed: Int[Tensor, "S k"], *, tolerance: float = 1e-10, progress: bool = False
) -> Refits:
    """Refits the selected parameters without each example by Newton's method.

    The Hessian of a refit starts as that of the fit minus the removed example's, H - H_i / n, so that a refit costs a
    handful of gradients instead of Hessians.

    Args:
        fits: Trained networks, S of them.
        train: Their training examples.
        removed: (S, k) ids to remove, one at a time.
        tolerance: Gradient norm at which a refit is done.
        progress: Whether to show a progress bar over seeds.

    Returns:
        The refits; those that did not reach the tolerance are marked, not hidden.
    """
    positions = _removed_positions(train, removed)
    objective, whole = stacked_problem(fits.objective, fits.params, train)
    seeds, size = whole.start.shape
    refits = positions.shape[1] + 1
    turn = max(1, HESSIANS_AT_ONCE // (refits * size * size))
    results = []
    with tqdm(total=seeds, desc="leave-one-out refits", unit="seed", disable=None if progress else True) as bar:
        for start in range(0, seeds, turn):
            rows = torch.arange(start, min(start + turn, seeds), device=positions.device)
            results.append(_newton_turn(objective, whole, rows, positions[rows], tolerance))
            bar.update(len(rows))
    return Refits(
        objective=objective,
        params={name: torch.cat([result[0][name] for result in results]) for name in results[0][0]},
        removed=removed,
        gradient_norms=torch.cat([result[1] for result in results]),
        converged=torch.cat([result[2] for result in results]),
    )


def _repeated(value: Any, times: int) -> Any:
    return tree_map(lambda leaf: leaf.repeat_interleave(times, dim=0), value)


def _newton_turn(
    objective: Objective, whole: StackedProblem, rows: Tensor, positions: Int[Tensor, "s k"], tolerance: float
) -> tuple[Params, Tensor, Tensor]:
    seeds, count = positions.shape
    refits = count + 1
    params = {name: value[rows] for name, value in whole.params.items()}
    batch = tree_map(lambda leaf: leaf[rows], whole.batch) if whole.own_data else whole.batch
    weights = leave_one_out_weights(positions, whole.examples, whole.start.dtype)
    hessians = whole.hessians(whole.start[rows], rows).unsqueeze(1).repeat(1, refits, 1, 1)
    for index, row in enumerate(rows.tolist()):
        hessians[index, 1:] -= whole.example_hessians(row, positions[index]) / whole.examples
    problem = StackedProblem(
        objective,
        _repeated(params, refits),
        Batch(*_repeated(batch, refits)) if whole.own_data else batch,
        weights.flatten(0, 1),
        own_data=whole.own_data,
    )
    result = minimise_newton(problem, tolerance=tolerance, hessians=hessians.flatten(0, 1))
    shaped = {name: value.unflatten(0, (seeds, refits)) for name, value in result.params.items()}
    return shaped, result.gradient_norms.reshape(seeds, refits), result.converged.reshape(seeds, refits)


def trained_refits(
    fits: Fits, train: Dataset, removed: Int[Tensor, "S k"], schedule: Schedule, *, progress: bool = False
) -> Refits:
    """Continues the training without each example for a fixed schedule, warm from the fitted parameters.

    In the last layer only where that is what the fits' objective selects, otherwise in all parameters. Averaging is
    not repeated: refits of an averaged network continue from its average.

    Args:
        fits: Trained networks, S of them.
        train: Their training examples.
        removed: (S, k) ids to remove, one at a time.
        schedule: Epochs and learning rates of the refits.
        progress: Whether to show a progress bar.
    """
    positions = _removed_positions(train, removed)
    objective, whole = stacked_problem(fits.objective, fits.params, train)
    seeds, count = positions.shape
    refits = count + 1
    weights = leave_one_out_weights(positions, whole.examples, whole.start.dtype).flatten(0, 1)
    batch = Batch(*_repeated(whole.batch, refits)) if whole.own_data else whole.batch
    trained = train_ensemble(
        objective,
        _repeated(whole.params, refits),
        batch,
        schedule,
        data_weights=weights,
        own_data=whole.own_data,
        labels=[f"{fits.scheme.name}, seed {seed}, refit {index}" for seed in fits.seeds for index in range(refits)],
        progress=progress,
    )
    problem = StackedProblem(objective, trained.params, batch, weights, own_data=whole.own_data)
    gradients, _ = problem.gradients(problem.start, torch.arange(len(weights), device=weights.device))
    norms = gradients.norm(dim=1).reshape(seeds, refits)
    shaped = {name: value.unflatten(0, (seeds, refits)) for name, value in trained.params.items()}
    return Refits(objective, shaped, removed, norms, torch.zeros_like(norms, dtype=torch.bool))


def losses_after(fits: Fits, refits: Refits, test: Dataset) -> Float[Tensor, "S k_plus_1 t"]:
    """Loss of every test example under every refit (index 0 of the second axis is the control)."""
    batch = test.batch()
    losses = vmap(refits.objective.losses, in_dims=(0, None))
    with torch.no_grad():
        if not is_last_layer(fits.objective):
            return vmap(losses, in_dims=(0, None))(refits.params, batch)
        features = stacked_features(fits.objective, fits.params, test.inputs)
        own = head_params(fits.objective, refits.params)
        return vmap(lambda params, inputs: losses(params, Batch(inputs, batch.targets)))(own, features)


def loss_changes(fits: Fits, refits: Refits, test: Dataset) -> Float[Tensor, "S k t"]:
    """True change of every test loss when an example is removed: refit minus control."""
    losses = losses_after(fits, refits, test)
    return losses[:, 1:] - losses[:, :1]
