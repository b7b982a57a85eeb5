"""A run's network where it is asked why: its last layer at the minimum, with what it learned from and the tests."""

from __future__ import annotations

from dataclasses import dataclass

from bayes_influence.data.dataset import Dataset
from bayes_influence.experiments.attribution.of_run import InfluenceRequest
from bayes_influence.experiments.audit.jobs import on_features
from bayes_influence.objectives.members import Members
from bayes_influence.objectives.objective import Objective
from bayes_influence.retraining.minimum import Minimum
from bayes_influence.retraining.protocol import RetrainingProtocol
from bayes_influence.retraining.warm import Warm
from bayes_influence.training.minimum import minimised
from bayes_influence.training.noise import with_noise_held
from bayes_influence.training.schedules import Schedule

REFIT = Schedule(1000)
"""Of a retraining where there is no minimum to go to."""

DAMPING = 1e-6
"""Of the estimate in a last layer at its minimum, whose curvature needs none; an audit asks for a positive one."""


@dataclass(frozen=True, eq=False)
class AskedRun:
    """A network in float64, what it learned from, and what it is asked about: last layers, as features.

    Attributes:
        network: At the minimum of its last layer, where it has one.
        train: Its training examples.
        tests: The test examples.
        exact: Whether it stands at that minimum.
    """

    network: Members
    train: Dataset
    tests: Dataset
    exact: bool

    @property
    def objective(self) -> Objective:
        """The network's."""
        return self.network.at(0)

    @property
    def protocol(self) -> RetrainingProtocol:
        """How it is retrained."""
        return Minimum() if self.exact else Warm(REFIT)


def asked_of_run(objective: Objective, train: Dataset, tests: Dataset, request: InfluenceRequest) -> AskedRun:
    """The network of a run for some test examples, its last layer at the minimum where it has one.

    Args:
        objective: The network. Noise that it learns is held where it stands, unless influence is taken in it.
        train: Its training examples.
        tests: Test examples.
        request: Says in which parameters influence is taken.
    """
    chosen = objective.taking(request.parameters)
    members = Members.of(chosen if "log_scale" in chosen.names else with_noise_held(chosen))
    ((network, own, seen),), is_head = on_features(members, train, tests)
    exact = is_head and network.objective.is_regularised
    return AskedRun(minimised(network, own).members if exact else network, own, seen, exact)
