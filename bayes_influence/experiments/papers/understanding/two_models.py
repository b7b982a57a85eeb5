"""Figure 4 of Koh & Liang: two models, one test image, and the training images that each of them relies on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.stats import spearmanr
from torch import Tensor

from bayes_influence.data.dataset import Dataset
from bayes_influence.evaluation.statistics import pearson
from bayes_influence.experiments.papers.means import mean_table, with_interval
from bayes_influence.experiments.papers.regression import accuracy
from bayes_influence.experiments.papers.scaled import Measured, ScaledCell, scaled_study
from bayes_influence.experiments.papers.small_images import RemovalScale, RemovalStudy
from bayes_influence.experiments.papers.study import Reproduced
from bayes_influence.experiments.papers.understanding.convolutions import check_side, tanh_convolutions
from bayes_influence.experiments.papers.understanding.loo_logistic import retrained
from bayes_influence.experiments.papers.understanding.paired_digits import (
    PairScale,
    PairStudy,
    on_learned_features,
)
from bayes_influence.experiments.papers.understanding.smooth_hinge import smooth_machines
from bayes_influence.experiments.papers.understanding.two_models_figure import two_models_figure
from bayes_influence.experiments.store.cells import CellResult
from bayes_influence.experiments.store.drawings import Drawing
from bayes_influence.influence.influence import Influence
from bayes_influence.objectives.objective import Objective

KERNEL, NETWORK = "RBF kernel machine", "convolutional network"
MODELS = (KERNEL, NETWORK)

TEMPERATURE = 0.001
"""Of the kernel machine's smooth hinge, the paper's."""

DECAY = {KERNEL: 0.01, NETWORK: 0.01}
"""lambda of the weight decay (lambda/2)|w|^2 of either model."""

RANK = 1e-10
"""Eigenvalues of a kernel matrix below so much of the largest are rounding."""

FIRST = 20
"""Images that are looked at: the most helpful, and the most harmful."""

SOME = 0.05
"""Of the largest |influence|: images below it are left out where influence is held against distance."""

SHARES = ("other_helpful", "same_harmful")
STATISTICS = ("spearman", *SHARES, "pearson", "accuracy")
"""Spearman of |influence| and closeness; the share of the class that one would not expect among the most helpful and
the most harmful images; agreement with refits; accuracy."""


@dataclass(frozen=True, kw_only=True)
class TwoScale(PairScale, RemovalScale):
    """As `PairScale` and `RemovalScale`; its width are channels of the network's first convolution."""


