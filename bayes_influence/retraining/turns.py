"""Refits that minimise something: as many at once as their Hessians leave room for."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from bayes_influence.curvature.cost import Plan
from bayes_influence.objectives.company import ENTRIES, numbers_per_example
from bayes_influence.objectives.parameters import Params
from bayes_influence.objectives.reduction import Reduction
from bayes_influence.objectives.reweighting import Removals
from bayes_influence.retraining.refits import Refits
from bayes_influence.torch_internals import tree_map
from bayes_influence.training.metric import output_metric
from bayes_influence.training.minimum import holds_hessians, is_dense, minimise
from bayes_influence.training.newton import NewtonResult, joined
from bayes_influence.training.stacked import StackedProblem

HESSIANS_AT_ONCE = 30_000_000
"""Entries of all Hessians that may be held at once; more networks, and more refits of one, are made in turns."""

WHOLE_HESSIANS_AT_ONCE = 1_000_000
"""The same where Hessians are found by differentiating a whole network, one after the other: company saves nothing."""

HESSIAN_COPIES, LBFGS_COPIES = 6, 60
"""Numbers that are held for each entry of a Hessian, with the one given and the factor; and for each parameter."""

GRADIENTS_PER_COLUMN, GRADIENTS_SAVED = 3, 300
"""What a column of a whole network's Hessian costs, and what a refit by L-BFGS saves by starting from it."""

Minimise = Callable[[StackedProblem, Tensor, "Tensor | None"], NewtonResult]
"""Minimises the refits of the networks in some rows, k + 1 members each; the removed positions (s, k) if single."""


