"""Groups on the network of Basu et al.: two hidden layers of sigmoids, every stage between estimate and retraining."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from bayes_influence.curvature.errors import IndefiniteCurvatureError
from bayes_influence.curvature.operators.hessian import HessianOperator
from bayes_influence.data.dataset import Dataset, Split
from bayes_influence.evaluation.agreement import agreement
from bayes_influence.experiments.papers.groups.logistic import draw_group
from bayes_influence.experiments.papers.groups.network_figure import network_figure
from bayes_influence.experiments.papers.groups.orders import EQUATION_17, ESTIMATORS, FIRST, predicted_changes
from bayes_influence.experiments.papers.groups.settings import KINDS, DigitScale, GroupStudy
from bayes_influence.experiments.papers.means import mean_table, with_interval
from bayes_influence.experiments.papers.regression import wrong_example
from bayes_influence.experiments.papers.scaled import HELD_BY_NOTHING, Measured, ScaledCell, scaled_study
from bayes_influence.experiments.papers.small_images import SmallImageStudy
from bayes_influence.experiments.papers.study import Reproduced
from bayes_influence.experiments.store.cells import CellResult
from bayes_influence.experiments.store.drawings import Drawing
from bayes_influence.influence.influence import Influence
from bayes_influence.models.mlp import MLP
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.reweighting import Convention, Removals
from bayes_influence.retraining.from_scratch import FromScratch
from bayes_influence.retraining.linear_response import LinearResponse
from bayes_influence.retraining.minimum import Minimum
from bayes_influence.retraining.protocol import RetrainingProtocol
from bayes_influence.retraining.proximal import Proximal, ProximalBregman
from bayes_influence.retraining.refits import control_drift, loss_changes
from bayes_influence.retraining.warm import Warm
from bayes_influence.training.fits import Fits, fit_schemes
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.schemes import SCHEMES

CONVENTION: Convention = "renormalised"
"""The paper's."""

TOLERANCE = 1e-7
"""Gradient norm of minima in all parameters."""

KEYS = ("condition", "truth", "kind", "damping", "estimator")
SIZE_KEYS = ("condition", "truth", "fraction", "damping", "estimator")
STATISTICS = ("pearson", "slope", "predicted")

GAP = " - "
"""Between the names of two neighbouring stages."""

FEWEST = 3
"""Groups with an estimate, of which there can be a correlation."""

SAID = ("cold", "minimum", "proximal", "PBRF")
"""Stages that findings speak of."""


@dataclass(frozen=True)
class Condition:
    """What a network is like; each differs from the one before in one thing, or from the second.

    Attributes:
        activation: Of the hidden layers.
        polished: Whether training ends at a minimum.
        decays: Times the study's weight decay.
    """

    activation: str = "sigmoid"
    polished: bool = True
    decays: float = 1.0


CONDITIONS = {
    "as-trained": Condition(polished=False),
    "polished": Condition(),
    "tanh": Condition(activation="tanh"),
    "more-decay": Condition(decays=3.0),
}


@dataclass(frozen=True, kw_only=True)
class NetworkScale(DigitScale):
    """As `DigitScale`.

    Attributes:
        width: Of both hidden layers.
        epochs: Of a training.
    """

    width: int = 5
    epochs: int = 1000


