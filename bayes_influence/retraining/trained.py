"""Refits by training on a fixed schedule, for unregularised losses and whole networks, which have no unique minimum.

What `Warm` and `FromScratch` share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from bayes_influence.arguments import check_whole
from bayes_influence.data.batch import Batch
from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.company import ENTRIES, numbers_per_example
from bayes_influence.objectives.derivatives import losses_of_members
from bayes_influence.objectives.parameters import Params
from bayes_influence.objectives.reduction import Reduction
from bayes_influence.objectives.reweighting import Removals
from bayes_influence.retraining.refits import Refits
from bayes_influence.retraining.turns import per_network
from bayes_influence.torch_internals import tree_map
from bayes_influence.training.ensemble import TrainedEnsemble, train_ensemble
from bayes_influence.training.linear_layers import are_linear
from bayes_influence.training.schedules import SWA, Schedule
from bayes_influence.training.stacked import StackedProblem
from bayes_influence.training.tracing import TracedStep, trace_members

LINEAR_NUMBERS = 250_000
"""Outputs of linear last layers that are trained together, 2 MB: a step passes over them several times, which is slower
where they leave the processor's own cache."""


def trained_refits(
    reduction: Reduction,
    removals: Removals,
    schedule: Schedule,
    *,
    start: Params | None = None,
    averaging: SWA | None = None,
    watch: Dataset | None = None,
    at_once: int | None = None,
    progress: bool = False,
) -> Refits:
    """Trains the selected parameters without each group for a fixed schedule, all others held.

    A refit does not depend on which others it is trained with.

    Args:
        reduction: The networks, E of them, and the problem that is refitted.
        removals: What to remove.
        schedule: Epochs and learning rates of the refits.
        start: Stacked parameters (E, ...) that the refits start from; the networks' own when not given.
        averaging: How the refits' iterates are averaged; None keeps the last.
        watch: Examples whose losses are recorded before every step.
        at_once: Refits trained as one ensemble, 1 for networks too large to stack. When not given all of them; where
            last layers have many examples of their own those of one network, which share them.
        progress: Whether to show a progress bar.

    Raises:
        NonFiniteTrainingError: Naming network and refit.
        ValueError: If `at_once` is not positive.
    """
    if at_once is not None:
        check_whole(at_once=at_once)
    if at_once is not None and at_once < 1:
        raise ValueError(f"at_once must be at least 1 refit, got {at_once}; leave it out to train all together")
    whole = StackedProblem.of(reduction)
    networks = len(whole.start)
    weights = removals.data_weights(reduction.train, whole.start.dtype).flatten(0, 1)
    begin = whole.state if start is None else start
    training = _Training(
        reduction,
        whole,
        weights,
        start={name: begin[name] for name in whole.layout.names},
        schedule=schedule,
        averaging=averaging,
        watch=_Watched.of(reduction, watch) if watch is not None else None,
        progress=progress,
    )
    turns = torch.arange(len(weights), device=weights.device).split(at_once or _company(whole, removals.count + 1))
    bar = tqdm(turns, desc="refits", unit="turn", disable=None if progress and len(turns) > 1 else True)
    trained, norms = zip(*(training.run(members) for members in bar), strict=True)
    norm = torch.cat(norms).unflatten(0, (networks, -1))
    free = {name: torch.cat([part.params[name] for part in trained]) for name in whole.layout.names}
    return Refits(
        reduction=reduction,
        params=per_network(free, networks),
        removals=removals,
        gradient_norms=norm,
        converged=torch.zeros_like(norm, dtype=torch.bool),
        watched=_recorded(trained, networks) if watch is not None else None,
    )


