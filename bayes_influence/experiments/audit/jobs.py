"""Which networks are audited, in which parameters, against the removal of which examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from bayes_influence.curvature.damping import Damping, FisherDamping, IdentityDamping
from bayes_influence.data.dataset import Dataset
from bayes_influence.experiments.audit.settings import AuditSettings
from bayes_influence.experiments.store.cells import cell_key
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.influence.influence import Influence
from bayes_influence.objectives.head import has_head, head_objective, head_params, is_last_layer
from bayes_influence.objectives.members import stack_members
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import RHO, Params
from bayes_influence.objectives.regularisers import NoRegulariser
from bayes_influence.objectives.reweighting import example_losses
from bayes_influence.retraining.minimum import polished_fits
from bayes_influence.retraining.predicted import predicted_refits
from bayes_influence.retraining.problem import first_example, refit_problem, stacked_features
from bayes_influence.retraining.protocols import (
    FromScratch,
    LinearResponse,
    Minimum,
    Proximal,
    ProximalBregman,
    RetrainingProtocol,
    Warm,
)
from bayes_influence.retraining.refits import Refits
from bayes_influence.torch_internals import tree_map
from bayes_influence.training.fits import Fits
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.schemes import Deterministic


def given_fits(
    objective: Objective,
    train: Dataset,
    params: Params | None = None,
    seeds: Sequence[int] = (0,),
    name: str = "network",
    *,
    measured: bool = True,
) -> Fits:
    """Networks that were trained elsewhere, as fits.

    Args:
        objective: Theirs, at the parameters of the first.
        train: Their training examples.
        params: Stacked parameters (S, ...); those of the objective when not given.
        seeds: Numbers that tell the networks apart.
        name: What they are called.
        measured: Whether their gradient norms are computed; NaN otherwise.
    """
    free = isinstance(objective.regulariser, NoRegulariser)
    scheme = Deterministic(name, regulariser_weight=0.0 if free else objective.regulariser_weight)
    stacked = stack_members([objective.params]) if params is None else params
    norms = torch.full((len(seeds),), torch.nan)
    if measured:
        _, problem = refit_problem(objective, stacked, train)
        norms = problem.gradients(problem.start, torch.arange(len(seeds)))[0].norm(dim=1)
    return Fits(scheme, objective, tuple(seeds), stacked, norms, torch.zeros_like(norms, dtype=torch.bool), 0.0)


def each_network(trained: Fits | Sequence[Fits]) -> tuple[Fits, ...]:
    """Fits of one seed each."""
    return tuple(
        replace(
            fits,
            objective=fits.at(row),
            seeds=(seed,),
            params={name: value[row : row + 1] for name, value in fits.params.items()},
            gradient_norms=fits.gradient_norms[row : row + 1],
            polished=fits.polished[row : row + 1],
        )
        for fits in ([trained] if isinstance(trained, Fits) else trained)
        for row, seed in enumerate(fits.seeds)
    )


@dataclass(frozen=True, eq=False)
class AuditJob:
    """One network to be audited, reduced by `on_features`.

    Attributes:
        fits: The network, as fits of one seed.
        train: Its training examples.
        test: Test examples.
        removed: Ids of the examples that are removed one at a time.
        settings: How it is audited.
        delta: The damping, resolved.
        make_network: Builds the network for retraining from scratch, None to leave that stage out.
        schedule: Of the fit, for retraining from scratch.
        folder: Where finished stages are kept, so that a killed audit resumes at the next one; None to keep nothing.
    """

    fits: Fits
    train: Dataset
    test: Dataset
    removed: Tensor
    settings: AuditSettings
    delta: float
    make_network: Callable[[], nn.Module] | None = None
    schedule: Schedule | None = None
    folder: StudyFolder | None = None

    @property
    def damping(self) -> Damping:
        """The damping in the metric of the parameters that influence is taken in."""
        return damping_of(self.fits.objective, self.delta)

    @property
    def exact(self) -> bool:
        """Whether retraining goes to a minimum, by Newton's method."""
        convex = is_last_layer(self.fits.objective) and self.fits.scheme.regularised
        return self.settings.refits == "newton" or (self.settings.refits == "auto" and convex)

    def stages(self, influence: Influence) -> dict[str, Callable[[], Refits]]:
        """How every stage of the waterfall is computed, in their order; the last from the estimate itself."""
        settings, removed = self.settings, self.removed.unsqueeze(0)
        protocols: dict[str, RetrainingProtocol] = {}
        repeatable = not (self.fits.scheme.sampled and is_last_layer(self.fits.objective))
        if self.make_network is not None and self.schedule is not None and repeatable:
            protocols["cold"] = FromScratch(self.make_network, self.schedule)
        protocols["warm"] = Minimum() if self.exact else Warm(settings.refit_schedule)
        protocols["proximal"] = Proximal(self.damping, settings.tolerance)
        protocols["pbrf"] = ProximalBregman(self.damping, settings.tolerance)
        protocols["linear"] = LinearResponse(self.damping)
        stages: dict[str, Callable[[], Refits]] = {}
        for name, protocol in protocols.items():
            stages[name] = partial(protocol.refit, self.fits, self.train, removed)
        return stages | {"solver": partial(predicted_refits, self.fits, self.train, removed, lambda _: influence)}


