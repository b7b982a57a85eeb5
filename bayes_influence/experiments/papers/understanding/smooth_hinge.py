"""Figure 3 of Koh & Liang: influence for a support vector machine, whose loss is not differentiable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from sklearn.svm import LinearSVC
from torch import Tensor, nn

from bayes_influence.data.dataset import Dataset
from bayes_influence.evaluation.agreement import agreement
from bayes_influence.experiments.papers.means import mean_table, with_interval
from bayes_influence.experiments.papers.regression import accuracy, wrong_example
from bayes_influence.experiments.papers.scaled import Measured, ScaledCell, scaled_study
from bayes_influence.experiments.papers.small_images import SmallImageScale, SmallImageStudy, of_pair
from bayes_influence.experiments.papers.study import Reproduced
from bayes_influence.experiments.papers.understanding.loo_logistic import retrained
from bayes_influence.experiments.store.cells import CellResult
from bayes_influence.experiments.store.drawings import Drawing
from bayes_influence.experiments.store.figures import draw_against_truth, figure_style, series_style
from bayes_influence.influence.influence import Influence
from bayes_influence.objectives.hinge import SmoothHinge
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.training.minimum import minimum_of

PAIR = (1, 7)
"""Classes that are told apart, as in the paper."""

WARMEST = 1.0
"""Temperature at which the descent to colder ones begins."""

GAP = 1e-10
"""Of liblinear's stopping rule, in units of a margin."""

PASSES = 1_000_000
"""At most, of liblinear."""

STATISTICS = ("pearson", "spearman", "slope")

TRUTHS = {"hinge": "hinge", "smooth": "smooth hinge"}
"""Columns of the effects, and what was retrained there. At t = 0 they are the same."""

HINGE = ("hinge", TRUTHS["hinge"])


@dataclass(frozen=True, kw_only=True)
class HingeScale(SmallImageScale):
    """As `SmallImageScale`.

    Attributes:
        images_of_all: Training images of all ten classes, of which a fifth are of the pair.
        removals: Images removed one at a time.
    """

    images_of_all: int
    removals: int