@dataclass(frozen=True)
class NetworkGroups(GroupStudy, SmallImageStudy):
    """MNIST, ten classes, a network with two hidden layers; see `GroupStudy`.

    Attributes:
        width: Of both hidden layers; the scale's when not given.
        epochs: Of a training; the scale's when not given.
        damping: delta of the estimates, in the identity's metric; the paper's .01.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    decay: float = 0.001
    width: int | None = None
    epochs: int | None = None
    damping: float = 0.01

    SCALES: ClassVar[Mapping[str, Any]] = {
        "quick": NetworkScale(repeats=1, side=2, groups=3, train=100, fractions=(0.1, 0.4), width=3, epochs=200),
        "full": NetworkScale(repeats=3, side=4, groups=3, train=200, fractions=(0.05, 0.1, 0.3, 0.6)),
    }
    NAME: ClassVar[str] = "group-network"
    FULL_MINUTES: ClassVar[float] = 13
    PARTS: ClassVar[tuple[str, ...]] = tuple(CONDITIONS)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(width=1, epochs=1)
        self.check_positive(damping=HELD_BY_NOTHING)

    def split(self, seed: int) -> Split:
        """Small images, with 1 000 test images."""
        return self.images(seed, train=self.size.train, test=1000)


def protocols(study: NetworkGroups, make: Any, fits: Fits) -> dict[str, RetrainingProtocol]:
    """From retraining as it was trained to the linear answer; neighbours differ in one thing (Bae et al. 2022)."""
    schedule = Schedule(study.size.epochs, 0.01)
    return {
        "cold": FromScratch(fits.scheme, make, schedule),
        "warm": Warm(schedule),
        "minimum": Minimum(TOLERANCE),
        "proximal": Proximal(study.damping, TOLERANCE),
        "PBRF": ProximalBregman(study.damping, TOLERANCE),
        "linear": LinearResponse(study.damping),
    }


def fitted_network(study: NetworkGroups, condition: Condition, train: Dataset, seed: int) -> tuple[Fits, Any]:
    """The network of a condition, and what builds it."""
    make = partial(MLP, train.inputs.shape[1], train.n_classes, study.size.width, 2, condition.activation)
    scheme = SCHEMES["weight-decay"].with_options(weight_decay=study.decay * condition.decays)
    schedule, tolerance = Schedule(study.size.epochs, 0.01), TOLERANCE if condition.polished else None
    (fits,) = fit_schemes([scheme], make, train, [seed], schedule, parameters="all", tolerance=tolerance, fewest=1)
    return fits, make


def measure_network(cell: ScaledCell) -> CellResult:
    """Predicts the effect of every group, and measures it at every stage between the estimate and retraining.

    Returns:
        Tables `estimates`, a row per group, damping and estimator; `truths`, one per group and stage; `fits`, one.
    """
    study, size, condition = cell.study, cell.study.size, CONDITIONS[cell.part]
    split: Split = study.split(cell.seed)
    train = split.train
    fits, make = fitted_network(study, condition, train, cell.seed)
    objective = fits.at(0)
    test = wrong_example(objective, split.test)
    drawn = groups_of(train, size.fractions, size.groups, cell.seed)
    keys = {"condition": cell.part, "seed": cell.seed}
    estimates: list[dict[str, Any]] = []
    for damping in (study.damping, 0.0) if condition.polished else (study.damping,):
        every = estimated_changes(objective, train, test, [ids for _, _, ids in drawn], damping)
        for number, ((kind, fraction, _), found) in enumerate(zip(drawn, every, strict=True)):
            own = keys | {"group": number, "kind": kind, "fraction": fraction, "damping": damping}
            estimates += [own | {"estimator": name, "estimated": value} for name, value in found.items()]
    removals = Removals.of_groups([ids for _, _, ids in drawn], seeds=1, convention=CONVENTION)
    truths: list[dict[str, Any]] = []
    for truth, protocol in protocols(study, make, fits).items():
        refits = protocol.refit(fits, train, removals)
        changes, drift = loss_changes(refits, test)[0, :, 0].tolist(), control_drift(refits, test, warn=False)
        truths += [
            keys
            | {"group": number, "truth": truth, "true": change, "drift": float(drift.drift[0, 0])}
            | {"gradient_norm": float(refits.gradient_norms[0, 1 + number])}
            for number, change in enumerate(changes)
        ]
    smallest = torch.linalg.eigvalsh(HessianOperator(objective, train).dense())[0]
    fit = keys | {"gradient_norm": float(fits.gradient_norms[0]), "smallest_eigenvalue": float(smallest)}
    fit |= {f"{name}_accuracy": _accuracy(objective, part) for name, part in (("train", train), ("test", split.test))}
    frames = {"estimates": estimates, "truths": truths, "fits": [fit]}
    return CellResult(tables={name: pd.DataFrame(rows) for name, rows in frames.items()})


def estimated_changes(
    objective: Objective, train: Dataset, test: Dataset, groups: list[Tensor], damping: float
) -> list[dict[str, float]]:
    """What every estimator predicts for each group, NaN of all where the damped Hessian of the fit is indefinite."""
    try:
        influence = Influence(objective, train, damping=damping)
    except IndefiniteCurvatureError:
        return [dict.fromkeys(ESTIMATORS, float("nan")) for _ in groups]
    return [predicted_changes(influence, ids, CONVENTION, test)[0] for ids in groups]


def groups_of(
    train: Dataset, fractions: tuple[float, ...], count: int, seed: int
) -> list[tuple[str, float, Int[Tensor, " m"]]]:
    """Groups of every kind and size, some of each: kind, share of the training examples, ids."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (kind, fraction, draw_group(train, round(fraction * len(train)), kind, index % train.n_classes, generator))
        for kind in KINDS
        for fraction in fractions
        for index in range(count)
    ]


def _accuracy(objective: Objective, data: Dataset) -> float:
    with torch.no_grad():
        return float((objective.outputs(objective.params, data.inputs).argmax(dim=1) == data.targets).double().mean())


def report_network(measured: Measured) -> Reproduced:
    """Draws estimates against the stages, writes the cells' tables, their agreement and its means over seeds."""
    estimates, truths, fits = (measured.table(name) for name in ("estimates", "truths", "fits"))
    effects = measured.written("effects", estimates.merge(truths, on=["condition", "seed", "group"]))
    by_seed = measured.written("agreement", agreement_by_stage(effects, KEYS))
    sizes = measured.written("sizes", mean_table(agreement_by_stage(effects, SIZE_KEYS), SIZE_KEYS, STATISTICS))
    summary = measured.written("summary", mean_table(by_seed, KEYS, STATISTICS))
    distances = stage_gaps(truths)
    between = [str(name) for name in distances.columns if GAP in str(name)]
    gaps = measured.written("gaps", mean_table(distances, ["condition"], between))
    shown = summary[(summary["estimator"] == EQUATION_17) & (summary["damping"] > 0)]
    findings = network_findings(summary, gaps, fits, truths, measured.study.damping)
    findings += size_findings(sizes, measured.study.damping)
    return measured.published(Drawing(network_figure, (effects, summary)), findings, shown[[*KEYS, *STATISTICS]])


