"""Figure 2 of Koh & Liang, left and middle: leave-one-out of softmax regression, predicted and retrained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from torch import Tensor

from bayes_influence.curvature.operators.last_layer import LastLayerOperator
from bayes_influence.curvature.solvers.conjugate_gradients import ConjugateGradients
from bayes_influence.curvature.solvers.lissa import LiSSA
from bayes_influence.curvature.spectrum.extremes import extreme_eigenvalues
from bayes_influence.data.dataset import Dataset
from bayes_influence.evaluation.agreement import agreement
from bayes_influence.experiments.papers.means import mean_table, with_interval
from bayes_influence.experiments.papers.regression import fitted_regression, wrong_example
from bayes_influence.experiments.papers.scaled import NO_MINIMUM, Measured, ScaledCell, scaled_study
from bayes_influence.experiments.papers.small_images import RemovalScale, RemovalStudy
from bayes_influence.experiments.papers.study import Reproduced
from bayes_influence.experiments.store.cells import CellResult
from bayes_influence.experiments.store.drawings import Drawing
from bayes_influence.experiments.store.figures import draw_against_truth, figure_style, series_style
from bayes_influence.influence.influence import Influence
from bayes_influence.influence.scores import InfluenceScores
from bayes_influence.objectives.objective import Objective
from bayes_influence.retraining.minimum import Minimum
from bayes_influence.retraining.refits import loss_changes

CG = "conjugate gradients"
LISSA = "LiSSA"
SOLVERS = (CG, LISSA)

STATISTICS = ("pearson", "spearman", "slope", "seconds")

MINIBATCH = 200
"""Examples of a product of LiSSA."""

HEADROOM = 1.5
"""LiSSA's scale over lambda_max of all data, which the eigenvalues of a minibatch exceed."""

HESSIAN_NUMBERS = 50_000_000
"""Of the Hessians of refits that are made at once; some copies are held of each."""

TEST_IMAGES = 1000
"""Of which the one that is explained is taken."""


@dataclass(frozen=True, kw_only=True)
class LooScale(RemovalScale):
    """As `RemovalScale`.

    Attributes:
        lissa_repeats: Runs of LiSSA that are averaged.
    """

    lissa_repeats: int


