"""Draws docs/images/architecture.png: the rooms, their types, and the way of one example through them.

python docs/architecture_figure.py
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

OUT = Path(__file__).parent / "images" / "architecture.png"
INK, QUIET, FILL, MARK = "#222222", "#777777", "#f2f2f2", "#b3402a"


@dataclass(frozen=True)
class Room:
    """A room of the package as the picture shows it.

    Attributes:
        name: Of its folder, or of its file.
        offers: Its main types and functions.
        step: What becomes of the example there.
        number: Of the step; 0 where the room serves several steps.
    """

    name: str
    offers: tuple[str, ...]
    step: str
    number: int = 0


ROOMS = (
    Room("models", ("MLP", "LeNet", "ResNet", "VGG"), "any torch network will do; these are the papers'"),
    Room(
        "data",
        ("Dataset", "Batch", "Split", "KnownSet"),
        "example 17 is loaded and standardised; it keeps its id from here on",
        1,
    ),
    Room(
        "moments",
        ("Moments", "to_bayesian", "rule"),
        "through a Bayesian network it goes as a mean and a variance",
        2,
    ),
    Room(
        "objectives",
        ("Objective", "Members", "Reduction", "predict", "GaussianKL"),
        "its loss is one term of J = mean loss + weight · regulariser",
        3,
    ),
    Room(
        "curvature",
        ("Curvature", "LinearOperator", "Damping", "Solver", "Solution"),
        "(C + D) y = g is solved here for training, influence and refits alike",
    ),
    Room("training", ("Scheme", "Schedule", "Fits", "fit_schemes"), "J is brought to a minimum, with it", 4),
    Room(
        "influence",
        ("Influence", "FittedProblem", "Response", "InfluenceScores"),
        "its gradient meets the solved test gradient: the predicted change",
        5,
    ),
    Room(
        "estimators",
        ("BayesianClassifier", "BayesianRegressor"),
        "the same in one class, for who has arrays and scikit-learn",
    ),
    Room(
        "retraining",
        ("RetrainingProtocol", "Minimum", "Warm", "FromScratch", "Refits"),
        "J is minimised again without it: the true change",
        6,
    ),
    Room(
        "evaluation",
        ("Agreement", "agreement", "paired_comparisons", "lds"),
        "predicted and true change are two numbers of one scatter",
        7,
    ),
    Room(
        "experiments",
        ("StudyFolder", "Settings", "Audit", "PaperStudy"),
        "they are stored with what made them, as one row of a cell's table",
        8,
    ),
    Room("cli", ("train", "influence", "audit", "compare"), "it is named, with its effect and its error", 9),
)


def chips(axes: Axes, offers: tuple[str, ...], x: float, y: float) -> None:
    """The names in a row of boxes; widths follow from the letters of a fixed-width font."""
    for name in offers:
        width = 0.077 * len(name) + 0.16
        box = FancyBboxPatch(
            (x, y - 0.13), width, 0.26, boxstyle="round,pad=0.02", facecolor="white", edgecolor=QUIET, linewidth=0.7
        )
        axes.add_patch(box)
        axes.text(x + width / 2, y, name, family="monospace", fontsize=8, ha="center", va="center", color=INK)
        x += width + 0.14


def main() -> None:
    """Draws the picture."""
    height = len(ROOMS)
    figure = Figure(figsize=(12.5, 0.62 * height + 1.0), layout="constrained")
    axes = figure.subplots()
    axes.set_xlim(-0.7, 13.4)
    axes.set_ylim(-0.7, height + 0.35)
    axes.axis("off")
    axes.text(0.1, height - 0.05, "room", color=QUIET, fontsize=9)
    axes.text(1.75, height - 0.05, "what it offers", color=QUIET, fontsize=9)
    axes.text(7.75, height - 0.05, "the way of one example", color=QUIET, fontsize=9)
    places = [height - 0.65 - row for row in range(height)]
    for room, y in zip(ROOMS, places, strict=True):
        axes.add_patch(
            FancyBboxPatch((0, y - 0.31), 7.0, 0.62, boxstyle="round,pad=0.04", facecolor=FILL, edgecolor="none")
        )
        axes.text(0.1, y, room.name, fontsize=10.5, weight="bold", va="center", color=INK)
        chips(axes, room.offers, 1.75, y)
        axes.text(7.95, y, room.step, fontsize=9.5, va="center", color=INK if room.number else QUIET)
    steps = [(room.number, y) for room, y in zip(ROOMS, places, strict=True) if room.number]
    axes.plot([7.6, 7.6], [steps[0][1], steps[-1][1]], color=MARK, linewidth=1.6, zorder=1)
    axes.scatter([7.6] * len(steps), [y for _, y in steps], s=260, facecolor="white", edgecolor=MARK, zorder=2)
    for number, y in steps:
        axes.text(7.6, y, str(number), fontsize=8.5, ha="center", va="center", color=MARK, zorder=3)
    arrow = {"arrowstyle": "-|>", "color": QUIET, "linewidth": 1.1}
    axes.annotate("", (-0.25, places[0]), (-0.25, places[-1]), arrowprops=arrow)
    axes.text(
        -0.37, (places[0] + places[-1]) / 2, "imports", rotation=90, color=QUIET, fontsize=8.5, va="center", ha="right"
    )
    axes.text(
        0.1,
        -0.4,
        "A room imports from rooms above it and from none below. Above all: errors (the base class of the library's "
        "own) and torch_internals (torch's private names).",
        fontsize=8.5,
        color=QUIET,
    )
    figure.savefig(OUT, dpi=110)


if __name__ == "__main__":
    main()
