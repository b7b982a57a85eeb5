"""Figure 2 of Koh & Liang, right: leave-one-out of a whole tanh convolutional network that has not converged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import pandas as pd
import torch
from matplotlib.figure import Figure

from bayes_influence.curvature.damping import IdentityDamping
from bayes_influence.curvature.operators.hessian import HessianOperator
from bayes_influence.curvature.solvers.conjugate_gradients import ConjugateGradients
from bayes_influence.curvature.spectrum.extremes import extreme_eigenvalues
from bayes_influence.data.dataset import Dataset
from bayes_influence.evaluation.agreement import agreement
from bayes_influence.evaluation.ceiling import retraining_ceiling
from bayes_influence.experiments.papers.means import mean_table, with_interval
from bayes_influence.experiments.papers.regression import accuracy, wrong_example
from bayes_influence.experiments.papers.scaled import HELD_BY_NOTHING, NO_MINIMUM, Measured, ScaledCell, scaled_study
from bayes_influence.experiments.papers.small_images import RemovalScale, RemovalStudy
from bayes_influence.experiments.papers.study import Reproduced
from bayes_influence.experiments.papers.understanding.convolutions import (
    AVERAGED,
    check_side,
    continued,
    refitted,
    tanh_convolutions,
)
from bayes_influence.experiments.papers.understanding.loo_logistic import TEST_IMAGES
from bayes_influence.experiments.store.cells import CellResult
from bayes_influence.experiments.store.drawings import Drawing
from bayes_influence.experiments.store.figures import draw_against_truth, figure_style, series_style
from bayes_influence.influence.influence import Influence
from bayes_influence.objectives.derivatives import gradient
from bayes_influence.objectives.objective import Objective
from bayes_influence.retraining.minimum import Minimum
from bayes_influence.retraining.proximal import Proximal, ProximalBregman
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.minimum import minimum_of
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.schemes import SCHEMES, Scheme

BNN = "bnn"
NETWORKS = ("weight-decay", "weight-decay+swa", BNN)
"""Schemes: the paper's network, the average of its last iterates, and its Bayesian twin."""

MOMENTS = {"method": "first-order", "structure": "diagonal"}
"""Of the twin, as the documented runs had them."""

WARM, PROXIMAL, PBRF, MINIMUM = "training goes on", "proximal", "PBRF", "minimum"
TRUTHS = (WARM, PROXIMAL, PBRF, MINIMUM)

STATISTICS = ("pearson", "spearman", "slope")

TOLERANCE = 1e-7
"""Gradient norm of a whole network's minimum, and of refits."""

HEADROOM = 1.5
"""Damping over the size of the smallest eigenvalue, where the paper's damping does not outweigh it."""


@dataclass(frozen=True, kw_only=True)
class CnnScale(RemovalScale):
    """As `RemovalScale`.

    Attributes:
        width: Channels of the first convolution; the second has twice as many.
        epochs: Steps of the training, on all images.
        refit_epochs: Passes of the training that goes on without an image.
        orders: Times that it goes on, in minibatches of another order each.
    """

    width: int
    epochs: int
    refit_epochs: int
    orders: int


