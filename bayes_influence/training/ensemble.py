"""The ensemble trainer: every seed, and every refit, of one architecture trained at once on a leading member axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from bayes_influence.curvature.cost import Plan
from bayes_influence.data.batch import Batch
from bayes_influence.objectives.company import first_outputs
from bayes_influence.objectives.held import held_per_example
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import Flattening, Params
from bayes_influence.objectives.predictive import check_outputs
from bayes_influence.torch_internals import tree_map
from bayes_influence.training.averaging import IterateAverage
from bayes_influence.training.finiteness import CHECK_EVERY, check_finite
from bayes_influence.training.learning_rates import LearningRates
from bayes_influence.training.optimisers import Adam
from bayes_influence.training.schedules import SWA, Schedule
from bayes_influence.training.threads import threads_for, torch_threads
from bayes_influence.training.tracing import TracedStep, trace_members

PARAMETER_COPIES, TRACE_COPIES = 6, 1.1
"""Numbers that are held for each parameter of a member; and of an example, for each that a gradient makes: 0.8 to 1.2
were measured of Bayesian and other networks of one hidden layer."""

Gradients = Callable[[Params, Batch, Tensor, Tensor], tuple[Params, Tensor]]
"""(params, batch, data weights, regulariser weights), stacked -> (stacked gradients, J of every member)."""


@dataclass(frozen=True, eq=False)
class TrainedEnsemble:
    """Where a training ended.

    Attributes:
        params: Stacked parameters, (E, ...) each; of averaged members the average.
        values: (E,) objectives J at the last iterate before the last step.
        learning_rates: (E,) at the end.
        trace: (epochs, E) objectives before every step.
        recorded: (epochs, E, ...) what `record` returned before every step, None where nothing was asked for.
    """

    params: Params
    values: Float[Tensor, " E"]
    learning_rates: Float[Tensor, " E"]
    trace: Float[Tensor, "epochs E"]
    recorded: Float[Tensor, "epochs E *what"] | None = None


def train_ensemble(
    objective: Objective,
    params: Params,
    batch: Batch,
    schedule: Schedule,
    *,
    held: Params | None = None,
    data_weights: Float[Tensor, "E n"] | None = None,
    regulariser_weights: Float[Tensor, " E"] | None = None,
    averaged: Bool[Tensor, " E"] | None = None,
    averaging: SWA | None = None,
    own_data: bool = False,
    labels: Sequence[str] | None = None,
    record: Callable[[Params], Tensor] | None = None,
    step: TracedStep | None = None,
    progress: bool = False,
) -> TrainedEnsemble:
    """Minimises J(theta_e, w_e) for every member e with full-batch Adam.

    A member's result is what training it alone with torch's `Adam`, `ReduceLROnPlateau` and `swa_utils` gives (up to
    rounding): members share arithmetic, never numbers. Coupled weight decay is the regulariser's gradient. Two members
    that differ in nothing but in that one is averaged take their steps before averaging with one gradient.

    Args:
        objective: What is minimised.
        params: Stacked starting parameters, (E, ...) each; left as they are.
        batch: All training examples, shared by the members; where `own_data`, with a leading member axis.
        schedule: Steps and learning rates.
        held: Stacked parameters that are not trained, where `params` are not all, and buffers in which members differ.
        data_weights: w, one when not given; a zero removes an example from a member.
        regulariser_weights: s of each member, the objective's own when not given.
        averaged: Which members end at their SWA average and follow its learning rates.
        averaging: How they average.
        own_data: Whether each member has its own examples, see `trace_members`.
        labels: What the members are called in error messages, e.g. "weight-decay, seed 3".
        record: Called with the stacked parameters before every step; returns one value or tensor per member.
        step: One that was traced for tensors of these shapes; traced here when not given.
        progress: Whether to show a progress bar.

    Returns:
        The trained ensemble. Memory: about six copies of the stacked parameters and, per step, the activations of all
        members.

    Raises:
        NonFiniteTrainingError: If an objective becomes NaN or infinite.
        TooLargeError: If what all members hold does not fit.
        TypeError: If shared targets are of another kind than the likelihood's.
        ValueError: If shared targets do not fit the likelihood, or members are averaged and no `averaging` says how.
    """
    if not own_data:
        _check_targets(objective, batch)
    layout = Flattening.of(objective.params, [name for name in objective.params if name in params])
    flat = layout.flatten(params).clone()
    members = len(flat)
    weights = _or_alike(data_weights, flat.new_ones(members, batch.targets.shape[1 if own_data else 0]))
    scales = _or_alike(regulariser_weights, flat.new_full((members,), objective.regulariser_weight))
    averaged = torch.zeros(members, dtype=torch.bool, device=flat.device) if averaged is None else averaged
    rates = _learning_rates(schedule, flat, averaging, averaged)

    views = layout.unflatten(flat)
    plan = _plan(objective.taking(layout.names), batch, flat, schedule.epochs, own_data=own_data)
    plan.check(flat.device)
    given = (views, batch, weights, scales)
    step = step or trace_members(objective, *given, held=held, own_data=own_data, steps=schedule.epochs)
    shared = None if own_data else _before_averaging(objective, *given, held or {}, averaged, rates.first_averaged)
    early: Gradients = shared or step
    adam, average = Adam(schedule.betas, schedule.epsilon), IterateAverage(flat)
    optimiser = adam.start(flat)
    trace = flat.new_empty(schedule.epochs, members)
    recorded: list[Tensor] = []

    with (
        torch.no_grad(),
        torch_threads(threads_for(step.largest)),
        tqdm(total=schedule.epochs, desc="training", unit="step", disable=None if progress else True) as bar,
    ):
        for epoch in plan.timed(range(schedule.epochs), schedule.epochs):
            if record is not None:
                recorded.append(record({**(held or {}), **views}))
            due = early if epoch < rates.first_averaged else step
            gradients, trace[epoch] = due(*given)
            adam.step(flat, layout.flatten(gradients), rates.at(epoch), optimiser)
            rates.observe(epoch, trace[epoch])
            if epoch >= rates.first_averaged:
                average.update(flat)
            _check_since(trace, epoch, labels)
            bar.update()
    if average.count:
        flat = torch.where(averaged.unsqueeze(1), average.mean, flat)
    ends = {name: value.clone() for name, value in layout.unflatten(flat).items()}
    seen = torch.stack(recorded) if recorded else None
    return TrainedEnsemble(ends, trace[-1], rates.at(schedule.epochs), trace, seen)


def _before_averaging(
    objective: Objective,
    params: Params,
    batch: Batch,
    weights: Float[Tensor, "E n"],
    strengths: Float[Tensor, " E"],
    held: Params,
    averaged: Bool[Tensor, " E"],
    steps: int,
) -> Gradients | None:
    """The step of one member for all that are alike in everything but averaging; None where no two are."""
    if averaged.all() or not averaged.any() or not steps:
        return None
    rows = torch.cat([part.flatten(1) for part in (*params.values(), *held.values(), weights, strengths[:, None])], 1)
    whose = torch.unique(rows, dim=0, return_inverse=True)[1]
    count = int(whose.max()) + 1
    if count == len(rows):
        return None
    places = torch.arange(len(rows), device=rows.device)
    firsts = places.new_full((count,), len(rows)).scatter_reduce(0, whose, places, "amin")

    def of_firsts(stacked: Params) -> Params:
        return {name: value[firsts] for name, value in stacked.items()}

    traced = trace_members(
        objective, of_firsts(params), batch, weights[firsts], strengths[firsts], held=of_firsts(held), steps=steps
    )

    def step(stacked: Params, data: Batch, own_weights: Tensor, own_strengths: Tensor) -> tuple[Params, Tensor]:
        gradients, values = traced(of_firsts(stacked), data, own_weights[firsts], own_strengths[firsts])
        return {name: gradient[whose] for name, gradient in gradients.items()}, values[whose]

    return step


def _plan(objective: Objective, batch: Batch, flat: Float[Tensor, "E P"], epochs: int, *, own_data: bool) -> Plan:
    """Of training E members: the trace of a step holds all that gradients make, and the optimiser its averages."""
    members, size = flat.shape
    one = tree_map(lambda leaf: leaf[0], batch) if own_data else batch
    examples = TRACE_COPIES * len(one.targets) * held_per_example(objective, one)
    return Plan(
        f"training of {members} networks for {epochs} steps",
        round(members * (PARAMETER_COPIES * size + examples) * flat.itemsize),
        "train fewer at a time (refits with at_once=1, networks with fewer seeds)",
        passes=members * epochs,
    )


def _check_since(trace: Float[Tensor, "epochs E"], epoch: int, labels: Sequence[str] | None) -> None:
    """Every `CHECK_EVERY` steps, and after the last one, refuses objectives since that are not finite."""
    if (epoch + 1) % CHECK_EVERY == 0 or epoch + 1 == len(trace):
        first = epoch // CHECK_EVERY * CHECK_EVERY
        named = [f"member {index}" for index in range(trace.shape[1])] if labels is None else labels
        check_finite(trace[first : epoch + 1], first, named)


def _check_targets(objective: Objective, batch: Batch) -> None:
    """Refuses targets that do not fit the likelihood and what the network says of the first two examples."""
    outputs = first_outputs(objective, tree_map(lambda leaf: leaf[:2], batch.inputs))
    check_outputs(objective.likelihood, outputs, batch.targets)


def _or_alike(given: Tensor | None, alike: Tensor) -> Tensor:
    """Every member's weights: those given, or the same for all."""
    return alike if given is None else given.to(alike)


def _learning_rates(
    schedule: Schedule, flat: Float[Tensor, "E P"], averaging: SWA | None, averaged: Bool[Tensor, " E"]
) -> LearningRates:
    """Every member's, once it is clear how those to be averaged are."""
    if averaged.any() and averaging is None:
        raise ValueError(f"{int(averaged.sum())} members are to be averaged, but `averaging` does not say how")
    taken = averaging if averaged.any() else None
    return LearningRates(lambda _: schedule.learning_rate, schedule.epochs, 1, flat, schedule.plateau, taken, averaged)
