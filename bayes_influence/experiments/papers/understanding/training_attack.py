"""Section 5.2 of Koh & Liang: one, two or ten training images moved until a test prediction turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy.stats import binomtest
from torch import Tensor, nn

from bayes_influence.data.dataset import Dataset
from bayes_influence.experiments.papers.scaled import NO_MINIMUM, Measured, ScaledCell, scaled_study
from bayes_influence.experiments.papers.study import Reproduced
from bayes_influence.experiments.papers.understanding.paired_digits import (
    PairScale,
    PairStudy,
    on_learned_features,
)
from bayes_influence.experiments.store.cells import CellResult
from bayes_influence.experiments.store.drawings import Drawing
from bayes_influence.experiments.store.figures import figure_style
from bayes_influence.influence.attack import attack
from bayes_influence.models.mlp import MLP
from bayes_influence.objectives.objective import Objective

COUNTS = (1, 2, 10)
"""Training images that are moved, as in the paper."""

SHOWN = 4
"""Attacks with one image whose pictures are kept."""

PICTURES = ("test image", "training image", "moved", "difference x 5")


@dataclass(frozen=True, kw_only=True)
class AttackScale(PairScale):
    """As `PairScale`; its width are features.

    Attributes:
        victims: Test images attacked.
    """

    victims: int


@dataclass(frozen=True)
class TrainingAttack(PairStudy):
    """Two classes told apart by the last layer of a perceptron whose features were learned on other images.

    Attributes:
        victims: Test images attacked, each by itself; the scale's when not given.
        decay: lambda of the weight decay (lambda/2)|theta|^2 of the last layer.
        step: Of every pixel, whose values lie between 0 and 1.
        steps: At most; no pixel moves further than step x steps.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    victims: int | None = None
    decay: float = 1e-5
    step: float = 0.02
    steps: int = 10

    NAME: ClassVar[str] = "training-attack"
    FULL_MINUTES: ClassVar[float] = 2
    SCALES: ClassVar[Mapping[str, Any]] = {
        "quick": AttackScale(repeats=1, side=7, train=100, feature_images=1000, width=100, victims=5),
        "full": AttackScale(repeats=1, side=28, train=300, feature_images=3000, width=400, victims=30),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(victims=1, train=max(COUNTS), steps=1)
        self.check_positive(decay=NO_MINIMUM, step="or no pixel moves")


def fitted_head(study: TrainingAttack, seed: int) -> tuple[Objective, Dataset, Dataset]:
    """The network, its features learned on some images and its last layer on others; those, and the test images.

    Raises:
        ValueError: If there are too few images of the pair.
    """
    others, pair = study.drawn(seed)
    pixels = others.inputs.shape[1]

    def make(classes: int) -> nn.Module:
        return MLP(pixels, classes, width=study.size.width, activation="tanh", seed=seed)

    return on_learned_features(make, others, pair.train, study.decay, seed), pair.train, pair.test


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
        f"turn ({row['flipped_low']:.0%} … {row['flipped_high']:.0%}, Wilson). Of those that turn, "
        f"half do by moves of at most {row['median_move']:.3g} of the range of a pixel. Accuracy on all test images, "
        f"mean over all attacks: {row['accuracy_before']:.3f} before and {row['accuracy_after']:.3f} after."
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
