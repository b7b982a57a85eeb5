"""Where fragility is real, over depth and width: influence and retraining in all layers, one network at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor, nn

from bayes_influence.data.dataset import Split
from bayes_influence.evaluation.agreement import agreement
from bayes_influence.evaluation.ceiling import retraining_ceiling
from bayes_influence.evaluation.statistics import pearson, spearman
from bayes_influence.experiments.audit.cell import measure_network
from bayes_influence.experiments.audit.jobs import AuditJob, audit_jobs
from bayes_influence.experiments.audit.result import KINKED
from bayes_influence.experiments.audit.settings import AuditSettings
from bayes_influence.experiments.comparison.description import scored
from bayes_influence.experiments.comparison.study import Study
from bayes_influence.experiments.papers.fragility.settings import FragilityStudy, Scale
from bayes_influence.experiments.store.cells import CellResult, cell_key
from bayes_influence.models.initialisation import seeded
from bayes_influence.objectives.members import Members
from bayes_influence.retraining.from_scratch import FromScratch
from bayes_influence.retraining.minimum import Minimum
from bayes_influence.retraining.protocol import RetrainingProtocol
from bayes_influence.retraining.refits import Refits, loss_changes
from bayes_influence.training.fits import Fits, fit_schemes
from bayes_influence.training.minibatch_schedule import MinibatchSchedule

TRUTHS = ("pbrf", "minimum", "warm", "cold")
"""What estimates are held against, the nearest to an estimate first."""

HELD = ("proximal", "pbrf")
"""Stages of an audit that are minimised near the fit."""

BATCHES = 5
"""Batches in an epoch of the trainings in other orders, whose steps are as many as full-batch ones."""

TOLERANCE = 1e-6
"""Gradient norm of what is minimised, at a damping of .001."""


@dataclass(frozen=True)
class GridScale(Scale):
    """How large the grid is where nothing else is said.

    Attributes:
        learning_rate: Adam's.
        removals: Examples removed one at a time.
        orders: Trainings in other orders.
        held: Parameters up to which a network with kinks is minimised; None for any number.
    """

    learning_rate: float = 1e-3
    removals: int = 40
    orders: int = 5
    held: int | None = None


SIZES = ((1, 5), (2, 5), (4, 5), (8, 5), (1, 20), (1, 50))
"""(depth, width) of the grid."""

SCALES = {
    "quick": GridScale(2, 200, 20, ((1, 5), (1, 8)), learning_rate=1e-2, removals=3, orders=2, held=0),
    "medium": GridScale(3, 1000, 300, SIZES, learning_rate=1e-2, removals=12, orders=3, held=100),
    "full": GridScale(10, 60000, 7500, SIZES),
}


@dataclass(frozen=True)
class AllLayersStudy(FragilityStudy):
    """The grid over depth and width on Iris, all layers in the estimate and in the refits, tanh and SELU.

    Networks stay where their training left them: the estimate is that of a proximal Bregman response, damped.

    Attributes:
        activations: Of the networks.
        damping: delta of estimate, proximal refits and PBRF, the same for every network.
        orders: Trainings in other orders that the ceiling is from; the scale's when not given.
    """

    schemes: tuple[str, ...] = ("none", "weight-decay", "swa", "weight-decay+swa")
    activations: tuple[str, ...] = ("tanh", "selu")
    damping: float = 1e-3
    orders: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(orders=2)
        for activation in self.activations:
            replace(self.networks(), activation=activation)
        self.audited(self.networks())

    @property
    def size(self) -> GridScale:
        """The scale that was asked for."""
        return SCALES[self.scale]

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(depth, width) of the networks."""
        return super().sizes if self.only else self.size.sizes

    def networks(self) -> Study:
        """The settings that all cells share; its depth, width and activation are not used."""
        names = ("repeats", "epochs", "refit_epochs", "removals")
        said: dict[str, Any] = {name: getattr(self, name) or getattr(self.size, name) for name in names}
        return Study(
            **said,
            learning_rate=self.size.learning_rate,
            parameters="all",
            schemes=self.schemes,
            seed=self.seed,
            test_example=self.test_example,
        )

    def audited(self, networks: Study) -> AuditSettings:
        """What is done to a network: the audit's stages, refits by training."""
        return AuditSettings(
            removals=networks.removals,
            damping=self.damping,
            refit_schedule=networks.refits,
            refits="trained",
            tolerance=TOLERANCE,
        )

    def configuration(self, study: str = "fragility, all layers") -> dict[str, Any]:
        """What a result folder belongs to; networks, activations and schemes can be added."""
        left = ("activation", "schemes", "resolved_schemes")
        shared = {name: value for name, value in super().configuration(study).items() if name not in left}
        return shared | {"damping": self.damping, "orders": self.orders or self.size.orders, "held": self.size.held}

    def cells(self, networks: Study) -> dict[str, GridCell]:
        """One for each activation, network and scheme.

        Args:
            networks: The settings that all share, the test example resolved.
        """
        found = {}
        for activation in self.activations:
            for depth, width in self.sizes:
                for scheme in self.schemes:
                    own = replace(networks, activation=activation, depth=depth, width=width, schemes=(scheme,))
                    key = cell_key(activation=activation, depth=depth, width=width, scheme=scheme)
                    found[key] = GridCell(own, self.audited(own), self.orders or self.size.orders, self.size.held)
        return found


@dataclass(frozen=True)
class GridCell:
    """One activation, network and scheme, from all seeds.

    Attributes:
        networks: What is trained.
        audited: What is done to it.
        orders: Trainings in other orders.
        held: Parameters up to which a network with kinks is minimised; None for any number.
    """

    networks: Study
    audited: AuditSettings
    orders: int
    held: int | None

    def minimises(self, members: Members) -> bool:
        """Whether refits are minimised: a network with kinks, where that ends after minutes, only if it is small."""
        kinked = any(type(module).__name__ in KINKED for module in members.objective.network.modules())
        return self.held is None or not kinked or members.objective.layout.total <= self.held