def _company(whole: StackedProblem, refits: int) -> int:
    """How many refits are trained together: of one network, where a copy of the examples for every refit is large."""
    everyone = len(whole.start) * refits
    if whole.linear is not None:
        outputs = whole.layout.shapes[0][0]
        return refits * max(1, LINEAR_NUMBERS // (refits * whole.examples * outputs))
    if not whole.own_data:
        return everyone
    held = everyone * whole.examples * numbers_per_example(whole.batch.inputs, leading=2)
    return refits if held > ENTRIES else everyone


@dataclass(frozen=True, eq=False)
class _Watched:
    """Examples whose losses are recorded, as the problem takes them."""

    batch: Batch
    own_data: bool

    @classmethod
    def of(cls, reduction: Reduction, data: Dataset) -> _Watched:
        features = reduction.features_of(data)
        if reduction.is_head and features is None:
            raise ValueError(
                f"the examples of {data.name} do not pass through the last layer as the training examples do, so "
                f"their losses cannot be watched; leave `watch` out"
            )
        if features is None:
            return cls(data.batch(), own_data=False)
        networks = len(reduction.members)
        rest = tree_map(lambda leaf: leaf.expand(networks, *leaf.shape), Batch((), data.targets, data.weights))
        return cls(Batch(features, rest.targets, rest.weights), own_data=True)


@dataclass(frozen=True, eq=False)
class _Training:
    """What all refits of one call share; member m is refit m % (k+1) of network m // (k+1)."""

    reduction: Reduction
    whole: StackedProblem
    weights: Float[Tensor, "M n"]
    start: Params
    schedule: Schedule
    averaging: SWA | None
    watch: _Watched | None
    progress: bool
    traced: dict[tuple[int, bool, int], TracedStep] = field(default_factory=dict)

    def run(self, members: Int[Tensor, " m"]) -> tuple[TrainedEnsemble, Float[Tensor, " m"]]:
        """The refits with these numbers, and their gradient norms."""
        labels = self.reduction.members.labels
        refits = len(self.weights) // len(labels)
        rows = members // refits
        batch, own_data = self._examples(rows)
        objective = self.reduction.problem.objective
        held = {name: value[rows] for name, value in self.whole.fixed.items()}
        start = {name: value[rows] for name, value in self.start.items()}
        together, whole_networks = batch, len(members) % refits == 0 and members[0] % refits == 0
        if own_data and whole_networks and are_linear(objective, start, held, batch, own_data):
            together = tree_map(lambda leaf: leaf[rows[::refits]], self.whole.batch)
        trained = train_ensemble(
            objective,
            start,
            together,
            self.schedule,
            held=held,
            data_weights=self.weights[members],
            averaged=torch.full_like(members, self.averaging is not None, dtype=torch.bool),
            averaging=self.averaging,
            own_data=own_data,
            labels=[f"{labels[index // refits]}, refit {index % refits}" for index in members.tolist()],
            record=self._recorder(rows),
            step=None if held else self._step(start, together, self.weights[members], own_data),
            progress=self.progress,
        )
        ends = {**held, **trained.params}
        problem = StackedProblem(objective, ends, batch, self.weights[members], own_data=own_data)
        gradients, _ = problem.gradients(problem.start, problem.everyone)
        return trained, gradients.norm(dim=1)

    def _step(self, start: Params, batch: Batch, weights: Float[Tensor, "m n"], own_data: bool) -> TracedStep:
        """The step of all turns of these shapes, traced once; whether compiling pays is a matter of all of them."""
        shapes = (len(weights), own_data, len(batch.targets))
        if shapes not in self.traced:
            objective = self.reduction.problem.objective
            strengths = weights.new_full((len(weights),), objective.regulariser_weight)
            steps = self.schedule.epochs * (len(self.weights) // len(weights))
            self.traced[shapes] = trace_members(
                objective, start, batch, weights, strengths, own_data=own_data, steps=steps
            )
        return self.traced[shapes]

    def _examples(self, rows: Int[Tensor, " m"]) -> tuple[Batch, bool]:
        """What refits of these networks train on, and whether each has examples of its own."""
        if not self.whole.own_data:
            return self.whole.batch, False
        if (rows == rows[0]).all():
            return tree_map(lambda leaf: leaf[rows[0]], self.whole.batch), False
        return tree_map(lambda leaf: leaf[rows], self.whole.batch), True

    def _recorder(self, rows: Int[Tensor, " m"]) -> Callable[[Params], Tensor] | None:
        """Losses of the watched examples under every member."""
        if self.watch is None:
            return None
        batch, own_data = self.watch.batch, self.watch.own_data
        if own_data:
            batch = tree_map(lambda leaf: leaf[rows], batch)
        objective = self.reduction.problem.objective
        return lambda state: losses_of_members(objective, state, batch, own_data=own_data)


def _recorded(trained: tuple[TrainedEnsemble, ...], networks: int) -> Float[Tensor, "E k_plus_1 epochs t"]:
    recorded = [part.recorded.transpose(0, 1) for part in trained if part.recorded is not None]
    return torch.cat(recorded).unflatten(0, (networks, -1))