def damping_of(objective: Objective, delta: float) -> Damping:
    """Delta in the parameters' own metric: the identity, or for variational parameters the Fisher information of q."""
    variational = any(name.endswith(RHO) for name in objective.names)
    return FisherDamping(delta) if variational else IdentityDamping(delta)


def audit_jobs(
    trained: Fits | Sequence[Fits],
    train: Dataset,
    test: Dataset,
    settings: AuditSettings,
    make_network: Callable[[], nn.Module] | None = None,
    schedule: Schedule | None = None,
) -> dict[str, AuditJob]:
    """One job per network, by the key that it is stored under; all remove the same examples at the same damping."""
    networks = [on_features(fits, train, test) for fits in each_network(trained)]
    if settings.polish:
        networks = [(polished_fits(fits, own), own, tests) for fits, own, tests in networks]
    removed = hardest_in_the_mean([(fits.at(0), own) for fits, own, _ in networks], settings.removals)
    delta = settings.damping
    if delta is None:
        first, own, _ = networks[0]
        delta = settings.influence(first.at(0), own, "auto").damping.delta
    if delta == 0:
        raise ValueError("the automatic damping came to 0; give the audit a positive one")
    return {
        cell_key(seed=fits.seeds[0]): AuditJob(fits, own, tests, removed, settings, delta, make_network, schedule)
        for fits, own, tests in networks
    }


def on_features(fits: Fits, train: Dataset, test: Dataset) -> tuple[Fits, Dataset, Dataset]:
    """The last layer of one network and its features in float64, where that is what is audited; else what was given.

    The network then runs over the data once, in its own dtype.
    """
    if not has_head(fits.objective, first_example(fits.objective, train)):
        return fits, train, test
    objective, params = fits.objective, fits.params
    own = {name: value.double() for name, value in head_params(objective, params).items()}
    head = replace(fits, objective=head_objective(fits.at(0)).to(dtype=torch.float64), params=own)

    def featured(data: Dataset) -> Dataset:
        inputs = tree_map(lambda leaf: leaf[0], stacked_features(objective, params, data.inputs))
        return data.with_inputs(inputs).to(dtype=torch.float64)

    return head, featured(train), featured(test)


def hardest_in_the_mean(networks: Sequence[tuple[Objective, Dataset]], count: int) -> Tensor:
    """Ids of the training examples with the largest loss, a mean over the networks: the same for every one.

    Args:
        networks: Each with the training examples as it takes them, in one order.
        count: How many.

    Raises:
        ValueError: If there are not so many examples, or a loss is not finite.
    """
    train = networks[0][1]
    if not 1 <= count < len(train):
        raise ValueError(f"between 1 and {len(train) - 1} of {len(train)} examples can be removed, got {count}")
    mean = torch.stack([example_losses(objective, own) for objective, own in networks]).mean(0)
    return train.ids[torch.argsort(mean, descending=True, stable=True)[:count]]