@dataclass(frozen=True)
class SmoothHingeStudy(SmallImageStudy):
    """A linear support vector machine without a constant term, ones against sevens, and an image that it gets wrong.

    Attributes:
        images_of_all: Training images of all ten classes, of which those of the pair are taken; the scale's when not
            given.
        removals: Images of largest |influence|, removed one at a time; the scale's when not given.
        temperatures: t of the smooth hinge, in rising order; 0 is the hinge.
        decay: lambda of the weight decay (lambda/2)|theta|^2; the paper's .01.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    images_of_all: int | None = None
    removals: int | None = None
    temperatures: tuple[float, ...] = (0.0, 0.001, 0.01, 0.1)
    decay: float = 0.01

    NAME: ClassVar[str] = "smooth-hinge"
    FULL_MINUTES: ClassVar[float] = 1
    SCALES: ClassVar[Mapping[str, Any]] = {
        "quick": HingeScale(repeats=1, side=7, images_of_all=1_500, removals=20),
        "full": HingeScale(repeats=3, side=14, images_of_all=30_000, removals=100),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(images_of_all=50, removals=3)
        rising = all(low < high for low, high in zip(self.temperatures, self.temperatures[1:], strict=False))
        if not rising or not any(t > 0 for t in self.temperatures) or self.temperatures[0] < 0:
            raise ValueError(
                f"temperatures must rise from 0 or more, one of them positive, got {list(self.temperatures)}"
            )
        self.check_positive(decay="or the machine is not unique")


def hinge_machine(train: Dataset, decay: float, examples: int | None = None) -> Objective:
    """The minimum of (1/n) sum_i max(0, 1 - s_i w'x_i) + (decay/2)|w|^2, by liblinear's dual coordinate descent.

    Args:
        train: Images that remain, of classes 0 and 1.
        decay: lambda.
        examples: n, where images were removed and 1/n is kept; their number when not given.
    """
    inputs, targets = train.inputs.double().numpy(), train.targets.numpy()
    cost = 1 / (decay * (examples or len(train)))
    machine = LinearSVC(C=cost, loss="hinge", dual=True, fit_intercept=False, tol=GAP, max_iter=PASSES, random_state=0)
    weight = torch.from_numpy(machine.fit(inputs, targets).coef_)
    objective = scoring_objective(train, 0.0, decay)
    return objective.at({name: weight.to(value) for name, value in objective.params.items()})


def scoring_objective(train: Dataset, temperature: float, decay: float) -> Objective:
    """One linear score and the smooth hinge, where weights are 0."""
    network = nn.Linear(train.inputs.shape[1], 1, bias=False, dtype=torch.float64)
    nn.init.zeros_(network.weight)
    return Objective(network, SmoothHinge(temperature), WeightDecay(decay))


def smooth_machines(train: Dataset, temperatures: tuple[float, ...], decay: float) -> dict[float, Objective]:
    """The minimum at every positive temperature, each reached from the next warmer one.

    Args:
        train: Images of classes 0 and 1.
        temperatures: In rising order.
        decay: lambda.
    """
    warm = minimum_of(scoring_objective(train, WARMEST, decay), train)
    found: dict[float, Objective] = {}
    for temperature in sorted((t for t in temperatures if t > 0), reverse=True):
        warm = minimum_of(scoring_objective(train, temperature, decay).at(warm.params), train)
        found[temperature] = warm
    return found


def hinge_changes(train: Dataset, test: Dataset, ids: Int[Tensor, " k"], decay: float) -> Float[Tensor, " k"]:
    """The change of the hinge loss of the test image at the hinge's minimum without each image, 1/n kept."""

    def loss(remaining: Dataset) -> Tensor:
        machine = hinge_machine(remaining, decay, len(train))
        return machine.losses(machine.params, test.batch()).detach()

    return torch.cat([loss(train.without(one)) for one in ids]) - loss(train)


def measure_hinge(cell: ScaledCell) -> CellResult:
    """Predicts at every temperature; retrains hinge and smooth hinge without the images that matter most.

    These are the same at every temperature: those of largest influence at the lowest positive one.

    Returns:
        Tables `effects`, a row per image and temperature, and `machines`, one row.

    Raises:
        ValueError: If more images are to be removed than are of the pair.
    """
    study, size = cell.study, cell.study.size
    split = study.images(cell.seed, train=size.images_of_all, test=10_000)
    train, tests = of_pair(split.train, PAIR), of_pair(split.test, PAIR)
    if size.removals > len(train):
        raise ValueError(f"only {len(train)} images are of the pair {PAIR}, got removals={size.removals}; take fewer")
    hinge = hinge_machine(train, study.decay)
    test = wrong_example(hinge, tests)
    machines = {0.0: hinge} | smooth_machines(train, study.temperatures, study.decay)
    predicted = {t: Influence(machines[t], train, damping=0.0).on_loss(test).removal[0] for t in study.temperatures}
    coldest = min(t for t in study.temperatures if t > 0)
    largest = predicted[coldest].abs().argsort(descending=True)[: size.removals]
    ids = train.ids[largest]
    of_hinge = hinge_changes(train, test, ids, study.decay)
    rows = []
    for temperature, values in predicted.items():
        smooth = retrained(machines[temperature], train, test, ids) if temperature else of_hinge
        rows += [
            {"seed": cell.seed, "temperature": temperature, "example": example, "estimated": estimate}
            | {"hinge": hinge_effect, "smooth": smooth_effect}
            for example, estimate, hinge_effect, smooth_effect in zip(
                ids.tolist(), values[largest].tolist(), of_hinge.tolist(), smooth.tolist(), strict=True
            )
        ]
    machine = {"seed": cell.seed, "train": len(train), "accuracy": accuracy(hinge, tests)}
    machine |= {"test_example": int(test.ids[0])}
    return CellResult(tables={"effects": pd.DataFrame(rows), "machines": pd.DataFrame([machine])})


def report_hinge(measured: Measured) -> Reproduced:
    """Draws estimates against both truths; writes the effects, their agreement by seed and its means."""
    effects, machines = measured.table("effects"), measured.table("machines")
    rows = []
    for (temperature, seed), points in effects.groupby(["temperature", "seed"], sort=False):
        for column, truth in TRUTHS.items() if temperature else [HINGE]:
            compared = agreement(points["estimated"].to_numpy(), points[column].to_numpy())
            keys = {"temperature": temperature, "retrained": truth, "seed": seed}
            rows.append(keys | {name: getattr(compared, name) for name in STATISTICS})
    by_seed = measured.written("agreement", pd.DataFrame(rows))
    summary = measured.written("summary", mean_table(by_seed, ["temperature", "retrained"], STATISTICS))
    findings = [
        f"t = {row['temperature']:g}, {row['retrained']} retrained: Pearson {with_interval(row, 'pearson')}, slope "
        f"{with_interval(row, 'slope')}, {row['repeats']} seeds."
        for _, row in summary.iterrows()
    ]
    removed = len(effects) // (len(machines) * effects["temperature"].nunique())
    findings.append(
        f"{machines['train'].mean():.0f} images of {PAIR[0]} and {PAIR[1]}, of which {removed} were removed one at a "
        f"time; accuracy {machines['accuracy'].mean():.4f}."
    )
    return measured.published(
        Drawing(hinge_figure, (effects,)), findings, summary[["temperature", "retrained", *STATISTICS]]
    )


def hinge_figure(effects: pd.DataFrame) -> Figure:
    """The paper's figure 3b: predicted against true change of the test loss, a column a temperature, a row a truth."""
    temperatures = list(dict.fromkeys(effects["temperature"]))
    with figure_style(8):
        figure = Figure(figsize=(2.7 * len(temperatures), 5.6), layout="constrained")
        panels = figure.subplots(len(TRUTHS), len(temperatures), squeeze=False)
        for (column, truth), row in zip(TRUTHS.items(), panels, strict=True):
            for temperature, axes in zip(temperatures, row, strict=True):
                if temperature == 0 and column != HINGE[0]:
                    axes.set_axis_off()
                    continue
                points = effects[effects["temperature"] == temperature]
                for number, (seed, own) in enumerate(points.groupby("seed", sort=False)):
                    style = series_style(number) | {"linestyle": "none", "markersize": 3, "markerfacecolor": "none"}
                    axes.plot(own[column], own["estimated"], label=f"seed {seed}", **style)
                draw_against_truth(axes, points[[column, "estimated"]].to_numpy(), f"t = {temperature:g}")
                axes.set_xlabel(f"true change, {truth}")
            row[0].set_ylabel("predicted change of the test loss")
        panels[0, 0].legend(frameon=False)
        return figure


STUDIES = (
    scaled_study(
        SmoothHingeStudy(),
        "Koh & Liang (2017), figure 3: influence for a support vector machine, by smooth hinges.",
        measure_hinge,
        report_hinge,
    ),
)
