"""Refits from scratch: the same seed, initialisation and schedule as the networks' own training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from bayes_influence.arguments import shown
from bayes_influence.data.dataset import Dataset, check_dataset
from bayes_influence.models.initialisation import initial_state
from bayes_influence.objectives.head import layer_path
from bayes_influence.objectives.members import Members
from bayes_influence.objectives.parameters import Params
from bayes_influence.objectives.reduction import Reduction, reduce
from bayes_influence.objectives.reweighting import Removals, as_removals
from bayes_influence.retraining.protocol import RetrainingProtocol, Trained
from bayes_influence.retraining.refits import Refits
from bayes_influence.retraining.trained import trained_refits
from bayes_influence.retraining.turns import per_network, repeated
from bayes_influence.training.effects import StepEffects
from bayes_influence.training.minibatch import Trained as Minibatches
from bayes_influence.training.minibatch import train_minibatches
from bayes_influence.training.minibatch_schedule import MinibatchSchedule, full_batches
from bayes_influence.training.schedules import Schedule, check_schedule
from bayes_influence.training.schemes import Scheme, check_builder
from bayes_influence.training.stacked import StackedProblem


@dataclass(frozen=True)
class FromScratch(RetrainingProtocol):
    """Cold: the networks' own scheme, seeds, initialisation and schedule, SWA's averaging repeated.

    Seeds are the members'. The selected parameters restart at their initialisation; all others, such as the feature
    map before a last layer, stay the fit's, and then running statistics do, too. With the fit's own schedule and all
    parameters, the control ends where the training did (before a polish).

    A network that draws random numbers while it trains draws those of the fit's seed for the control and for every
    removal: what differs between them is the removal, not the noise. Where examples mix while it trains, as in a batch
    norm, a removed example is out of the batches, and the refit has running statistics of its own; noise, if there is
    some as well, then falls on the other examples in another order.

    Attributes:
        scheme: How the networks were regularised.
        make_network: Builds the deterministic network, as it was built for the fits.
        schedule: The fits' own, on all examples at once or in minibatches.
        watch: Examples whose losses are recorded at every epoch.
        at_once: Refits trained as one ensemble, see `trained_refits`.
    """

    scheme: Scheme
    make_network: Callable[[], nn.Module]
    schedule: Schedule | MinibatchSchedule
    watch: Dataset | None = None
    at_once: int | None = None
    name = "cold"

    def __post_init__(self) -> None:
        if not isinstance(self.scheme, Scheme):
            raise TypeError(f"the scheme must be a Scheme, got {shown(self.scheme)}; take SCHEMES['bnn'], say")
        check_builder(self.make_network)
        if not isinstance(self.schedule, MinibatchSchedule):
            check_schedule(self.schedule)
        if self.watch is not None:
            check_dataset(self.watch, "the watched examples")

    def refit(
        self, trained: Trained, train: Dataset, removed: Removals | Int[Tensor, "*E k"], *, progress: bool = False
    ) -> Refits:
        """As `RetrainingProtocol.refit`.

        Raises:
            ValueError: If losses are to be watched of networks whose training draws random numbers, moves buffers or is
                in minibatches, or `make_network` builds another network than was trained.
        """
        reduction = reduce(trained, train)
        members = reduction.members
        removals = as_removals(removed, len(members))
        objective = members.objective
        start, buffers = initial_state(
            lambda: self.scheme.built(self.make_network),
            members.seeds,
            dtype=objective.dtype,
            device=objective.device,
        )
        if layer_path(objective.network):  # a last layer on its own: the network around it is built, too
            start = {name: value for name, value in start.items() if name in members.params}
            buffers = members.buffers
        _check_same(start, members.params)
        effects = self.scheme.effects(objective, train)
        held: tuple[str, ...] = ()
        if set(objective.names) != set(objective.taking("all").names):
            held = effects.moves
            effects = self.scheme.effects(objective, train, held)
            start = {**members.params, **{name: start[name] for name in objective.names}}
            buffers = members.buffers
        if isinstance(self.schedule, MinibatchSchedule) or not effects.as_evaluated:
            return self._in_turns(reduction, removals, start, buffers, effects, held, progress)
        return trained_refits(
            reduction,
            removals,
            self.schedule,
            start=start,
            averaging=self.scheme.averaging,
            watch=self.watch,
            at_once=self.at_once,
            progress=progress,
        )

    def _in_turns(
        self,
        reduction: Reduction,
        removals: Removals,
        start: Params,
        buffers: Params,
        effects: StepEffects,
        held: tuple[str, ...],
        progress: bool,
    ) -> Refits:
        """Trains as `fit_schemes` trains such a network, with the random numbers of the fit's seed, one by one."""
        members, train = reduction.members, reduction.train
        if self.watch is not None:
            raise ValueError(
                f"the networks of the scheme {self.scheme.name} draw random numbers, move buffers or take minibatches "
                "while they train, so their losses cannot be watched from scratch; leave `watch` out"
            )
        objective, refits = members.objective, removals.count + 1
        weights = removals.data_weights(train, objective.dtype).flatten(0, 1)
        start, buffers = repeated(start, refits), repeated(buffers, refits)
        everyone = torch.arange(len(weights))
        parts = [
            self._trained(members, train, rows, start, buffers, weights[rows], held, progress)
            for rows in everyone.split(1 if effects.mixes else len(everyone))
        ]
        params, moved = (
            {name: torch.cat([part[name] for part in each]) for name in each[0]}
            for each in zip(*((part.params, part.buffers) for part in parts), strict=True)
        )
        problem = StackedProblem(objective, {**params, **moved}, objective.fitting(train.batch()), weights)
        norms = problem.gradients(problem.start, problem.everyone)[0].norm(dim=1).unflatten(0, (len(members), -1))
        return Refits(
            reduction=reduction,
            params=per_network({name: params[name] for name in objective.names}, len(members)),
            removals=removals,
            gradient_norms=norms,
            converged=torch.zeros_like(norms, dtype=torch.bool),
            buffers=per_network({name: moved[name] for name in effects.moves}, len(members)),
        )

    def _trained(
        self,
        members: Members,
        train: Dataset,
        rows: Int[Tensor, " m"],
        start: Params,
        buffers: Params,
        weights: Float[Tensor, "m n"],
        held: tuple[str, ...],
        progress: bool,
    ) -> Minibatches:
        """The refits in some rows; what weighs nothing in a single one is not in its batches."""
        objective, refits, examples = members.objective, len(next(iter(start.values()))) // len(members), len(train)
        if len(rows) == 1:
            kept = weights[0] != 0
            # The mean is over fewer examples, and what is minimised is still (1/n) sum_i w_i l_i.
            train, weights = train.select(kept.nonzero()[:, 0]), weights[:, kept] * (kept.sum() / examples)
        schedule = self.schedule
        if not isinstance(schedule, MinibatchSchedule):
            schedule = full_batches(schedule, len(train))
        owners = [(index // refits, index % refits) for index in rows.tolist()]
        return train_minibatches(
            objective,
            {name: value[rows] for name, value in start.items()},
            train,
            self.scheme.scheduled(schedule),
            [members.seeds[network] for network, _ in owners],
            names=objective.names,
            buffers={name: value[rows] for name, value in buffers.items()},
            averaging=self.scheme.averaging,
            data_weights=weights,
            step=self.scheme.step(objective, examples, held),
            labels=[f"{members.labels[network]}, refit {refit}" for network, refit in owners],
            progress=progress,
        )


def _check_same(built: Params, trained: Params) -> None:
    """Refuses a builder of other parameters than were trained.

    Raises:
        ValueError: Naming the first parameter that differs.
    """
    for name in [*trained, *(name for name in built if name not in trained)]:
        old, new = (tuple(part[name].shape[1:]) if name in part else "absent" for part in (trained, built))
        if old != new:
            raise ValueError(
                f"make_network builds another network than was trained: {name} is {old} in the trained one and {new} "
                "in the one that is built; give the function that the networks were trained with, and their scheme"
            )