def refits_in_turns(reduction: Reduction, removals: Removals, solve: Minimise, *, progress: bool = False) -> Refits:
    """Refits every network without each group, in turns over the networks.

    Args:
        reduction: The networks, and the problem that is refitted.
        removals: What is removed from each one's.
        solve: Refits the networks of one turn.
        progress: Whether to show a progress bar over networks.

    Raises:
        TooLargeError: If what the refits of a network hold does not fit.
    """
    train, whole = reduction.train, StackedProblem.of(reduction)
    networks, size = whole.start.shape
    weights = removals.data_weights(train, whole.start.dtype)
    times = weights.shape[1]
    at_once = max(1, HESSIANS_AT_ONCE // (times * size * size))
    if whole.own_data:
        held = times * whole.examples * numbers_per_example(whole.batch.inputs, leading=2)
        at_once = max(1, min(at_once, ENTRIES // held))
    results = []
    with tqdm(total=networks, desc="refits", unit="network", disable=None if progress else True) as bar:
        for rows in torch.arange(networks, device=weights.device).split(at_once):
            positions = removals.of_seeds(rows.tolist()).positions(train) if removals.single else None
            problem = repeated_problem(reduction, whole, rows, weights[rows])
            refits_plan(problem, len(rows)).check(problem.start.device)
            results.append(solve(problem, rows, positions))
            bar.update(len(rows))
    return Refits(
        reduction=reduction,
        params=per_network({n: torch.cat([r.free[n] for r in results]) for n in whole.layout.names}, networks),
        removals=removals,
        gradient_norms=torch.cat([result.gradient_norms for result in results]).unflatten(0, (networks, -1)),
        converged=torch.cat([result.converged for result in results]).unflatten(0, (networks, -1)),
    )


def repeated_problem(
    reduction: Reduction, whole: StackedProblem, rows: Int[Tensor, " s"], weights: Float[Tensor, "s k_plus_1 n"]
) -> StackedProblem:
    """J without each group, for the networks in the given rows: s (k+1) members that start where the fits stand."""
    times = weights.shape[1]
    part = whole.only(rows)
    batch = repeated(part.batch, times) if whole.own_data else part.batch
    return StackedProblem(
        reduction.problem.objective,
        repeated(part.state, times),
        batch,
        weights.flatten(0, 1),
        own_data=whole.own_data,
    )


def from_controls(
    problem: StackedProblem, networks: int, positions: Int[Tensor, "s k"] | None, tolerance: float
) -> NewtonResult:
    """Minimises refits; in linear last layers controls first: the others start where theirs ends, from its Hessian.

    The Hessian of a leave-one-out refit starts as that of the control minus the removed example's, H - H_i / n, so
    that a refit costs a handful of gradients instead of Hessians. In a whole network, whose Hessian is not renewed, it
    is the metric of L-BFGS. A last layer too large for Hessians has the metric of its control's outputs.

    Args:
        problem: Members network by network, each one's control first.
        networks: s, whose refits they are.
        positions: Of the examples removed one at a time; None for groups, whose Hessians are found anew.
        tolerance: Gradient norm at which a refit is done.
    """
    times = len(problem.start) // networks
    controls = problem.only(problem.everyone[::times])
    if problem.linear is not None:
        ends = problem.layout.flatten(minimise(controls, tolerance=tolerance).free)
        problem, controls = problem.from_start(ends.repeat_interleave(times, dim=0)), controls.from_start(ends)
    given = positions if starts_from_hessians(problem, times) else None
    hessians = None if given is None else controls.hessians(controls.start, controls.everyone)
    metric_of = lru_cache(maxsize=1)(lambda network: output_metric(controls, network))

    def minimised(rows: Tensor) -> NewtonResult:
        without = None
        if given is not None and hessians is not None:
            without = _hessians_without(controls, hessians, given, rows)
        shared = without is None and not is_dense(problem)
        metric = metric_of(int(rows[0]) // times) if shared else None
        return minimise(problem.only(rows), tolerance=tolerance, hessians=without, metric=metric)

    parts = problem.everyone.split(refits_at_once(problem, len(problem.start)))
    plan = refits_plan(problem, networks)
    return joined([minimised(rows) for rows in plan.timed(parts, len(parts))])


def starts_from_hessians(problem: StackedProblem, refits: int) -> bool:
    """Whether single removals start from their control's Hessian: it costs little, or many refits share it."""
    shared = holds_hessians(problem) and GRADIENTS_PER_COLUMN * problem.layout.total <= GRADIENTS_SAVED * refits
    return is_dense(problem) or shared


def refits_at_once(problem: StackedProblem, refits: int) -> int:
    """How many refits are minimised together: many of linear last layers, few of whole networks, one by L-BFGS."""
    if not is_dense(problem):
        return 1
    entries = WHOLE_HESSIANS_AT_ONCE if problem.linear is None else HESSIANS_AT_ONCE
    return min(refits, max(1, entries // problem.layout.total**2))


def refits_plan(problem: StackedProblem, networks: int) -> Plan:
    """What minimising the refits of so many networks, members of one problem, needs."""
    size, itemsize, refits = problem.layout.total, problem.start.itemsize, len(problem.start)
    held = LBFGS_COPIES * size * (not is_dense(problem))
    if starts_from_hessians(problem, refits // networks):
        together = refits_at_once(problem, refits)
        held += together * HESSIAN_COPIES * size**2
        held += problem.hessian_numbers(together if is_dense(problem) else networks)
    return Plan(
        f"{refits} refits in {size} parameters by {'Newton' if is_dense(problem) else 'L-BFGS'}",
        held * itemsize,
        "remove fewer examples at a time, or refit fewer parameters (parameters='last-layer')",
    )


def _hessians_without(
    controls: StackedProblem,
    hessians: Float[Tensor, "s P P"],
    positions: Int[Tensor, "s k"],
    members: Int[Tensor, " m"],
) -> Float[Tensor, "m P P"]:
    """H for every control and H - H_i / n for every removed example, where the controls start."""
    times = positions.shape[1] + 1
    networks, refits = members // times, members % times
    without = hessians[networks]
    for index in networks.unique().tolist():
        rows = ((networks == index) & (refits > 0)).nonzero()[:, 0]
        if len(rows):
            examples = positions[index, refits[rows] - 1]
            without[rows] -= controls.example_hessians(index, examples) / controls.examples
    return without


def repeated(value: Any, times: int) -> Any:
    """Every member `times` times over, along the leading axis of every tensor in a nesting."""
    return tree_map(lambda leaf: leaf.repeat_interleave(times, dim=0), value)


def per_network(stacked: Params, networks: int) -> Params:
    """Parameters (E (k+1), ...) as (E, k+1, ...)."""
    return {name: value.unflatten(0, (networks, -1)) for name, value in stacked.items()}
