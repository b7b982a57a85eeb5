"""Trained networks: several schemes and all their seeds in one ensemble per family, polished to a gradient norm."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from bayes_influence.data.dataset import Dataset, check_dataset
from bayes_influence.models.initialisation import initial_params, seeded
from bayes_influence.objectives.head import (
    head_objective,
    head_params,
    is_last_layer,
    member_batch,
    stacked_features,
)
from bayes_influence.objectives.members import member
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import Params
from bayes_influence.training.ensemble import train_ensemble
from bayes_influence.training.minibatch import train_minibatches
from bayes_influence.training.minibatch_schedule import full_batches
from bayes_influence.training.newton import StackedProblem, minimise_newton
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.schemes import Scheme

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Fits:
    """One scheme's trained networks, one per seed.

    Attributes:
        scheme: How they were regularised.
        objective: What they minimise, standing at the first seed's parameters.
        seeds: Of their initialisation, S of them.
        params: Stacked parameters, (S, ...) each.
        gradient_norms: (S,) norm of grad J in the selected parameters: what an influence estimate neglects.
        polished: (S,) whether Newton's method brought that norm to its tolerance.
        seconds: Wall time of the training, divided by the share of members that are this scheme's.
    """

    scheme: Scheme
    objective: Objective
    seeds: tuple[int, ...]
    params: Params
    gradient_norms: Float[Tensor, " S"]
    polished: Bool[Tensor, " S"]
    seconds: float

    def at(self, index: int) -> Objective:
        """The objective at one seed's parameters."""
        return self.objective.at(member(self.params, index))


def stacked_problem(objective: Objective, params: Params, train: Dataset) -> tuple[Objective, StackedProblem]:
    """Every member's objective in its selected parameters: the last layer on its features, or the whole network."""
    if not is_last_layer(objective):
        return objective, StackedProblem(objective, params, train.batch())
    head, weights = head_objective(objective), head_params(objective, params)
    members = len(next(iter(weights.values())))
    batch = member_batch(stacked_features(objective, params, train.inputs), train.batch(), members)
    return head, StackedProblem(head, weights, batch, own_data=True)


def polish(objective: Objective, params: Params, train: Dataset, tolerance: float) -> tuple[Params, Tensor, Tensor]:
    """Newton's method in the selected parameters of every member: (params, gradient norms, converged)."""
    _, problem = stacked_problem(objective, params, train)
    result = minimise_newton(problem, tolerance=tolerance)
    return {**params, **result.params}, result.gradient_norms, result.converged


def _measured(objective: Objective, params: Params, train: Dataset) -> tuple[Params, Tensor, Tensor]:
    _, problem = stacked_problem(objective, params, train)
    members = torch.arange(len(problem.start), device=problem.start.device)
    gradients, _ = problem.gradients(problem.start, members)
    norms = gradients.norm(dim=1)
    return params, norms, torch.zeros_like(norms, dtype=torch.bool)


def fit_schemes(
    schemes: Sequence[Scheme],
    make_network: Callable[[], nn.Module],
    train: Dataset,
    seeds: Sequence[int],
    schedule: Schedule,
    *,
    parameters: str | Sequence[str] = "last-layer",
    tolerance: float | None = 1e-10,
    progress: bool = False,
) -> list[Fits]:
    """Trains every scheme from every seed; schemes of one family share an ensemble.

    After the schedule, regularised schemes are polished by Newton's method in the selected parameters: the last layer
    is a convex problem there, and an estimate of its response is exact only at its minimum. Unregularised ones are
    not: their minimum may lie at infinity. SWA's feature map stays the averaged one.

    Args:
        schemes: What to train.
        make_network: Builds the deterministic network; called once per seed.
        train: Training examples; their dtype and device are the network's.
        seeds: One per repeat; a member depends on its own seed only.
        schedule: Steps and learning rates.
        parameters: The parameters that are polished, and that influence will be taken in.
        tolerance: Gradient norm of the polish; None leaves the networks as the schedule left them.
        progress: Whether to show progress bars.

    Returns:
        One `Fits` per scheme, in their order.

    Raises:
        NonFiniteTrainingError: Naming scheme, seed and step.
        ValueError: If a class has a single member, the network has another number of outputs than there are classes,
            or two members of a family disagree on how to average.
    """
    check_dataset(train, "the training examples")
    _check_classes(make_network, train)
    fits: dict[str, Fits] = {}
    for family in dict.fromkeys(scheme.family for scheme in schemes):
        members = [scheme for scheme in schemes if scheme.family == family]
        for fit in _fit_family(members, make_network, train, seeds, schedule, parameters, tolerance, progress):
            fits[fit.scheme.name] = fit
    return [fits[scheme.name] for scheme in schemes]


