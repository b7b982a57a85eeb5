"""Figure 3 of Basu et al.: the most influential group of a size, by every method, really removed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import pandas as pd
import torch
from jaxtyping import Int
from matplotlib.figure import Figure
from torch import Tensor

from bayes_influence.data.dataset import Dataset
from bayes_influence.experiments.papers.groups.data import gaussian_blobs
from bayes_influence.experiments.papers.groups.logistic import draw_group, fitted_regression, removed, wrong_example
from bayes_influence.experiments.papers.groups.printed_selection import printed_selection
from bayes_influence.experiments.papers.means import mean_table, with_interval
from bayes_influence.experiments.papers.study import PaperStudy, Reproduced, publish
from bayes_influence.experiments.store.cells import CellResult, cell_key
from bayes_influence.experiments.store.figures import figure_style
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.store.runner import run_cells
from bayes_influence.experiments.store.settings import Settings
from bayes_influence.influence.influence import Influence

RANDOM = "random"
PRINTED = "eq. 18 as printed"
LIBRARY = {
    "first order": "first-order",
    "capped simplex": "projected-gradient",
    "greedy": "greedy",
    "adaptive greedy": "adaptive-greedy",
}
"""Methods of `Influence.select_group`, by what the study calls them."""

METHODS = (RANDOM, PRINTED, *LIBRARY)

TURNS = 20
"""In how many turns a greedy method picks its group."""

STATISTICS = ("predicted", "true", "seconds")
KEYS = ("fraction", "method")
MARKERS = dict(zip(METHODS, ".vosD^", strict=True))


@dataclass(frozen=True)
class SelectionScale:
    """How large the study is where nothing else is said.

    Attributes:
        repeats: Seeds.
        train: Training examples.
        random: Random groups of each size.
    """

    repeats: int
    train: int
    random: int


SCALES = {"quick": SelectionScale(2, 400, 5), "full": SelectionScale(5, 20_000, 20)}
FRACTIONS = (0.1, 0.2, 0.3)


@dataclass(frozen=True)
class SelectionStudy(Settings):
    """Softmax regression on four blobs, a test example that it gets wrong, and the group that holds it there most.

    Attributes:
        scale: "quick" or "full": how large it is where the next options do not say.
        repeats: Seeds; the scale's when not given.
        train: Training examples; the scale's when not given.
        decay: lambda of the weight decay (lambda/2)|theta|^2.
        seed: The first seed.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    scale: str = "quick"
    repeats: int | None = None
    train: int | None = None
    decay: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_known(scale=SCALES)
        self.check_at_least(repeats=1, train=100, seed=0)
        if not self.decay > 0:
            raise ValueError(f"decay must be positive, or refits have no minimum to reach, got {self.decay}")

    @property
    def size(self) -> SelectionScale:
        """The numbers that the scale and the options come to."""
        scale = SCALES[self.scale]
        return SelectionScale(self.repeats or scale.repeats, self.train or scale.train, scale.random)

    def configuration(self) -> dict[str, Any]:
        """What a result folder belongs to; seeds can be added."""
        size = self.size
        return {"study": "group-selection", "train": size.train, "random": size.random, "decay": self.decay}


@dataclass(frozen=True)
class SelectionCell:
    """The groups of one seed.

    Attributes:
        study: Settings.
        seed: Of data and random groups.
    """

    study: SelectionStudy
    seed: int


