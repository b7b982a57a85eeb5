"""Refits from scratch: the same seed, initialisation and schedule as the networks' own training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn

from bayes_influence.arguments import shown
from bayes_influence.data.dataset import Dataset, check_dataset
from bayes_influence.models.initialisation import initial_state
from bayes_influence.objectives.parameters import Params
from bayes_influence.objectives.reduction import Reduction, reduce
from bayes_influence.objectives.reweighting import Removals, as_removals
from bayes_influence.retraining.protocol import RetrainingProtocol, Trained
from bayes_influence.retraining.refits import Refits
from bayes_influence.retraining.trained import trained_refits
from bayes_influence.retraining.turns import per_network, repeated
from bayes_influence.torch_internals import AnyBatchNorm
from bayes_influence.training.minibatch import train_minibatches
from bayes_influence.training.minibatch_schedule import full_batches
from bayes_influence.training.schedules import Schedule, check_schedule
from bayes_influence.training.schemes import Scheme, check_builder
from bayes_influence.training.stacked import StackedProblem


@dataclass(frozen=True)
class FromScratch(RetrainingProtocol):
    """Cold: the networks' own scheme, seeds, initialisation and schedule, SWA's averaging repeated.

    Seeds are the members'. The selected parameters restart at their initialisation; all others, such as the feature
    map before a last layer, stay the fit's. With the fit's own schedule, the control ends where the training did
    (before a polish).

    A scheme that draws random numbers while it trains draws those of the fit's seed for the control and for every
    removal: what differs between them is the removal, not the noise.

    Attributes:
        scheme: How the networks were regularised.
        make_network: Builds the deterministic network, as it was built for the fits.
        schedule: The fits' own.
        watch: Examples whose losses are recorded at every epoch.
        at_once: Refits trained as one ensemble, see `trained_refits`.
    """

    scheme: Scheme
    make_network: Callable[[], nn.Module]
    schedule: Schedule
    watch: Dataset | None = None
    at_once: int | None = None
    name = "cold"

    def __post_init__(self) -> None:
        if not isinstance(self.scheme, Scheme):
            raise TypeError(f"the scheme must be a Scheme, got {shown(self.scheme)}; take SCHEMES['bnn'], say")
        check_builder(self.make_network)
        check_schedule(self.schedule)
        if self.watch is not None:
            check_dataset(self.watch, "the watched examples")

    def refit(
        self, trained: Trained, train: Dataset, removed: Removals | Int[Tensor, "*E k"], *, progress: bool = False
    ) -> Refits:
        """As `RetrainingProtocol.refit`.

        Raises:
            ValueError: If a scheme or network that draws random numbers while it trains is to be retrained in some
                parameters only, or with `watch`, or if batch norms would move their running statistics.
        """
        reduction = reduce(trained, train)
        members = reduction.members
        removals = as_removals(removed, len(members))
        objective = members.objective
        start, buffers = initial_state(
            lambda: self.scheme.prepare(self.make_network()),
            members.seeds,
            dtype=objective.dtype,
            device=objective.device,
        )
        if self.scheme.trains_in_turns(objective):
            return self._sampled(reduction, removals, start, buffers, progress)
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

    def _sampled(
        self, reduction: Reduction, removals: Removals, start: Params, buffers: Params, progress: bool
    ) -> Refits:
        """Trains as `fit_schemes` trains such a scheme, with the random numbers of the fit's seed, one by one."""
        members, train, name = reduction.members, reduction.train, self.scheme.name
        objective = members.objective
        if self.watch is not None:
            raise ValueError(f"losses of the scheme {name} cannot be watched from scratch; leave it out")
        if set(objective.names) != set(objective.taking("all").names):
            raise ValueError(
                f"the scheme {name} draws random numbers in the whole network while it trains, which a training of "
                f"some parameters alone does not repeat; retrain from the fit (`Minimum`), or select all parameters"
            )
        norms = [module for module in objective.network.modules() if isinstance(module, AnyBatchNorm)]
        if not objective.is_bayesian and any(module.track_running_stats for module in norms):
            raise ValueError(
                "every refit from scratch would have running statistics of its own, which refits do not keep; retrain "
                "from the fit (`Warm`), whose statistics are held"
            )
        networks, refits = len(members), removals.count + 1
        weights = removals.data_weights(train, objective.dtype).flatten(0, 1)
        trained = train_minibatches(
            objective,
            repeated(start, refits),
            train,
            full_batches(self.schedule, len(train)),
            [seed for seed in members.seeds for _ in range(refits)],
            buffers=repeated(buffers, refits),
            averaging=self.scheme.averaging,
            data_weights=weights,
            step=self.scheme.step(objective, len(train)),
            labels=[f"{label}, refit {index}" for label in members.labels for index in range(refits)],
            progress=progress,
        )
        batch, own_data = reduction.batch()
        ends = StackedProblem(objective, trained.state, batch, weights, own_data=own_data)
        norms = ends.gradients(ends.start, ends.everyone)[0].norm(dim=1).unflatten(0, (networks, -1))
        return Refits(
            reduction=reduction,
            params=per_network({name: trained.params[name] for name in objective.names}, networks),
            removals=removals,
            gradient_norms=norms,
            converged=torch.zeros_like(norms, dtype=torch.bool),
        )
