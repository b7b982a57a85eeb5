"""Refits that are minima: the objective without each group, minimised to a stated gradient norm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.reweighting import Removals, as_removals
from bayes_influence.retraining.problem import ENTRIES, RefitProblem, numbers_per_example, refit_problem
from bayes_influence.retraining.refits import Refits, per_seed, repeated
from bayes_influence.torch_internals import tree_map
from bayes_influence.training.fits import Fits
from bayes_influence.training.newton import NewtonResult, minimise_newton

HESSIANS_AT_ONCE = 30_000_000
"""Entries of all Hessians that may be held at once; more seeds are refitted in turns."""

Turn = Callable[[Int[Tensor, " s"], Float[Tensor, "s k_plus_1 n"]], NewtonResult]
"""Refits of the seeds in the given rows with the given data weights: members (s (k+1), ...), seed by seed."""


def newton_refits(
    fits: Fits,
    train: Dataset,
    removed: Removals | Int[Tensor, "S k"],
    *,
    tolerance: float = 1e-10,
    progress: bool = False,
) -> Refits:
    """Refits the selected parameters without each group by Newton's method, from where the fit stands.

    In the last layer the problem is convex and this is *the* answer. In all layers it is the minimum that the fit
    flows to. That needs a smooth activation (tanh, GELU, softplus): networks of SELUs or ReLUs have minima at kinks,
    where the gradient jumps and its norm does not vanish. Refits of all their layers stall, typically at norms of
    1e-3 to 1e-2, and are marked as not converged.

    The Hessian of a leave-one-out refit starts as that of the fit minus the removed example's, H - H_i / n, so that a
    refit costs a handful of gradients instead of Hessians. In a linear last layer the control is refitted first, and
    the others start from its minimum and its Hessian: the answer is the same wherever they start.

    Memory in a linear last layer of P parameters, k removals and n examples of D features: n (D + C^2) numbers beside
    the data, and some 4 (k + 1) P^2.

    Args:
        fits: Trained networks, S of them.
        train: Their training examples.
        removed: What to remove, or ids (S, k) to remove one at a time.
        tolerance: Gradient norm at which a refit is done.
        progress: Whether to show a progress bar over seeds.

    Returns:
        The refits; those that did not reach the tolerance are marked, not hidden.
    """
    removals = as_removals(removed)
    objective, whole = refit_problem(fits.objective, fits.params, train)

    def turn(rows: Tensor, weights: Tensor) -> NewtonResult:
        problem = removal_problem(objective, whole, rows, weights)
        positions = removals.of_seeds(rows.tolist()).positions(train) if removals.single else None
        if problem.linear is not None:
            return from_controls(problem, weights.shape[1], positions, tolerance)
        hessians = None if positions is None else _hessians_without(whole.only(rows), positions)
        return minimise_newton(problem, tolerance=tolerance, hessians=hessians)

    return refits_in_turns(objective, whole, train, removals, turn, progress=progress)


def polished_fits(fits: Fits, train: Dataset, *, tolerance: float = 1e-10) -> Fits:
    """The fits with their selected parameters at the minimum that Newton's method finds from where they stand.

    Args:
        fits: Trained networks.
        train: Their training examples.
        tolerance: Gradient norm at which a network is done; `polished` says which are.
    """
    _, whole = refit_problem(fits.objective, fits.params, train)
    result = minimise_newton(whole, tolerance=tolerance)
    params = {**fits.params, **result.params}
    objective = fits.objective.at({name: value[0] for name, value in params.items()})
    return replace(
        fits, objective=objective, params=params, gradient_norms=result.gradient_norms, polished=result.converged
    )


def from_controls(
    problem: RefitProblem, times: int, positions: Int[Tensor, "s k"] | None, tolerance: float
) -> NewtonResult:
    """Minimises convex refits, controls first: the others start where their control ends, from its Hessian.

    Args:
        problem: Members seed by seed, each seed's control first.
        times: k + 1, the members of one seed.
        positions: Of the examples removed one at a time; None for groups, whose Hessians are found anew.
        tolerance: Gradient norm at which a refit is done.
    """
    controls = problem.only(torch.arange(0, len(problem.start), times, device=problem.start.device))
    ends = problem.layout.flatten(minimise_newton(controls, tolerance=tolerance).params)
    started = problem.from_start(ends.repeat_interleave(times, dim=0))
    hessians = None if positions is None else _hessians_without(controls.from_start(ends), positions)
    return minimise_newton(started, tolerance=tolerance, hessians=hessians)


def removal_problem(
    objective: Objective, whole: RefitProblem, rows: Int[Tensor, " s"], weights: Float[Tensor, "s k_plus_1 n"]
) -> RefitProblem:
    """J without each group, for the seeds in the given rows: s (k+1) members that start where the seeds' fits stand."""
    times = weights.shape[1]
    params = {name: value[rows] for name, value in whole.params.items()}
    batch = whole.batch
    if whole.own_data:
        batch = repeated(tree_map(lambda leaf: leaf[rows], whole.batch), times)
    return RefitProblem(objective, repeated(params, times), batch, weights.flatten(0, 1), own_data=whole.own_data)


def refits_in_turns(
    objective: Objective,
    whole: RefitProblem,
    train: Dataset,
    removals: Removals,
    turn: Turn,
    *,
    progress: bool = False,
) -> Refits:
    """Refits as many seeds at once as their Hessians leave room for.

    Args:
        objective: Of the refits.
        whole: The fits, S members.
        train: The training examples.
        removals: What is removed from each seed's.
        turn: Refits the seeds of one turn.
        progress: Whether to show a progress bar over seeds.

    Raises:
        ValueError: If the removals are for another number of seeds than there are fits.
    """
    seeds, size = whole.start.shape
    check_seeds(removals, seeds)
    weights = removals.data_weights(train, whole.start.dtype)
    at_once = max(1, HESSIANS_AT_ONCE // (weights.shape[1] * size * size))
    if whole.own_data:
        held = weights.shape[1] * whole.examples * numbers_per_example(whole.batch.inputs, leading=2)
        at_once = max(1, min(at_once, ENTRIES // held))
    results = []
    with tqdm(total=seeds, desc="refits", unit="seed", disable=None if progress else True) as bar:
        for rows in torch.arange(seeds, device=weights.device).split(at_once):
            results.append(turn(rows, weights[rows]))
            bar.update(len(rows))
    return Refits(
        objective=objective,
        params=per_seed({name: torch.cat([result.params[name] for result in results]) for name in whole.params}, seeds),
        removals=removals,
        gradient_norms=torch.cat([result.gradient_norms for result in results]).unflatten(0, (seeds, -1)),
        converged=torch.cat([result.converged for result in results]).unflatten(0, (seeds, -1)),
    )


def check_seeds(removals: Removals, seeds: int) -> None:
    """Refuses removals that were made for another number of seeds.

    Raises:
        ValueError: If they were.
    """
    if len(removals.groups) != seeds:
        raise ValueError(
            f"removals for {len(removals.groups)} seeds, but there are fits of {seeds}; give one list each"
        )


def _hessians_without(controls: RefitProblem, positions: Int[Tensor, "s k"]) -> Float[Tensor, "M P P"]:
    """H for every control and H - H_i / n for every removed example, where the controls start."""
    everyone = torch.arange(len(positions), device=positions.device)
    hessians = controls.hessians(controls.start, everyone).unsqueeze(1).repeat(1, positions.shape[1] + 1, 1, 1)
    for index, examples in enumerate(positions):
        hessians[index, 1:] -= controls.example_hessians(index, examples) / controls.examples
    return hessians.flatten(0, 1)
