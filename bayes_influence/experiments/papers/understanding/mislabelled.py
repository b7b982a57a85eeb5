"""Figure 6 of Koh & Liang: a tenth of the labels is wrong; which score finds them, and under which regulariser?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bayes_influence.data.dataset import Dataset, Split
from bayes_influence.data.tables import TABLES, hold_out, load_table
from bayes_influence.experiments.papers.means import mean_table, with_interval
from bayes_influence.experiments.papers.scaled import Measured, ScaledCell, scaled_study
from bayes_influence.experiments.papers.small_images import SmallImageScale, SmallImageStudy
from bayes_influence.experiments.papers.study import Reproduced
from bayes_influence.experiments.papers.understanding.label_scores import RANDOM, label_scores
from bayes_influence.experiments.papers.understanding.mislabelled_figure import mislabelled_figure
from bayes_influence.experiments.store.cells import CellResult
from bayes_influence.experiments.store.drawings import Drawing
from bayes_influence.experiments.training.settings import INITIAL_SIGMA, usual_rate
from bayes_influence.influence.measurements import Margin
from bayes_influence.models.mlp import MLP
from bayes_influence.training.fits import Fits, fit_schemes
from bayes_influence.training.minibatch_schedule import MinibatchSchedule
from bayes_influence.training.scheme import Scheme
from bayes_influence.training.schemes import DEFAULT_SCHEMES, SCHEMES

INSPECTED = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0)
"""Shares of the training examples whose labels are looked at, the most suspicious first."""

READ_AT = 0.15
"""Share at which the table is read."""

RETRAINED_AT = (0.05, 0.15, 0.3)
"""Shares after which the labels found wrong are put right and the network is trained anew."""

TEST_IMAGES, TABLE_TEST_SHARE = 2000, 0.4
"""Test examples, of which the first half is the clean set, and accuracy is measured on the second."""

IMAGES = ("mnist", "fashion-mnist")
"""Sets of one channel that are averaged down."""

BAYESIAN = {"prior": "fan-in", "initial_sigma": INITIAL_SIGMA, "method": "first-order", "structure": "diagonal"}
"""Options of Bayesian networks, as the documented runs had them."""

KEYS = ["dataset", "scheme", "score"]


@dataclass(frozen=True, kw_only=True)
class MislabelledScale(SmallImageScale):
    """As `SmallImageScale`.

    Attributes:
        train: Training images.
        members: Networks of an ensemble.
        epochs: Passes over the images; over the rows of a table ten times as many.
        datasets: What labels are flipped in.
        schemes: Regularisers.
    """

    train: int
    members: int
    epochs: int
    datasets: tuple[str, ...]
    schemes: tuple[str, ...] = DEFAULT_SCHEMES


@dataclass(frozen=True)
class Mislabelled(SmallImageStudy):
    """Flipped labels, found by every score under every regulariser, inspected and put right.

    Attributes:
        datasets: Image sets of 28 x 28 pixels and tables; the scale's when not given.
        schemes: Keys of `SCHEMES`; the scale's when not given.
        train: Training images; the scale's when not given.
        members: Networks of an ensemble; the scale's when not given.
        epochs: Passes over the images; over the rows of a table ten times as many; the scale's when not given.
        flipped: Share of the labels that are flipped, each to another class.
        retrained: The scheme whose findings are put right and by which networks are then trained anew.
        width: Hidden units of the network, a perceptron of one layer of tanh.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    datasets: tuple[str, ...] = ()
    schemes: tuple[str, ...] = ()
    train: int | None = None
    members: int | None = None
    epochs: int | None = None
    flipped: float = 0.1
    retrained: str = "weight-decay"
    width: int = 32

    NAME: ClassVar[str] = "mislabelled"
    FULL_MINUTES: ClassVar[float] = 6
    SCALES: ClassVar[Mapping[str, Any]] = {
        "quick": MislabelledScale(
            repeats=2, side=7, train=500, members=2, epochs=40, datasets=("mnist", "breast-cancer")
        ),
        "full": MislabelledScale(
            repeats=3, side=14, train=5_000, members=5, epochs=15, datasets=(*IMAGES, "breast-cancer")
        ),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(train=50, members=1, epochs=1, width=1)
        for what, names, known in (("data set", self.datasets, {*IMAGES, *TABLES}), ("scheme", self.schemes, SCHEMES)):
            unknown = [name for name in names if name not in known]
            if unknown:
                raise ValueError(f"unknown {what} {unknown[0]!r}; known: {', '.join(sorted(known))}")
        if self.retrained not in self.size.schemes:
            raise ValueError(
                f"retrained must be one of the schemes {', '.join(self.size.schemes)}, got {self.retrained!r}"
            )
        if not 0 < self.flipped < 1:
            raise ValueError(f"flipped is a share of the labels, between 0 and 1, got {self.flipped}")

    @property
    def size(self) -> MislabelledScale:
        """The scale, with what was said instead."""
        found: MislabelledScale = super().size
        scale = self.SCALES[self.scale]
        return replace(found, datasets=self.datasets or scale.datasets, schemes=self.schemes or scale.schemes)

    @property
    def parts(self) -> Sequence[str]:
        """A data set and a scheme each."""
        return [f"{dataset}.{scheme}" for dataset in self.size.datasets for scheme in self.size.schemes]

    def configuration(self) -> dict[str, Any]:
        """As `ScaledStudy.configuration`; data sets and schemes can be added, too."""
        return {name: value for name, value in super().configuration().items() if name not in ("datasets", "schemes")}

    @property
    def image_sets(self) -> tuple[str, ...]:
        """Those of its data sets that are images."""
        return tuple(name for name in self.size.datasets if name in IMAGES)

    def split(self, dataset: str, seed: int) -> Split:
        """Training and test part of a data set."""
        if dataset in IMAGES:
            return self.images(seed, train=self.size.train, test=TEST_IMAGES, name=dataset)
        return hold_out(load_table(dataset), TABLE_TEST_SHARE, seed)

    def schedule(self, dataset: str, scheme: Scheme) -> MinibatchSchedule:
        """Steps and learning rates on a data set."""
        epochs = self.size.epochs * (1 if dataset in IMAGES else 10)
        return MinibatchSchedule(epochs, 100, 2.5 * usual_rate(scheme.bayesian), decay="cosine")

    def fitted(self, dataset: str, scheme: str, train: Dataset, seeds: Sequence[int]) -> Fits:
        """Networks of a scheme, one for each seed."""
        found = SCHEMES[scheme].with_options(**SCHEMES[scheme].own(BAYESIAN))
        make = partial(MLP, train.inputs.shape[1], train.n_classes, width=self.width, activation="tanh")
        return fit_schemes([found], make, train, seeds, self.schedule(dataset, found), tolerance=1e-6)[0]


def flip_labels(train: Dataset, share: float, seed: int) -> tuple[Dataset, Bool[Tensor, " n"]]:
    """The examples with a random share of their labels changed to another class, each equally likely; which they are.

    Args:
        train: Examples of classes.
        share: Of the labels, at least one.
        seed: Of the draw.

    Raises:
        ValueError: If there is only one class.
    """
    classes = train.n_classes
    if classes < 2:
        raise ValueError(f"{train.name} has {classes} class; a wrong label needs another one")
    generator = torch.Generator().manual_seed(seed)
    flipped = torch.zeros(len(train), dtype=torch.bool)
    flipped[torch.randperm(len(train), generator=generator)[: max(1, round(share * len(train)))]] = True
    steps = torch.randint(1, classes, (len(train),), generator=generator)
    return replace(train, targets=torch.where(flipped, (train.targets + steps) % classes, train.targets)), flipped


def inspected(scores: Float[Tensor, " n"], share: float) -> Int[Tensor, " k"]:
    """Positions of the most suspicious share of the examples."""
    return scores.argsort(descending=True, stable=True)[: round(share * len(scores))]


def measure_mislabelled(cell: ScaledCell) -> CellResult:
    """Flips labels of one data set, scores them under one scheme, inspects and retrains.

    Returns:
        Tables `found` (a row per score and share inspected) and, of the scheme that is retrained, `accuracy`.
    """
    study, seed = cell.study, cell.seed
    dataset, scheme = cell.part.split(".")
    split = study.split(dataset, seed)
    half = len(split.test) // 2
    clean, test = split.test.select(range(half)), split.test.select(range(half, len(split.test)))
    train, flipped = flip_labels(split.train, study.flipped, seed)
    fits = study.fitted(dataset, scheme, train, range(study.size.members))
    scores = label_scores(fits, train, clean, seed)
    keys = {"dataset": dataset, "scheme": scheme, "seed": seed}
    found = [
        keys | {"score": name, "inspected": share, "found": float(flipped[inspected(values, share)].double().sum())}
        for name, values in scores.items()
        for share in INSPECTED
    ]
    tables = {"found": pd.DataFrame(found)}
    tables["found"]["found"] /= int(flipped.sum())
    if scheme == study.retrained:
        tables["accuracy"] = pd.DataFrame([keys | row for row in _retrained(cell, split, train, test, scores)])
    return CellResult(tables=tables)


def _retrained(
    cell: ScaledCell, split: Split, train: Dataset, test: Dataset, scores: Mapping[str, Tensor]
) -> list[dict[str, Any]]:
    """Accuracy of networks trained anew, by score and share; share 0 is of all labels as they are, "all" of right ones.

    Args:
        cell: Of which scheme and data set.
        split: With the right labels.
        train: With the labels as they are.
        test: What accuracy is measured on.
        scores: Of the training examples.
    """
    study, dataset = cell.study, cell.part.split(".")[0]

    def accuracy(targets: Tensor) -> float:
        network = study.fitted(dataset, study.retrained, replace(train, targets=targets), [0]).at(0)
        return float((Margin().at(network, test) > 0).double().mean())

    wrong = accuracy(train.targets)
    rows: list[dict[str, Any]] = [{"score": "all", "inspected": 1.0, "accuracy": accuracy(split.train.targets)}]
    for name, values in scores.items():
        rows.append({"score": name, "inspected": 0.0, "accuracy": wrong})
        for share in RETRAINED_AT:
            targets = _corrected(train, split.train, values, share)
            rows.append({"score": name, "inspected": share, "accuracy": accuracy(targets)})
    return rows


def _corrected(train: Dataset, true: Dataset, scores: Tensor, share: float) -> Tensor:
    """The labels after those inspected were put right."""
    targets, rows = train.targets.clone(), inspected(scores, share)
    targets[rows] = true.targets[rows]
    return targets


def report_mislabelled(measured: Measured) -> Reproduced:
    """Draws what is found and how accurate networks get; writes both, and their means over seeds."""
    found, accuracy = measured.table("found"), measured.table("accuracy")
    curves = measured.written("found-means", mean_table(found, [*KEYS, "inspected"], ["found"]))
    trained = measured.written("accuracy-means", mean_table(accuracy, [*KEYS, "inspected"], ["accuracy"]))
    summary = measured.written("summary", curves[curves["inspected"] == READ_AT].reset_index(drop=True))
    informed = found[(found["inspected"] == READ_AT) & (found["score"] != RANDOM)]
    over_scores = informed.groupby(["dataset", "scheme", "seed"], sort=False)["found"].mean().reset_index()
    schemes = measured.written("schemes", mean_table(over_scores, ["dataset", "scheme"], ["found"]))
    drawing = Drawing(mislabelled_figure, (curves, trained, summary, READ_AT))
    return measured.published(drawing, mislabelled_findings(summary, schemes, trained), summary[[*KEYS, "found"]])


def mislabelled_findings(summary: pd.DataFrame, schemes: pd.DataFrame, trained: pd.DataFrame) -> list[str]:
    """Per data set: the best score, what is found by scheme, and what accuracy comes to.

    Args:
        summary: Means of `found` at the share that is read, by data set, scheme and score.
        schemes: The same over all scores but chance, by data set and scheme.
        trained: Means of `accuracy`.
    """
    sentences = []
    for dataset, rows in summary.groupby("dataset", sort=False):
        best = rows.sort_values("found", ascending=False).iloc[0]
        own_schemes = schemes[schemes["dataset"] == dataset]
        said = ", ".join(f"{row['scheme']} {with_interval(row, 'found')}" for _, row in own_schemes.iterrows())
        sentences.append(
            f"{dataset}: after inspecting {READ_AT:.0%}, the most is found by {best['score']} under {best['scheme']}: "
            f"{with_interval(best, 'found')} of the flips, {best['repeats']} seeds. Mean over the scores by scheme: "
            f"{said}."
        )
        own = trained[trained["dataset"] == dataset]
        best = rows[rows["scheme"] == own["scheme"].iloc[0]].sort_values("found", ascending=False).iloc[0]
        wrong, some, right = (
            with_interval(own[(own["score"] == score) & (own["inspected"] == share)].iloc[0], "accuracy")
            for score, share in ((best["score"], 0.0), (best["score"], READ_AT), ("all", 1.0))
        )
        sentences.append(
            f"{dataset}: accuracy under {best['scheme']} {wrong} on the labels as they are, {some} once those found by "
            f"{best['score']} in {READ_AT:.0%} are put right, {right} with all labels right."
        )
    return sentences


STUDIES = (
    scaled_study(
        Mislabelled(),
        "Koh & Liang (2017), figure 6: flipped labels found by seven scores under every regulariser.",
        measure_mislabelled,
        report_mislabelled,
    ),
)
