"""Section 5.2 of Koh & Liang: one, two or ten training images moved until a test prediction turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy.stats import binomtest
from torch import Tensor

from bayes_influence.data.dataset import Dataset
from bayes_influence.experiments.papers.scaled import Measured, ScaledCell, scaled_study
from bayes_influence.experiments.papers.small_images import SmallImageStudy, of_pair
from bayes_influence.experiments.papers.study import Reproduced
from bayes_influence.experiments.store.cells import CellResult
from bayes_influence.experiments.store.drawings import Drawing
from bayes_influence.experiments.store.figures import figure_style
from bayes_influence.influence.attack import attack
from bayes_influence.models.mlp import MLP
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.minibatch_schedule import MinibatchSchedule
from bayes_influence.training.minimum import minimum_of
from bayes_influence.training.schemes import SCHEMES

COUNTS = (1, 2, 10)
"""Training images that are moved, as in the paper."""

PAIR = (4, 9)
"""Classes of the images that are told apart: those which digits are confused most."""

IMAGES_PER_PAIRED = 6
"""Digits that are looked through for one of the pair, to which a fifth of them belong."""

SHOWN = 4
"""Attacks with one image whose pictures are kept."""

PICTURES = ("test image", "training image", "moved", "difference x 5")

FEATURE_DECAY = 1e-4
"""Weight decay of the network that the features are taken of."""


@dataclass(frozen=True)
class AttackScale:
    """How large the study is where nothing else is said.

    Attributes:
        repeats: Seeds.
        victims: Test images attacked.
        train: Training images of the last layer.
        feature_images: Others, of all ten classes, on which the features are learned.
        width: Features.
        side: Pixels a side.
    """

    repeats: int
    victims: int
    train: int
    feature_images: int
    width: int
    side: int


@dataclass(frozen=True)
class TrainingAttack(SmallImageStudy):
    """Two classes told apart by the last layer of a perceptron whose features were learned on other images.

    Attributes:
        victims: Test images attacked, each by itself; the scale's when not given.
        train: Training images of the last layer; the scale's when not given.
        feature_images: Others, of all ten classes, on which the features are learned; the scale's when not given.
        width: Features; the scale's when not given.
        decay: lambda of the weight decay (lambda/2)|theta|^2 of the last layer.
        step: Of every pixel, whose values lie between 0 and 1.
        steps: At most; no pixel moves further than step x steps.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    victims: int | None = None
    train: int | None = None
    feature_images: int | None = None
    width: int | None = None
    decay: float = 1e-5
    step: float = 0.02
    steps: int = 10

    NAME: ClassVar[str] = "training-attack"
    SCALES: ClassVar[Mapping[str, Any]] = {
        "quick": AttackScale(1, 5, 100, 1000, 100, 7),
        "full": AttackScale(1, 30, 300, 3000, 400, 28),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(victims=1, train=max(COUNTS), feature_images=10, width=1, steps=1)
        for name in ("decay", "step"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


def fitted_head(study: TrainingAttack, seed: int) -> tuple[Objective, Dataset, Dataset]:
    """The network, its features learned on some images and its last layer on others; those, and the test images.

    Raises:
        ValueError: If there are too few images of the pair.
    """
    size = study.size
    split = study.images(seed, train=size.feature_images + IMAGES_PER_PAIRED * size.train, test=10_000)
    order = torch.randperm(len(split.train), generator=torch.Generator().manual_seed(seed))
    others, own = split.train.select(order[: size.feature_images]), split.train.select(order[size.feature_images :])
    train, pixels = of_pair(own, PAIR), split.train.inputs.shape[1]
    if len(train) < size.train:
        raise ValueError(f"only {len(train)} of the images are of the pair {PAIR}, got train={size.train}; take fewer")
    train = train.select(range(size.train))
    scheme = SCHEMES["weight-decay"].with_options(weight_decay=FEATURE_DECAY)
    make = partial(MLP, pixels, split.train.n_classes, width=size.width, activation="tanh")
    schedule = MinibatchSchedule(10, 100, 0.005, decay="cosine")
    features = fit_schemes([scheme], make, others, [seed], schedule, tolerance=None)[0].at(0)
    network = MLP(pixels, 2, width=size.width, activation="tanh", seed=seed).double()
    network.load_state_dict({**network.state_dict(), **{n: v for n, v in features.params.items() if n[0] == "0"}})
    objective = Objective(network, CrossEntropy(), WeightDecay(study.decay), parameters="last-layer")
    return minimum_of(objective, train), train, of_pair(split.test, PAIR)


def measure_attack(cell: ScaledCell) -> CellResult:
    """Attacks the first test images that the network gets right, each with one, two and ten training images.

    Returns:
        Table `attacks`, a row per test image and count; array `pictures`, (m, 3, side, side).
    """
    study = cell.study
    objective, train, test = fitted_head(study, cell.seed)
    with torch.no_grad():
        right = objective.outputs(objective.params, test.inputs).argmax(dim=1) == test.targets
    victims = right.nonzero()[: study.size.victims, 0]
    rows: list[dict[str, Any]] = []
    pictures: list[Tensor] = []
    for row in victims.tolist():
        victim = test.select([row])
        for count in COUNTS:
            done = attack(objective, train, victim, count, step=study.step, steps=study.steps, damping=0.0)
            keys = {"seed": cell.seed, "victim": int(victim.ids[0]), "count": count}
            rows.append(keys | {"flipped": done.flipped, "steps": done.steps, "largest_move": done.largest_move})
            rows[-1]["accuracy_before"], rows[-1]["accuracy_after"] = (
                float((one.outputs(one.params, test.inputs).argmax(dim=1) == test.targets).double().mean())
                for one in (objective, done.objective)
            )
            if count == 1 and done.flipped and len(pictures) < SHOWN:
                kept = [victim.inputs[0], train.at(done.ids).inputs[0], done.train.at(done.ids).inputs[0]]
                pictures.append(torch.stack(kept).unflatten(1, (study.size.side, -1)))
    side = study.size.side
    arrays = {"pictures": torch.stack(pictures) if pictures else torch.zeros(0, 3, side, side, dtype=torch.float64)}
    return CellResult(tables={"attacks": pd.DataFrame(rows)}, arrays=arrays)


def report_attack(measured: Measured) -> Reproduced:
    """Draws successes, moves and pictures; writes the attacks and a row per count."""
    attacks = measured.table("attacks")
    rows = []
    for count, own in attacks.groupby("count", sort=False):
        turned = own[own["flipped"]]
        interval = binomtest(len(turned), len(own)).proportion_ci(method="wilson")
        rows.append(
            {"count": count, "attacked": len(own), "flipped": len(turned) / len(own)}
            | {"flipped_low": interval.low, "flipped_high": interval.high}
            | {"median_move": turned["largest_move"].median(), "largest_move": turned["largest_move"].max()}
            | {"accuracy_before": own["accuracy_before"].mean(), "accuracy_after": own["accuracy_after"].mean()}
        )
    summary = measured.written("summary", pd.DataFrame(rows))
    findings = [_finding(row) for row in summary.to_dict("records")]
    pictures = np.concatenate([measured.folder.load_cell(key).arrays["pictures"] for key in measured.keys])
    return measured.published(Drawing(attack_figure, (summary, pictures[:SHOWN])), findings, summary)


def _finding(row: Mapping[Any, Any]) -> str:
    return (
        f"{row['count']:.0f} training images moved: {row['flipped']:.0%} of {row['attacked']:.0f} test predictions "
        f"turn ({row['flipped_low']:.0%} … {row['flipped_high']:.0%}, Wilson), the median by moves of "
        f"{row['median_move']:.3g} of the range of a pixel; accuracy on all test images "
        f"{row['accuracy_before']:.3f} before and {row['accuracy_after']:.3f} after."
    )


def attack_figure(summary: pd.DataFrame, pictures: np.ndarray) -> Figure:
    """Share of predictions that turn by images moved; test image, training image before and after, and what moved."""
    with figure_style(9):
        figure = Figure(figsize=(10, 1.2 + 1.5 * max(2, len(pictures))), layout="constrained")
        grid = figure.add_gridspec(max(1, len(pictures)), 1 + len(PICTURES), width_ratios=(2, 1, 1, 1, 1))
        axes = figure.add_subplot(grid[:, 0])
        bars = np.stack([summary["flipped"] - summary["flipped_low"], summary["flipped_high"] - summary["flipped"]])
        axes.bar(summary["count"].astype(str), summary["flipped"], yerr=bars, capsize=4, color="#56B4E9")
        axes.set_ylim(0, 1.05)
        axes.set_xlabel("training images moved")
        axes.set_ylabel("share of test predictions that turn")
        for row, (victim, before, after) in enumerate(pictures):
            shown = (victim, before, after, 0.5 + 5 * (after - before))
            for column, (image, title) in enumerate(zip(shown, PICTURES, strict=True), start=1):
                one = figure.add_subplot(grid[row, column])
                one.imshow(image, cmap="gray", vmin=0, vmax=1)
                one.set_axis_off()
                if row == 0:
                    one.set_title(title, fontsize=8)
        return figure


STUDIES = (
    scaled_study(
        TrainingAttack(),
        "Koh & Liang (2017), section 5.2: a few training images moved until a test prediction turns.",
        measure_attack,
        report_attack,
    ),
)