@dataclass(frozen=True, eq=False)
class TrainedStages(AuditJob):
    """An audit of the refits that are trained: what is minimised near the fit is left out."""

    @property
    def protocols(self) -> dict[str, RetrainingProtocol]:
        """As of every audit but for these."""
        return {name: protocol for name, protocol in super().protocols.items() if name not in HELD}


def measure_all_layers(cell: GridCell) -> CellResult:
    """Every stage of retraining and the estimate of the networks of one cell, and how far retraining repeats itself.

    Returns:
        Tables `results` (a row per seed and truth), `gaps` (a row per seed, removed example and gap), `stages` (a row
        per seed and stage), and `ceilings` (a row per way in which a training was repeated).
    """
    study = cell.networks
    split, (scheme,) = study.split(), study.resolved_schemes()
    schedule = study.schedule(bayesian=scheme.bayesian)
    build = study.builder(split.train)
    given = [scheme], build, split.train, study.seeds, schedule
    (fits,) = fit_schemes(*given, parameters="all", tolerance=None)
    jobs = audit_jobs(fits, split.train, split.test, cell.audited, FromScratch(scheme, build, schedule))
    if not cell.minimises(fits):
        jobs = {key: TrainedStages(**vars(job)) for key, job in jobs.items()}
    measured = [measure_network(job).tables for job in jobs.values()]
    found = {name: pd.concat([tables[name] for tables in measured]) for name in ("effects", "gaps", "stages")}
    removed = next(iter(jobs.values())).removed
    minima = None
    if scheme.regularised and cell.minimises(fits):
        minima = Minimum(TOLERANCE).refit(fits, split.train, removed)
        found["effects"]["minimum"] = loss_changes(minima, split.test)[:, :, 0].flatten().numpy()
    cold = np.stack([rows["cold"].to_numpy() for _, rows in found["effects"].groupby("seed", sort=False)])
    orders = order_effects(cell, fits, split, removed)
    keys = {"activation": study.said_shape()["activation"], "depth": study.sizes[0], "width": study.sizes[1]}
    tables = {
        "results": _agreements(fits, split, found["effects"], found["stages"], minima),
        "gaps": found["gaps"],
        "stages": found["stages"],
        "ceilings": pd.DataFrame([*ceiling_rows("other seeds", cold), *ceiling_rows("other orders", orders)]),
    }
    named = {name: table.assign(**keys, scheme=scheme.name).reset_index(drop=True) for name, table in tables.items()}
    return CellResult(tables=named)


def order_effects(cell: GridCell, fits: Fits, split: Split, removed: Int[Tensor, " k"]) -> Float[np.ndarray, "R k"]:
    """What removals do after trainings of one initialisation, each in minibatches in an order of its own.

    Args:
        cell: How many orders.
        fits: Networks of the same kind; the first one's seed is that of the initialisation.
        split: Training examples and test example.
        removed: Ids.
    """
    study, orders = cell.networks, range(cell.orders)
    steps = study.full_schedule
    schedule = MinibatchSchedule(
        max(1, steps.epochs // BATCHES), -(-len(split.train) // BATCHES), steps.learning_rate, decay="cosine"
    )
    build = partial(built_from, fits.seeds[0], study.builder(split.train))
    labels = [f"{fits.scheme.name}, order {order}" for order in orders]
    members = Members.of([fits.at(0)] * len(orders), labels, tuple(orders))
    refits = FromScratch(fits.scheme, build, schedule).refit(members, split.train, removed)
    return loss_changes(refits, split.test)[:, :, 0].numpy()


def built_from(seed: int, make_network: Callable[[], nn.Module]) -> nn.Module:
    """The network at the same initialisation at every call, wherever the global generator stands."""
    with seeded(seed):
        return make_network()


def ceiling_rows(repeated: str, effects: Float[np.ndarray, "R k"]) -> list[dict[str, Any]]:
    """The ceilings of both correlations, one row; none of a single training.

    Args:
        repeated: What differs between the trainings.
        effects: What removals did after each.
    """
    if len(effects) < 2:
        return []
    found = {name: retraining_ceiling(effects, of) for name, of in (("spearman", spearman), ("pearson", pearson))}
    return [{"repeated": repeated, "trainings": len(effects)} | {name: one.single for name, one in found.items()}]


def _agreements(
    fits: Fits, split: Split, effects: pd.DataFrame, stages: pd.DataFrame, minima: Refits | None
) -> pd.DataFrame:
    """A row per seed and truth: agreement of the estimate with it, and how well the truth was computed."""
    rows = []
    for index, seed in enumerate(fits.seeds):
        own = effects[effects["seed"] == seed]
        computed = {row["stage"]: row for row in stages[stages["seed"] == seed].to_dict("records")}
        accuracy = scored(fits.at(index), split.train)["accuracy"]
        network = {"seed": seed, "train_accuracy": accuracy, "gradient_norm": float(fits.gradient_norms[index])}
        for truth in TRUTHS:
            if truth not in own:
                continue
            if truth == "minimum":
                assert minima is not None
                done = {"unconverged": float((~minima.converged[index]).sum()), "control_drift": np.nan}
            else:
                done = {name: computed[truth][name] for name in ("unconverged", "control_drift")}
            compared = agreement(own["estimated"].to_numpy(), own[truth].to_numpy())
            measured = {name: getattr(compared, name) for name in ("spearman", "pearson", "slope")}
            rows.append(network | {"truth": truth} | measured | done)
    return pd.DataFrame(rows)