def measure_selection(cell: SelectionCell) -> CellResult:
    """Selects the groups of every size by every method, and removes them.

    Returns:
        Table `results`: a row per size, method and group, with what Newton and Chebyshev's step predicts, what a refit
        finds, and the seconds of the selection.
    """
    size = cell.study.size
    split = gaussian_blobs(size.train, max(200, size.train // 10), cell.seed)
    objective = fitted_regression(split.train, cell.study.decay)
    test = wrong_example(objective, split.test)
    influence = Influence(objective, split.train, damping=0.0)
    rows = []
    for fraction in FRACTIONS:
        count = round(fraction * len(split.train))
        for method, ids, seconds in selections(influence, test, count, size.random, cell.seed):
            predicted = influence.of_group(ids, order="newton-chebyshev").on_loss(test)
            true = removed(objective, split.train, test, [ids], "fixed")
            row = {"fraction": fraction, "method": method, "seed": cell.seed, "seconds": seconds}
            rows.append(row | {"predicted": float(predicted[0]), "true": float(true[0])})
    return CellResult(tables={"results": pd.DataFrame(rows)})


def selections(
    influence: Influence, test: Dataset, count: int, random: int, seed: int
) -> Iterator[tuple[str, Int[Tensor, " k"], float]]:
    """The group of every method, with the seconds that it took; several random ones.

    Args:
        influence: Undamped, with the Hessian.
        test: The example whose loss the removal is to raise.
        count: k.
        random: Random groups.
        seed: Of these.
    """
    train, generator = influence.problem.train, torch.Generator().manual_seed(seed)
    for _ in range(random):
        yield RANDOM, draw_group(train, count, "random", 0, generator), 0.0
    turn = -(-count // TURNS)

    def by_library(method: str) -> Tensor:
        return influence.select_group(test, count, method=method, at_once=turn).ids

    choices: dict[str, Callable[[], Tensor]] = {PRINTED: lambda: printed_selection(influence, test, count)}
    choices |= {name: partial(by_library, method) for name, method in LIBRARY.items()}
    for name, choose in choices.items():
        start = perf_counter()
        ids = choose()
        yield name, ids, perf_counter() - start


def reproduce_selection(
    study: SelectionStudy, out: str | Path, n_jobs: int | None = None, progress: bool = True
) -> Reproduced:
    """Runs every seed and draws the true effect of the selected groups against their size.

    Args:
        study: Settings.
        out: The result folder; seeds can be added to it.
        n_jobs: Cells at once; as many as there are cores, when not given.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If the folder belongs to another study.
        FailedCellsError: If a cell failed, after all others were stored.
    """
    folder = StudyFolder(out, study.configuration())
    seeds = range(study.seed, study.seed + study.size.repeats)
    cells = {cell_key(seed=seed): SelectionCell(study, seed) for seed in seeds}
    run_cells(cells, measure_selection, folder, n_jobs=n_jobs, progress=progress)
    results = folder.table("results", list(cells))
    by_seed = results.groupby([*KEYS, "seed"], sort=False)[list(STATISTICS)].mean().reset_index()
    summary = mean_table(by_seed, KEYS, STATISTICS)
    folder.write_table("results", results)
    folder.write_table("summary", summary)
    shown = summary[[*KEYS, *STATISTICS]]
    return publish(folder, "group-selection", selection_figure(summary), selection_findings(by_seed, summary), shown)


def selection_findings(by_seed: pd.DataFrame, summary: pd.DataFrame) -> list[str]:
    """Per size: what removing each method's group does to the test loss, and how often it does most."""
    sentences = []
    for fraction, rows in summary.groupby("fraction", sort=False):
        table = by_seed[by_seed["fraction"] == fraction].pivot_table(index="seed", columns="method", values="true")
        best = table.idxmax(axis=1).value_counts()
        said = "; ".join(f"{row['method']} {with_interval(row, 'true')}" for _, row in rows.iterrows())
        sentences.append(
            f"{float(str(fraction)):.0%} removed, true change of the test loss: {said}. Largest of {len(table)} seeds: "
            + ", ".join(f"{name} {count}" for name, count in best.items())
            + "."
        )
    return sentences


def selection_figure(summary: pd.DataFrame) -> Figure:
    """The paper's figure 3 with the truth in it: change of the test loss against the size of the group."""
    with figure_style(9):
        figure = Figure(figsize=(9, 4), layout="constrained")
        left, right = figure.subplots(1, 2)
        for method, part in summary.groupby("method", sort=False):
            percent = 100 * part["fraction"]
            bars = [part["true"] - part["true_low"], part["true_high"] - part["true"]]
            left.errorbar(percent, part["true"], bars, marker=MARKERS[str(method)], capsize=2, label=str(method))
            if method != RANDOM:
                right.plot(percent, part["seconds"], marker=MARKERS[str(method)], label=str(method))
        left.set_ylabel("true change of the test loss")
        right.set_ylabel("seconds to select")
        right.set_yscale("log")
        for axes in (left, right):
            axes.set_xlabel("size of the group, % of the training examples")
        left.legend(frameon=False)
        return figure


STUDIES = (
    PaperStudy(
        "group-selection",
        "Basu et al. (2020), figure 3: the most influential group of 10 to 30 %, by every method, really removed.",
        reproduce_selection,
        SelectionStudy(),
        folder="runs/group-selection",
    ),
)
