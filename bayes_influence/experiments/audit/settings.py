"""What an audit does to a trained network."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Any

from bayes_influence.curvature.damping import Damping
from bayes_influence.curvature.solvers.registry import as_solver
from bayes_influence.data.dataset import Dataset
from bayes_influence.evaluation.agreement import MIN_POINTS
from bayes_influence.experiments.store.fingerprint import described_schemes
from bayes_influence.experiments.store.settings import Settings
from bayes_influence.experiments.training.of_network import ACTIVATION
from bayes_influence.experiments.training.studied_networks import StudiedNetworks
from bayes_influence.influence.influence import Influence
from bayes_influence.objectives.objective import Objective
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.scheme import Scheme
from bayes_influence.training.schemes import find_schemes

REFITS = ("auto", "newton", "trained")
"""How networks are retrained from the fit."""


@dataclass(frozen=True)
class AuditSettings(Settings):
    """What an audit does to a trained network.

    Attributes:
        removals: Training examples of largest loss (mean over seeds), removed one at a time.
        damping: The delta of estimate, proximal objective and PBRF; None for the automatic one of the first seed. In
            the identity's metric, for variational parameters in that of the Fisher information of q.
        curvature: Of the estimate, "ggn" or "hessian"; the waterfall's linear response is always Gauss-Newton.
        solver: Of the estimate: a key of `curvature.solvers.registry.SOLVERS`.
        refit_schedule: Of the retrainings from the fit, where they are trained.
        refits: How networks are retrained from the fit: "newton", to the minimum that Newton's method finds; "trained",
            on the schedule; "auto", the first for a regularised last layer, which is convex, and else the second. A
            last layer without regulariser has a minimum too, if no weights separate the classes.
        tolerance: Gradient norm to which proximal objective and PBRF are minimised.
        polish: Whether the selected parameters are brought to their minimum before anything else: then the audit is of
            the estimate, not of how far the training went.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    removals: int = 20
    damping: float | None = None
    curvature: str = "ggn"
    solver: str = "auto"
    refit_schedule: Schedule = field(default_factory=Schedule)
    refits: str = "auto"
    tolerance: float = 1e-8
    polish: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.removals < MIN_POINTS:
            raise ValueError(
                f"an audit needs at least {MIN_POINTS} removed examples for its correlations, got {self.removals}"
            )
        if self.damping is not None and not 0 < self.damping < inf:
            raise ValueError(f"the damping must be positive, got {self.damping}; leave it out for the automatic one")
        as_solver(self.solver)
        self.check_known(curvature=("ggn", "hessian"), refits=REFITS)

    def influence(self, objective: Objective, train: Dataset, damping: str | float | Damping) -> Influence:
        """The estimate that is audited."""
        return Influence(objective, train, curvature=self.curvature, solver=self.solver, damping=damping)


@dataclass(frozen=True)
class AuditedData(StudiedNetworks):
    """The networks on a data set whose estimates are audited: one scheme's.

    Attributes:
        tests: Of data with a test part: how many of its examples are measured, those that the first network predicts
            worst, unless `test_example` names one.
        scheme: A key of `SCHEMES`.
        scheme_options: Numbers and words of the scheme that are to be others than its own, by field.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    repeats: int = 3
    tests: int = 5
    scheme: str = "weight-decay"
    scheme_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(tests=1)
        self.resolved_scheme()

    def usual_shape(self) -> dict[str, Any]:
        """As of all networks; also on a table that is known by name an MLP is smooth."""
        shape = super().usual_shape()
        return shape | {"activation": ACTIVATION} if "activation" in shape else shape

    def resolved_scheme(self) -> Scheme:
        """The scheme with these numbers."""
        (scheme,) = find_schemes([self.scheme], self.scheme_options)
        return self.suited_scheme(scheme.name, self.scheme_options)

    def configuration(self) -> dict[str, Any]:
        """What a result folder belongs to: the settings, with all that the scheme came to instead of what was said."""
        settings = {name: value for name, value in self.to_config().items() if name != "scheme_options"}
        return settings | {"resolved_schemes": described_schemes([self.resolved_scheme()])}