@dataclass(frozen=True)
class TwoModels(PairStudy, RemovalStudy):
    """Fours and nines told apart by a kernel machine on pixels and by the last layer of a convolutional network.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    NAME: ClassVar[str] = "two-models"
    FULL_MINUTES: ClassVar[float] = 1
    SCALES: ClassVar[Mapping[str, Any]] = {
        "quick": TwoScale(repeats=1, side=7, train=120, feature_images=600, width=4, removals=10),
        "full": TwoScale(repeats=3, side=14, train=600, feature_images=10_000, width=16, removals=50),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(train=FIRST)
        check_side(self.size.side)


def squared_distances(one: Float[Tensor, "n D"], other: Float[Tensor, "m D"]) -> Float[Tensor, "n m"]:
    """|x - z|^2 of every pair."""
    return torch.cdist(one, other).square()


@dataclass(frozen=True, eq=False)
class KernelFeatures:
    """phi(x) = L^-1/2 V' k(x), for which phi(x)'phi(z) = exp(-gamma |x - z|^2) where x or z is a training image.

    The eigenvectors V and eigenvalues L are those of the kernel matrix of the training images. A linear machine in phi
    with weight decay is the kernel machine, also where it is trained without some of the images.

    Attributes:
        centres: The training images, as vectors.
        gamma: One over the median squared distance between them.
        whitening: V L^-1/2.
    """

    centres: Float[Tensor, "n D"]
    gamma: float
    whitening: Float[Tensor, "n P"]

    @classmethod
    def of(cls, images: Float[Tensor, "n ..."]) -> KernelFeatures:
        """Those of training images."""
        centres = images.flatten(1)
        distances = squared_distances(centres, centres)
        gamma = 1 / float(distances[distances > 0].median())
        values, vectors = torch.linalg.eigh(torch.exp(-gamma * distances))
        kept = values > RANK * values[-1]
        return cls(centres, gamma, vectors[:, kept] / values[kept].sqrt())

    def __call__(self, data: Dataset) -> Dataset:
        """The same examples in these features."""
        kernel = torch.exp(-self.gamma * squared_distances(data.inputs.flatten(1), self.centres))
        return data.with_inputs(kernel @ self.whitening)


def shared_example(kernel: Objective, network: Objective, in_kernel: Dataset, test: Dataset) -> Dataset:
    """The test image that both get right of median hinge loss, among those within the kernel machine's margin.

    Outside of it the smooth hinge is flat: no training image has an influence.

    Args:
        kernel: The kernel machine.
        network: The network.
        in_kernel: Test images in the kernel's features.
        test: The same images in pixels.

    Raises:
        ValueError: If there is none.
    """
    with torch.no_grad():
        right = torch.ones(len(test), dtype=torch.bool)
        for objective, data in ((kernel, in_kernel), (network, test)):
            outputs = objective.outputs(objective.params, data.inputs)
            right &= objective.likelihood.hits(outputs, data.targets) > 0  # type: ignore[attr-defined]
        losses = kernel.losses(kernel.params, in_kernel.batch())
    rows = (right & (losses > TEMPERATURE)).nonzero()[:, 0]
    if not len(rows):
        raise ValueError(f"no test image of {test.name} is right under both models and within the kernel's margin")
    ordered = rows[losses[rows].argsort()]
    return test.select([int(ordered[len(ordered) // 2])])


def measure_two(cell: ScaledCell) -> CellResult:
    """Influence on one test image under both models, and the truth for the images that matter most to each.

    Returns:
        Tables `images`, a row per training image and model, and `models`, a row per model; arrays `pictures` of the
        training images and `shown` of the test image.

    Raises:
        ValueError: If there are too few images of the pair, or as `shared_example`.
    """
    size, seed = cell.study.size, cell.seed
    others, pair = cell.study.drawn(seed, flat=False)
    train, tests = pair.train, pair.test
    features = KernelFeatures.of(train.inputs)
    kernel = smooth_machines(features(train), (TEMPERATURE,), DECAY[KERNEL])[TEMPERATURE]
    make = partial(tanh_convolutions, size.side, size.width, seed=seed)
    network = on_learned_features(make, others, train, DECAY[NETWORK], seed)
    test = shared_example(kernel, network, features(tests), tests)
    apart = squared_distances(test.inputs.flatten(1), train.inputs.flatten(1))[0]
    rows, models = [], []
    for name, objective, of in ((KERNEL, kernel, features), (NETWORK, network, lambda data: data)):
        effects = Influence(objective, of(train), damping=0.0).on_loss(of(test)).removal[0]
        largest = effects.abs().argsort(descending=True)[: size.removals]
        true = torch.full_like(effects, torch.nan)
        true[largest] = retrained(objective, of(train), of(test), train.ids[largest])
        same = train.targets == test.targets
        table = {"example": train.ids, "same": same, "distance": apart, "estimated": effects, "true": true}
        rows.append(pd.DataFrame({key: column.numpy() for key, column in table.items()}))
        rows[-1].insert(0, "model", name)
        models.append({"seed": seed, "model": name, "accuracy": accuracy(objective, of(tests))})
    images = pd.concat(rows, ignore_index=True)
    images.insert(0, "seed", seed)
    return CellResult(
        tables={"images": images, "models": pd.DataFrame(models)},
        arrays={"pictures": train.inputs[:, 0], "shown": test.inputs[0, 0]},
    )


def report_two(measured: Measured) -> Reproduced:
    """Draws influence against distance and the pictures; writes the images and a row per model."""
    images, models = measured.table("images"), measured.table("models")
    rows = []
    for (name, seed), own in images.groupby(["model", "seed"], sort=False):
        row = {"model": name, "seed": seed}
        some = own[own["estimated"].abs() > SOME * own["estimated"].abs().max()]
        row["spearman"] = float(spearmanr(some["estimated"].abs(), -some["distance"]).statistic)
        ordered = own.sort_values("estimated", ascending=False)
        row["other_helpful"] = float((~ordered["same"].head(FIRST)).mean())
        row["same_harmful"] = float(ordered["same"].tail(FIRST).mean())
        removed = own.dropna()
        row["pearson"] = float(pearson(removed["estimated"].to_numpy(), removed["true"].to_numpy()))
        rows.append(row)
    by_seed = measured.written("by_seed", pd.DataFrame(rows).merge(models, on=["model", "seed"]))
    summary = measured.written("summary", mean_table(by_seed, ["model"], STATISTICS, SHARES))
    findings = [
        f"{row['model']}: Spearman of |influence| and closeness in pixels {with_interval(row, 'spearman')}; of the "
        f"{FIRST} most helpful images {with_interval(row, 'other_helpful')} are of the other class, of the most "
        f"harmful {with_interval(row, 'same_harmful')} of the test image's; Pearson with retraining "
        f"{with_interval(row, 'pearson')}; accuracy {with_interval(row, 'accuracy')}; {row['repeats']} seeds."
        for _, row in summary.iterrows()
    ]
    first = images[images["seed"] == images["seed"].min()]
    arrays = measured.folder.load_cell(measured.keys[0]).arrays
    drawing = Drawing(two_models_figure, (first, np.asarray(arrays["pictures"]), np.asarray(arrays["shown"])))
    return measured.published(drawing, findings, summary[["model", *STATISTICS]])


STUDIES = (
    scaled_study(
        TwoModels(),
        "Koh & Liang (2017), figure 4: what a kernel machine and a convolutional network rely on for one test image.",
        measure_two,
        report_two,
    ),
)