@dataclass(frozen=True)
class LooCnn(RemovalStudy):
    """A tanh network of two convolutions and a linear layer, all of its parameters, and the images that matter most.

    Attributes:
        width: Channels of the first convolution, the second has twice as many; the scale's when not given.
        epochs: Steps of the training, on all images; the scale's when not given.
        refit_epochs: Passes of the training that goes on without an image; the scale's when not given.
        orders: Times that it goes on, in minibatches of another order each; the scale's when not given.
        networks: Which of "weight-decay", "weight-decay+swa", "bnn".
        decay: lambda of the weight decay (lambda/2)|theta|^2; the paper's .001.
        damping: delta of the damping delta I, the paper's .01; more where the Hessian is negative beyond it.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    width: int | None = None
    epochs: int | None = None
    refit_epochs: int | None = None
    orders: int | None = None
    networks: tuple[str, ...] = NETWORKS
    decay: float = 0.001
    damping: float = 0.01

    NAME: ClassVar[str] = "loo-cnn"
    FULL_MINUTES: ClassVar[float] = 300
    SCALES: ClassVar[Mapping[str, Any]] = {
        "quick": CnnScale(repeats=1, side=7, train=120, removals=6, width=1, epochs=200, refit_epochs=20, orders=2),
        "full": CnnScale(repeats=3, side=14, train=6_000, removals=100, width=4, epochs=300, refit_epochs=20, orders=3),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.networks or not set(self.networks) <= set(NETWORKS):
            raise ValueError(
                f"networks must be some of {', '.join(NETWORKS)}, got {', '.join(self.networks) or 'none'}"
            )
        self.check_at_least(train=50, width=1, epochs=1, refit_epochs=2, orders=2)
        self.check_positive(decay=NO_MINIMUM, damping=HELD_BY_NOTHING)
        check_side(self.size.side)

    @property
    def parts(self) -> tuple[str, ...]:
        """A cell for each network."""
        return self.networks

    def configuration(self) -> dict[str, Any]:
        """As `ScaledStudy.configuration`; networks can be added, too."""
        return {name: value for name, value in super().configuration().items() if name != "networks"}

    def scheme(self, name: str) -> Scheme:
        """How a network is regularised."""
        return SCHEMES[name].with_options(**MOMENTS if name == BNN else {"weight_decay": self.decay})


def measure_cnn(cell: ScaledCell) -> CellResult:
    """Predicts where the network was trained to, and at its minimum; retrains without the images that matter most.

    Returns:
        Tables `effects`, a row per image and truth, `repeats`, a row per image and order, and `networks`, one row.
    """
    study, size = cell.study, cell.study.size
    split = study.images(cell.seed, train=size.train, test=TEST_IMAGES, flat=False)
    scheme = study.scheme(cell.part)
    make = partial(tanh_convolutions, size.side, size.width, split.train.n_classes)
    schedule = Schedule(size.epochs, 0.01)
    fits = fit_schemes([scheme], make, split.train, [cell.seed], schedule, parameters="all", tolerance=None)[0]
    trained, train = fits.at(0), split.train
    test = wrong_example(trained, split.test)
    smallest = smallest_eigenvalue(trained, train)
    damping = IdentityDamping(max(study.damping, -HEADROOM * smallest))
    damped = partial(Influence, trained, train, damping=damping, solver=ConjugateGradients())
    estimates = dict.fromkeys((WARM, PROXIMAL), damped().on_loss(test).removal[0])
    estimates[PBRF] = damped(curvature="ggn").on_loss(test).removal[0]
    largest = estimates[WARM].abs().argsort(descending=True)[: size.removals]
    ids = train.ids[largest]
    averaging = AVERAGED if scheme.averaging else None
    orders = [
        continued(trained, train, test, ids, epochs=size.refit_epochs, order=order, averaging=averaging)
        for order in range(size.orders)
    ]
    repeats = torch.stack([changes for changes, _ in orders])
    lowest = minimum_of(trained, train, tolerance=TOLERANCE)
    estimates[MINIMUM] = Influence(lowest, train, damping=0.0).on_loss(test).removal[0]
    truths = {
        WARM: repeats.mean(dim=0),
        PROXIMAL: refitted(Proximal(damping, TOLERANCE), trained, train, test, ids),
        PBRF: refitted(ProximalBregman(damping, TOLERANCE), trained, train, test, ids),
        MINIMUM: refitted(Minimum(TOLERANCE), lowest, train, test, ids),
    }
    keys = {"network": cell.part, "seed": cell.seed}
    effects = [
        keys | {"truth": truth, "example": example, "estimated": estimate, "true": effect}
        for truth in TRUTHS
        for example, estimate, effect in zip(
            ids.tolist(), estimates[truth][largest].tolist(), truths[truth].tolist(), strict=True
        )
    ]
    again = [
        keys | {"order": order, "example": example, "true": effect}
        for order, changes in enumerate(repeats)
        for example, effect in zip(ids.tolist(), changes.tolist(), strict=True)
    ]
    network = {"parameters": trained.layout.total, "test_example": int(test.ids[0]), "damping": damping.delta}
    network |= {
        "accuracy": accuracy(trained, split.test),
        "drift": sum(abs(drift) for _, drift in orders) / len(orders),
    }
    network |= {"smallest_trained": smallest, "smallest_minimum": smallest_eigenvalue(lowest, train)}
    for name, objective in (("trained", trained), ("minimum", lowest)):
        network[f"gradient_{name}"] = float(gradient(objective, train.batch()).norm())
    return CellResult(
        tables={
            "effects": pd.DataFrame(effects),
            "repeats": pd.DataFrame(again),
            "networks": pd.DataFrame([keys | network]),
        }
    )


def smallest_eigenvalue(objective: Objective, train: Dataset) -> float:
    """Lambda_min of the Hessian of J, exact up to 2000 parameters.

    Lanczos stops within a thousandth of lambda_max, which of these networks is as much as lambda_min itself.
    """
    return extreme_eigenvalues(HessianOperator(objective, train)).smallest


def report_cnn(measured: Measured) -> Reproduced:
    """Draws estimates against every truth; writes the effects, their agreement by seed with its ceiling, and means."""
    effects, repeats, networks = (measured.table(name) for name in ("effects", "repeats", "networks"))
    rows = []
    for (network, truth, seed), points in effects.groupby(["network", "truth", "seed"], sort=False):
        there = points.dropna()
        row = {"network": network, "truth": truth, "seed": seed, "refits": len(there)}
        row["ceiling"] = 1.0
        if truth == WARM:
            own = repeats[(repeats["network"] == network) & (repeats["seed"] == seed)]
            own = own.pivot_table(index="order", columns="example", values="true")
            row["ceiling"] = retraining_ceiling(own).average
        compared = agreement(there["estimated"].to_numpy(), there["true"].to_numpy())
        rows.append(row | {name: getattr(compared, name) for name in STATISTICS})
    by_seed = measured.written("agreement", pd.DataFrame(rows))
    columns = (*STATISTICS, "ceiling", "refits")
    summary = measured.written("summary", mean_table(by_seed, ["network", "truth"], columns))
    findings = [
        f"{row['network']}, {row['truth']}: Pearson {with_interval(row, 'pearson')}, ceiling {row['ceiling']:.3f}, "
        f"slope {with_interval(row, 'slope')}, {row['refits']:.0f} images removed, {row['repeats']} seeds."
        for _, row in summary.iterrows()
    ]
    for network in networks["network"].unique():
        own = networks[networks["network"] == network]
        ends = (
            f"smallest eigenvalue {own[f'smallest_{name}'].min():.2g}, gradient {own[f'gradient_{name}'].max():.2g}"
            for name in ("trained", "minimum")
        )
        findings.append(
            f"{network}: {own['parameters'].iloc[0]} parameters, accuracy {own['accuracy'].mean():.3f}; where training "
            f"ended {next(ends)}, damping {own['damping'].max():.2g}; at the minimum {next(ends)}. The control moves "
            f"the test loss by {own['drift'].mean():.2g} where training goes on."
        )
    return measured.published(Drawing(cnn_figure, (effects,)), findings, summary[["network", "truth", *columns]])


def cnn_figure(effects: pd.DataFrame) -> Figure:
    """The paper's figure 2, right, for every network and truth: predicted against true change of the test loss."""
    networks = list(dict.fromkeys(effects["network"]))
    with figure_style(8):
        figure = Figure(figsize=(2.6 * len(TRUTHS), 2.7 * len(networks)), layout="constrained")
        panels = figure.subplots(len(networks), len(TRUTHS), squeeze=False)
        for network, row in zip(networks, panels, strict=True):
            for truth, axes in zip(TRUTHS, row, strict=True):
                points = effects[(effects["network"] == network) & (effects["truth"] == truth)].dropna()
                for number, (seed, own) in enumerate(points.groupby("seed", sort=False)):
                    style = series_style(number) | {"linestyle": "none", "markersize": 3, "markerfacecolor": "none"}
                    axes.plot(own["true"], own["estimated"], label=f"seed {seed}", **style)
                draw_against_truth(axes, points[["true", "estimated"]].to_numpy(), f"{network}: {truth}")
            row[0].set_ylabel("predicted change of the test loss")
        for axes in panels[-1]:
            axes.set_xlabel("true change of the test loss")
        panels[0, 0].legend(frameon=False)
        return figure


STUDIES = (
    scaled_study(
        LooCnn(),
        "Koh & Liang (2017), figure 2: leave-one-out of a whole tanh convolutional network, its average and its "
        "Bayesian twin.",
        measure_cnn,
        report_cnn,
    ),
)