def agreement_by_stage(effects: pd.DataFrame, by: tuple[str, ...]) -> pd.DataFrame:
    """One row per value of some columns and seed, over the groups that have an estimate.

    `predicted` is their share: without the others the curvature is indefinite. Below three there is no agreement.
    """
    rows = []
    for keys, points in effects.groupby([*by, "seed"], sort=False):
        own = points.dropna(subset=["estimated"])
        row = dict(zip((*by, "seed"), keys, strict=True)) | {"predicted": len(own) / len(points)}
        enough = len(own) >= FEWEST
        found = agreement(own["estimated"].to_numpy(), own["true"].to_numpy()) if enough else None
        rows.append(row | {name: getattr(found, name, float("nan")) for name in STATISTICS[:2]})
    return pd.DataFrame(rows)


def stage_gaps(truths: pd.DataFrame) -> pd.DataFrame:
    """Per condition, seed and pair of neighbouring stages: mean distance of effects over the mean size of cold ones."""
    table = truths.pivot_table(index=["condition", "seed", "group"], columns="truth", values="true", sort=False)
    keys = ["condition", "seed"]
    sizes = table["cold"].abs().groupby(keys, sort=False).mean()
    gaps = {
        f"{one}{GAP}{other}": (table[one] - table[other]).abs().groupby(keys, sort=False).mean() / sizes
        for one, other in pairwise(table.columns)
    }
    return pd.DataFrame(gaps).reset_index()


def network_findings(
    summary: pd.DataFrame, gaps: pd.DataFrame, fits: pd.DataFrame, truths: pd.DataFrame, damping: float
) -> list[str]:
    """Per condition: the fit, the gaps, and how first and second order agree with retraining and with the PBRF."""
    sentences = []
    for condition, fit in fits.groupby("condition", sort=False):
        own = gaps[gaps["condition"] == condition].iloc[0]
        between = [name for name in own.index if GAP in name and not name.endswith(("_low", "_high"))]
        ends = truths[(truths["condition"] == condition) & (truths["truth"] == "minimum")]["gradient_norm"]
        sentences.append(
            f"{condition}: accuracy {fit['train_accuracy'].mean():.2f} in training and "
            f"{fit['test_accuracy'].mean():.2f} in test, gradient {fit['gradient_norm'].max():.1g}, smallest Hessian "
            f"eigenvalue {fit['smallest_eigenvalue'].min():.1g}; {(ends <= TOLERANCE).mean():.0%} of the refits to a "
            "minimum reach it; mean distance of effects between stages, over the mean size of cold ones: "
            + ", ".join(f"{name} {with_interval(own, name, 2)}" for name in between)
            + "."
        )
        for kind in KINDS:
            said = [
                f"{truth}: "
                + ", ".join(
                    f"{name} {with_interval(row, 'pearson', 2)}"
                    for name, row in _rows(summary, condition, kind, damping, truth)
                )
                for truth in SAID
            ]
            sentences.append(f"{condition}, {kind} groups, damping {damping:g}, Pearson with " + "; ".join(said) + ".")
    return sentences


def size_findings(sizes: pd.DataFrame, damping: float) -> list[str]:
    """Per condition: how the damped first order agrees with four stages by the size of groups, of both kinds."""
    sentences = []
    damped = sizes[(sizes["damping"] == damping) & (sizes["estimator"] == FIRST)]
    for condition, own in damped.groupby("condition", sort=False):
        table = own.pivot_table(index="truth", columns="fraction", values="pearson", sort=False).loc[list(SAID)]
        said = [
            f"{truth} " + ", ".join(f"{value:.2f}" for value in values)
            for truth, values in zip(table.index, table.to_numpy(), strict=True)
        ]
        shares = ", ".join(f"{float(str(fraction)):.0%}" for fraction in table.columns)
        sentences.append(f"{condition}, both kinds, first order, Pearson by size ({shares}): {'; '.join(said)}.")
    return sentences


def _rows(summary: pd.DataFrame, condition: Any, kind: str, damping: float, truth: str) -> list[tuple[str, pd.Series]]:
    wanted = {"condition": condition, "kind": kind, "damping": damping, "truth": truth}
    of_truth = summary[(summary[list(wanted)] == pd.Series(wanted)).all(axis=1)]
    return [(row["estimator"], row) for _, row in of_truth.iterrows() if row["estimator"] in (FIRST, EQUATION_17)]


STUDIES = (
    scaled_study(
        NetworkGroups(),
        "Basu et al. (2020), section 7.3.2: groups on a network of two hidden layers, and what is to blame.",
        measure_network,
        report_network,
    ),
)