@dataclass(frozen=True)
class LooLogistic(RemovalStudy):
    """Softmax regression on MNIST, and the images that matter most to a prediction that it gets wrong.

    Attributes:
        decay: lambda of the weight decay (lambda/2)|theta|^2; the paper's .01.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    decay: float = 0.01

    NAME: ClassVar[str] = "loo-logistic"
    FULL_MINUTES: ClassVar[float] = 20
    SCALES: ClassVar[Mapping[str, Any]] = {
        "quick": LooScale(repeats=1, side=7, train=500, removals=40, lissa_repeats=4),
        "full": LooScale(repeats=3, side=14, train=10_000, removals=500, lissa_repeats=10),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(train=50)
        self.check_positive(decay=NO_MINIMUM)


def scored(objective: Objective, train: Dataset, test: Dataset, solver: str, repeats: int) -> InfluenceScores:
    """Undamped influence on the loss of one test image.

    Args:
        objective: At its minimum.
        train: Training images.
        test: The test image.
        solver: A member of `SOLVERS`. LiSSA takes minibatches, as the paper's.
        repeats: Runs of LiSSA.
    """
    if solver == CG:
        return Influence(objective, train, damping=0.0, solver=ConjugateGradients()).on_loss(test)
    largest = extreme_eigenvalues(LastLayerOperator(objective, train), dense_size=0).largest
    lissa = LiSSA(
        minibatch=min(MINIBATCH, len(train)), repeats=repeats, scale=HEADROOM * largest, tolerance=0.1, seed=0
    )
    return Influence(objective, train, damping=0.0, solver=lissa).on_loss(test)


def retrained(objective: Objective, train: Dataset, test: Dataset, ids: Int[Tensor, " k"]) -> Float[Tensor, " k"]:
    """The change of the test loss at the minimum without each image, some at a time.

    Raises:
        RuntimeError: If a refit did not reach its minimum.
    """
    parts = []
    at_once = max(1, HESSIAN_NUMBERS // objective.layout.total**2)
    for some in ids.split(at_once):
        refits = Minimum().refit(objective, train, some)
        if not refits.converged.all():
            raise RuntimeError(f"{int((~refits.converged).sum())} refits did not reach their minimum; raise the decay")
        parts.append(loss_changes(refits, test)[0, :, 0])
    return torch.cat(parts)


def measure_loo(cell: ScaledCell) -> CellResult:
    """Predicts by both solvers and retrains without the images that matter most by conjugate gradients.

    Returns:
        Tables `effects`, a row per image and solver, and `solves`, a row per solver.
    """
    size = cell.study.size
    split = cell.study.images(cell.seed, train=size.train, test=TEST_IMAGES)
    objective = fitted_regression(split.train, cell.study.decay)
    test = wrong_example(objective, split.test)
    predicted, solves = {}, []
    for solver in SOLVERS:
        start = perf_counter()
        scores = scored(objective, split.train, test, solver, size.lissa_repeats)
        predicted[solver] = scores.removal[0]
        residual = float("nan") if scores.residual_norms is None else float(scores.residual_norms[0])
        solves.append({"seed": cell.seed, "solver": solver, "seconds": perf_counter() - start, "residual": residual})
    largest = predicted[CG].abs().argsort(descending=True)[: size.removals]
    true = retrained(objective, split.train, test, split.train.ids[largest]).tolist()
    keys = {"seed": cell.seed, "test_example": int(test.ids[0])}
    rows = [
        keys | {"solver": solver, "example": int(split.train.ids[row]), "estimated": float(values[row]), "true": effect}
        for solver, values in predicted.items()
        for row, effect in zip(largest.tolist(), true, strict=True)
    ]
    return CellResult(tables={"effects": pd.DataFrame(rows), "solves": pd.DataFrame(solves)})


def report_loo(measured: Measured) -> Reproduced:
    """Draws estimates against retraining; writes the effects, their agreement by seed and its means."""
    effects, solves = measured.table("effects"), measured.table("solves")
    rows = []
    for (solver, seed), points in effects.groupby(["solver", "seed"], sort=False):
        compared = agreement(points["estimated"].to_numpy(), points["true"].to_numpy())
        rows.append({"solver": solver, "seed": seed} | {name: getattr(compared, name) for name in STATISTICS[:3]})
    by_seed = measured.written("agreement", pd.DataFrame(rows).merge(solves, on=["solver", "seed"]))
    summary = measured.written("summary", mean_table(by_seed, ["solver"], STATISTICS))
    removed = int(effects.groupby(["solver", "seed"]).size().max())
    findings = [
        f"{row['solver']}: Pearson {with_interval(row, 'pearson', 5)}, slope {with_interval(row, 'slope')}, "
        f"{row['seconds']:.2g} s, {removed} images removed, {row['repeats']} seeds."
        for _, row in summary.iterrows()
    ]
    return measured.published(Drawing(loo_figure, (effects,)), findings, summary[["solver", *STATISTICS]])


def loo_figure(effects: pd.DataFrame) -> Figure:
    """The paper's figure 2, left and middle: the predicted change of the test loss against the true one."""
    with figure_style(9):
        figure = Figure(figsize=(8, 4), layout="constrained")
        panels = figure.subplots(1, len(SOLVERS), sharey=True)
        for axes, solver in zip(panels, SOLVERS, strict=True):
            points = effects[effects["solver"] == solver]
            for number, (seed, own) in enumerate(points.groupby("seed", sort=False)):
                style = series_style(number) | {"linestyle": "none", "markersize": 3, "markerfacecolor": "none"}
                axes.plot(own["true"], own["estimated"], label=f"seed {seed}", **style)
            draw_against_truth(axes, points[["true", "estimated"]].to_numpy(), solver)
            axes.set_xlabel("true change of the test loss")
        panels[0].set_ylabel("predicted change of the test loss")
        panels[0].legend(frameon=False)
        return figure


STUDIES = (
    scaled_study(
        LooLogistic(),
        "Koh & Liang (2017), figure 2: leave-one-out of softmax regression on MNIST, by CG and by LiSSA.",
        measure_loo,
        report_loo,
    ),
)
