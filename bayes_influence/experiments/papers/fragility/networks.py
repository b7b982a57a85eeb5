"""The networks of the Iris study, trained as the choices say: where estimates are taken, and where refits start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bayes_influence.data.dataset import Dataset, Split
from bayes_influence.experiments.comparison.study import Study
from bayes_influence.experiments.papers.fragility.choices import Choices
from bayes_influence.experiments.papers.fragility.published_bayes import (
    ADDED_TO_HESSIAN,
    EstimatedLoss,
    SoftmaxTwice,
    published_members,
)
from bayes_influence.experiments.papers.fragility.published_code import LastIterate
from bayes_influence.models.initialisation import initial_params
from bayes_influence.objectives.members import Members, member
from bayes_influence.objectives.objective import Likelihood, Objective
from bayes_influence.objectives.parameters import Params
from bayes_influence.training.ensemble import train_ensemble
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.minimum import minimised
from bayes_influence.training.prepared import prepared_objective
from bayes_influence.training.schedules import SWA
from bayes_influence.training.schemes import Scheme, find_schemes

BAYESIAN = "bnn"
"""The scheme whose network, losses and estimate the published code has of its own."""

PUBLISHED_ACTIVATION = "tanh"
"""Of the published Bayesian network, where the deterministic ones have SELU."""


@dataclass(frozen=True, eq=False)
class Networks:
    """One scheme's networks, one per seed.

    Attributes:
        scheme: Its name.
        members: With the objective that was trained, where estimates are taken.
        start: The same, where refits start.
        averaging: How refits that start elsewhere than `members` are averaged.
        likelihood: Of the test loss and of the ranking of training examples; the objective's own where None.
        estimated: The likelihood that the estimate linearises; the objective's own where None.
        added: Multiple of the identity that the estimate adds to its Hessian.
    """

    scheme: str
    members: Members
    start: Members
    averaging: SWA | None = None
    likelihood: Likelihood | None = None
    estimated: Likelihood | None = None
    added: float = 0.0

    def tested(self, row: int) -> Objective:
        """One network with the loss that examples are ranked and tested by."""
        objective = self.members.at(row)
        return objective if self.likelihood is None else replace(objective, likelihood=self.likelihood)

    def linearised(self, row: int) -> Objective:
        """One network with the objective that its estimate linearises."""
        objective = self.members.at(row)
        return objective if self.estimated is None else replace(objective, likelihood=self.estimated)


def dtype_of(choices: Choices) -> torch.dtype:
    """What everything is computed in."""
    return torch.float64 if choices.double_precision else torch.float32


def fit_networks(study: Study, choices: Choices, split: Split, *, progress: bool = False) -> list[Networks]:
    """Trains the study's schemes on the data as the choices say.

    Args:
        study: Sizes, seeds, schemes and epochs.
        choices: How.
        split: The data, standardised.
        progress: Whether to show a progress bar.
    """
    train = split.train.to(dtype=dtype_of(choices))
    found: list[Networks] = []
    plain = [name for name in study.schemes if name != BAYESIAN]
    if plain:
        found += _deterministic(study, find_schemes(plain), choices, train, progress)
    if BAYESIAN in study.schemes:
        fit = _own_bayesian if choices.one_objective else _published_bayesian
        found.append(fit(study, choices, train, progress))
    return sorted(found, key=lambda one: study.schemes.index(one.scheme))


def _deterministic(
    study: Study, schemes: Sequence[Scheme], choices: Choices, train: Dataset, progress: bool
) -> list[Networks]:
    """All schemes and seeds in one ensemble; averages, and the last iterates beside them where those are restarted."""
    objective = prepared_objective(schemes[0], study.make_network, train, study.seeds[0], "all")
    start = initial_params(study.make_network, study.seeds, train.inputs.dtype)
    count, labels = len(study.seeds), [f"{scheme.name}, seed {seed}" for scheme in schemes for seed in study.seeds]
    averaging = next((scheme.averaging for scheme in schemes if scheme.averaging), None)
    last = LastIterate()
    trained = train_ensemble(
        objective,
        {name: value.repeat(len(schemes), *[1] * (value.ndim - 1)) for name, value in start.items()},
        train.batch(),
        study.full_schedule,
        regulariser_weights=torch.tensor([scheme.regulariser_weight for scheme in schemes for _ in study.seeds]),
        averaged=torch.tensor([bool(scheme.averaging) for scheme in schemes for _ in study.seeds]),
        averaging=averaging,
        labels=labels,
        record=None if choices.swa_from_average or averaging is None else last,
        progress=progress,
    ).params
    found = []
    for index, scheme in enumerate(schemes):
        rows = slice(index * count, (index + 1) * count)
        own = replace(objective, regulariser_weight=scheme.regulariser_weight)
        members = _members(own, trained, rows, labels, study)
        begin = members
        if scheme.averaging and last.params is not None:
            begin = _members(own, last.params, rows, labels, study)
        if scheme.regularised and refits_exactly(choices):
            members = minimised(members.taking("last-layer"), train).members.taking("all")
        found.append(Networks(scheme.name, members, begin, scheme.averaging))
    return found


def refits_exactly(choices: Choices) -> bool:
    """Whether a regularised last layer stands at its minimum, before and after a removal."""
    return choices.exact_refits and choices.last_layer_refits and choices.double_precision


def _members(objective: Objective, params: Params, rows: slice, labels: list[str], study: Study) -> Members:
    own: dict[str, Tensor] = {name: params[name][rows] for name in objective.params}
    return Members(
        objective=objective.at(member(own, 0)),
        params=own,
        buffers={},
        labels=tuple(labels[rows]),
        seeds=tuple(study.seeds),
    )


def _own_bayesian(study: Study, choices: Choices, train: Dataset, progress: bool) -> Networks:
    """The library's Bayesian network: one objective for everything."""
    own = study if choices.one_activation else replace(study, activation=PUBLISHED_ACTIVATION)
    tolerance = 1e-10 if refits_exactly(choices) else None
    (fits,) = fit_schemes(
        find_schemes([BAYESIAN]),
        own.make_network,
        train,
        own.seeds,
        own.full_schedule,
        tolerance=tolerance,
        progress=progress,
    )
    members = Members(**{name: getattr(fits, name) for name in ("objective", "params", "buffers", "labels", "seeds")})
    members = members.taking("all")
    return Networks(BAYESIAN, members, members)


def _published_bayesian(study: Study, choices: Choices, train: Dataset, progress: bool) -> Networks:
    """The published one: its loss to train and refit, another to linearise, a third to test."""
    activation = study.said_shape()["activation"] if choices.one_activation else PUBLISHED_ACTIVATION
    depth, width = study.sizes
    sizes = (train.inputs.shape[1], train.n_classes, width, depth, activation)
    labels = [f"published {BAYESIAN}, seed {seed}" for seed in study.seeds]
    initial = published_members(sizes, train, list(study.seeds), labels)
    moving = initial.objective.names
    trained = train_ensemble(
        initial.objective,
        {name: initial.params[name] for name in moving},
        train.batch(),
        study.full_schedule,
        held={name: value for name, value in initial.params.items() if name not in moving},
        labels=labels,
        progress=progress,
    ).params
    params = {name: trained.get(name, value) for name, value in initial.params.items()}
    members = replace(initial, params=params, objective=initial.objective.at(member(params, 0)))
    return Networks(
        BAYESIAN, members, members, likelihood=SoftmaxTwice(), estimated=EstimatedLoss(), added=ADDED_TO_HESSIAN
    )