def _check_classes(make_network: Callable[[], nn.Module], train: Dataset) -> None:
    """Refuses labels that the network cannot learn, before any training."""
    if train.targets.is_floating_point():
        return
    with torch.no_grad(), seeded(0):
        network = make_network().to(dtype=train.inputs.dtype, device=train.inputs.device).eval()
        outputs = network(train.inputs[:1])
    train.check_classes(n_outputs=outputs.shape[-1])


def _fit_family(
    schemes: Sequence[Scheme],
    make_network: Callable[[], nn.Module],
    train: Dataset,
    seeds: Sequence[int],
    schedule: Schedule,
    parameters: str | Sequence[str],
    tolerance: float | None,
    progress: bool,
) -> list[Fits]:
    started = time.perf_counter()
    averagings = {scheme.averaging for scheme in schemes if scheme.averaging}
    if len(averagings) > 1:
        raise ValueError(f"members of one ensemble must average alike, got {averagings}")
    dtype, device = train.inputs.dtype, train.inputs.device
    start = initial_params(lambda: schemes[0].prepare(make_network()), seeds, dtype=dtype, device=device)
    count = len(seeds)
    prepared = schemes[0].prepare(make_network()).to(dtype=dtype, device=device)
    objective = schemes[0].objective(prepared, len(train), parameters)
    labels = [f"{scheme.name}, seed {seed}" for scheme in schemes for seed in seeds]
    stacked = {name: value.repeat(len(schemes), *[1] * (value.ndim - 1)) for name, value in start.items()}
    if schemes[0].sampled:
        trained = _trained_by_sampling(schemes, objective, stacked, train, seeds, schedule, labels, progress)
    else:
        per_member = next(iter(start.values())).new_tensor
        trained = train_ensemble(
            objective,
            stacked,
            train.batch(),
            schedule,
            regulariser_weights=per_member([scheme.regulariser_weight for scheme in schemes for _ in seeds]),
            averaged=torch.tensor([bool(scheme.averaging) for scheme in schemes for _ in seeds], device=device),
            averaging=next(iter(averagings), None),
            labels=labels,
            progress=progress,
        ).params
    seconds = (time.perf_counter() - started) / len(schemes)
    fits = []
    for index, scheme in enumerate(schemes):
        began = time.perf_counter()
        own = {name: value[index * count : (index + 1) * count] for name, value in trained.items()}
        goal = replace(objective, regulariser_weight=scheme.regulariser_weight)
        if scheme.regularised and tolerance is not None:
            own, norms, polished = polish(goal, own, train, tolerance)
        else:
            own, norms, polished = _measured(goal, own, train)
        if scheme.regularised and tolerance is not None and not polished.all():
            logger.warning(
                "%s: %d of %d members did not reach a gradient norm of %.1e (worst: %.1e); activations with a kink "
                "have minima where the gradient does not vanish",
                *(scheme.name, int((~polished).sum()), count, tolerance, float(norms.max())),
            )
        took = seconds + time.perf_counter() - began
        fits.append(Fits(scheme, goal.at(member(own, 0)), tuple(seeds), own, norms, polished, took))
    return fits


def _trained_by_sampling(
    schemes: Sequence[Scheme],
    objective: Objective,
    start: Params,
    train: Dataset,
    seeds: Sequence[int],
    schedule: Schedule,
    labels: Sequence[str],
    progress: bool,
) -> Params:
    """Adam on noisy objectives, see `full_batches`."""
    parts = []
    for index, scheme in enumerate(schemes):
        own = slice(index * len(seeds), (index + 1) * len(seeds))
        trained = train_minibatches(
            replace(objective, regulariser_weight=scheme.regulariser_weight),
            {name: value[own] for name, value in start.items()},
            train,
            full_batches(schedule, len(train)),
            seeds,
            averaging=scheme.averaging,
            step=scheme.step(objective, len(train)),
            labels=labels[own],
            progress=progress,
        )
        parts.append(trained.params)
    return {name: torch.cat([part[name] for part in parts]) for name in start}
