"""Trained networks: several schemes and all their seeds in one ensemble, polished to a gradient norm."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from bayes_influence.arguments import check_at_least, checked_seeds
from bayes_influence.data.checks import warn_of_equal_targets
from bayes_influence.data.dataset import Dataset, check_dataset
from bayes_influence.models.initialisation import initial_state
from bayes_influence.moments.layers import is_calibrated
from bayes_influence.objectives.company import check_targets, first_outputs
from bayes_influence.objectives.members import Members, differing, member
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import Params
from bayes_influence.objectives.predictive import ClassPredictive
from bayes_influence.objectives.reduction import reduce
from bayes_influence.training.ensemble import train_ensemble
from bayes_influence.training.minibatch import train_minibatches
from bayes_influence.training.minibatch_schedule import MinibatchSchedule, full_batches
from bayes_influence.training.minimum import minimised
from bayes_influence.training.prepared import built_network, prepared_objective
from bayes_influence.training.schedules import Schedule, check_schedule
from bayes_influence.training.schemes import Scheme, check_builder, check_schemes, ensembles
from bayes_influence.training.stacked import gradient_norms

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Fits(Members):
    """One scheme's trained networks, one per seed.

    Attributes:
        scheme: How they were regularised.
        gradient_norms: (E,) norm of grad J in the selected parameters: what an influence estimate neglects.
        polished: (E,) whether that norm was brought to its tolerance.
        seconds: Wall time of the training, divided by the share of members that are this scheme's.
    """

    scheme: Scheme
    gradient_norms: Float[Tensor, " E"]
    polished: Bool[Tensor, " E"]
    seconds: float

    def _replaced(self, rows: list[int], **changes: Any) -> Fits:
        parts = {"gradient_norms": self.gradient_norms[rows], "polished": self.polished[rows]}
        return super()._replaced(rows, **parts, **changes)


def fit_schemes(
    schemes: Sequence[Scheme],
    make_network: Callable[[], nn.Module],
    train: Dataset,
    seeds: Sequence[int],
    schedule: Schedule | MinibatchSchedule,
    *,
    parameters: str | Sequence[str] = "last-layer",
    tolerance: float | None = 1e-10,
    fewest: int = 2,
    progress: bool = False,
) -> list[Fits]:
    """Trains every scheme from every seed; schemes that differ in numbers of a member only share an ensemble.

    After the schedule, regularised schemes are polished by Newton's method in the selected parameters: the last layer
    is a convex problem there, and an estimate of its response is exact only at its minimum. Unregularised ones are
    not: their minimum may lie at infinity. SWA's feature map stays the averaged one.

    Parameters with `requires_grad=False` stay as they are. A network whose training is another thing than its
    evaluation, because a step draws random numbers (dropout) or moves buffers (batch norm), is trained as
    `full_batches` says, one member at a time; whether it is so is seen in a step on all examples, see `watch_step`. So
    is a calibrated Bayesian network, whose variance factors are refreshed on the way.
    On a `MinibatchSchedule` every scheme is trained as `train_minibatches` trains.

    Args:
        schemes: What to train.
        make_network: Builds the deterministic network; called once per seed.
        train: Training examples; their dtype and device are the network's.
        seeds: One per repeat; a member depends on its own seed only.
        schedule: Steps and learning rates, on all examples at once or in minibatches.
        parameters: The parameters that are polished, and that influence will be taken in.
        tolerance: Gradient norm of the polish; None leaves the networks as the schedule left them.
        fewest: How many members every class needs; of fewer than two, leaving one out would leave none.
        progress: Whether to show progress bars.

    Returns:
        One `Fits` per scheme, in their order.

    Raises:
        NonFiniteTrainingError: Naming scheme, seed and step.
        TwinMismatchError: If a Bayesian twin does not compute what its network computes.
        ValueError: If a class has too few members, the network has another number of outputs than there are classes,
            or the targets do not fit a scheme's likelihood.
        TypeError: If an argument is of another kind, such as a network where a function that builds one is needed, or
            the targets than a scheme's likelihood.
    """
    check_schemes(schemes)
    check_builder(make_network)
    check_dataset(train, "the training examples")
    if train.holds_targets:
        warn_of_equal_targets(train.name, train.targets)
    inputs = train.example.inputs
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        raise TypeError(
            f"{train.name}: schemes train networks on one tensor of real numbers; take inputs.float(), or train an "
            "objective of your own with minimised(...)"
        )
    seeds = checked_seeds(seeds)
    if not isinstance(schedule, MinibatchSchedule):
        check_schedule(schedule)
    if tolerance is not None:
        check_at_least(0, tolerance=tolerance)
    built_network(make_network)
    for members in ensembles(schemes):
        _check_targets(prepared_objective(members[0], make_network, train, seeds[0]), train, fewest)
    fits: dict[str, Fits] = {}
    for members in ensembles(schemes):
        for fit in _fit_ensemble(members, make_network, train, seeds, schedule, parameters, tolerance, progress):
            fits[fit.scheme.name] = fit
    return [fits[scheme.name] for scheme in schemes]


def _check_targets(objective: Objective, train: Dataset, fewest: int) -> None:
    """Refuses targets that the network cannot learn, before any training."""
    check_targets(objective, train)
    if isinstance(objective.likelihood, ClassPredictive) and not train.targets.is_floating_point():
        outputs = first_outputs(objective, train.select(range(min(2, len(train)))).batch().inputs)
        train.check_classes(objective.likelihood.class_logits(outputs).shape[-1], fewest)


def _fit_ensemble(
    schemes: Sequence[Scheme],
    make_network: Callable[[], nn.Module],
    train: Dataset,
    seeds: Sequence[int],
    schedule: Schedule | MinibatchSchedule,
    parameters: str | Sequence[str],
    tolerance: float | None,
    progress: bool,
) -> list[Fits]:
    started = time.perf_counter()
    averaging = next((scheme.averaging for scheme in schemes if scheme.averaging), None)
    dtype, device = train.example.inputs.dtype, train.example.inputs.device
    initial = initial_state(lambda: schemes[0].built(make_network), seeds, dtype=dtype, device=device)
    count = len(seeds)
    objective = prepared_objective(schemes[0], make_network, train, seeds[0], parameters)
    labels = [f"{scheme.name}, seed {seed}" for scheme in schemes for seed in seeds]
    start, buffers = (
        {name: value.repeat(len(schemes), *[1] * (value.ndim - 1)) for name, value in part.items()} for part in initial
    )
    alone = is_calibrated(objective.network)
    if isinstance(schedule, Schedule) and (alone or not schemes[0].effects(objective, train).as_evaluated):
        schedule = full_batches(schedule, len(train))
    if isinstance(schedule, MinibatchSchedule):
        trained, buffers = _trained_in_turns(
            schemes, objective, start, buffers, train, seeds, schedule, labels, progress
        )
    else:
        per_member = next(iter(start.values())).new_tensor
        moves = objective.taking("all").names
        held = {name: value for name, value in start.items() if name not in moves}
        moving = train_ensemble(
            objective,
            {name: start[name] for name in start if name in moves},
            train.batch(),
            schedule,
            held={**held, **differing(buffers)},
            regulariser_weights=per_member([scheme.regulariser_weight for scheme in schemes for _ in seeds]),
            averaged=torch.tensor([bool(scheme.averaging) for scheme in schemes for _ in seeds], device=device),
            averaging=averaging,
            labels=labels,
            progress=progress,
        ).params
        trained = {name: moving.get(name, value) for name, value in start.items()}
    seconds = (time.perf_counter() - started) / len(schemes)
    fits = []
    for index, scheme in enumerate(schemes):
        began = time.perf_counter()
        rows = slice(index * count, (index + 1) * count)
        ended = {name: value[rows] for name, value in buffers.items()}
        alike = replace(objective, regulariser_weight=scheme.regulariser_weight)
        members = Members(
            objective=alike.at(objective.params, member(ended, 0)),
            params={name: value[rows] for name, value in trained.items()},
            buffers=differing(ended),
            labels=tuple(labels[rows]),
            seeds=tuple(seeds),
        )
        fits.append(_fitted(scheme, members, train, tolerance, seconds - began))
    return fits


def _fitted(scheme: Scheme, members: Members, train: Dataset, tolerance: float | None, elapsed: float) -> Fits:
    """The members at their minimum, where the scheme has one and it is asked for; else where training left them."""
    if scheme.regularised and tolerance is not None:
        found = minimised(members, train, tolerance=tolerance)
        members, norms, polished = found.members, found.gradient_norms, found.converged
    else:
        reduction = reduce(members, train)
        members, norms = reduction.members, gradient_norms(reduction)
        polished = torch.zeros_like(norms, dtype=torch.bool)
    return Fits(
        **{**vars(members), "objective": members.at(0)},
        scheme=scheme,
        gradient_norms=norms,
        polished=polished,
        seconds=elapsed + time.perf_counter(),
    )


def _trained_in_turns(
    schemes: Sequence[Scheme],
    objective: Objective,
    start: Params,
    buffers: Params,
    train: Dataset,
    seeds: Sequence[int],
    schedule: MinibatchSchedule,
    labels: Sequence[str],
    progress: bool,
) -> tuple[Params, Params]:
    """Parameters and buffers after `train_minibatches` of one scheme after the other."""
    parts = []
    for index, scheme in enumerate(schemes):
        own = slice(index * len(seeds), (index + 1) * len(seeds))
        trained = train_minibatches(
            replace(objective, regulariser_weight=scheme.regulariser_weight),
            {name: value[own] for name, value in start.items()},
            train,
            scheme.scheduled(schedule),
            seeds,
            buffers={name: value[own] for name, value in buffers.items()},
            averaging=scheme.averaging,
            step=scheme.step(objective, len(train)),
            labels=labels[own],
            progress=progress,
        )
        parts.append(trained)
    return (
        {name: torch.cat([part.params[name] for part in parts]) for name in start},
        {name: torch.cat([part.buffers[name] for part in parts]) for name in buffers},
    )
