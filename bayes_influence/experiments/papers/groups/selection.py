"""Figure 3 of Basu et al.: the most influential group of a size, by every method, really removed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from time import perf_counter

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from matplotlib.figure import Figure
from torch import Tensor

from bayes_influence.data.dataset import Dataset
from bayes_influence.experiments.papers.groups.logistic import draw_group, removed
from bayes_influence.experiments.papers.groups.printed_selection import printed_selection
from bayes_influence.experiments.papers.groups.settings import SelectedGroups
from bayes_influence.experiments.papers.means import mean_table, with_interval
from bayes_influence.experiments.papers.regression import fitted_regression, wrong_example
from bayes_influence.experiments.papers.scaled import Measured, ScaledCell, scaled_study
from bayes_influence.experiments.papers.study import Reproduced
from bayes_influence.experiments.store.cells import CellResult
from bayes_influence.experiments.store.drawings import Drawing
from bayes_influence.experiments.store.figures import figure_style
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
COLOURS = dict(zip(METHODS, ("#000000", "#E69F00", "#0072B2", "#D55E00", "#CC79A7", "#009E73"), strict=True))


def measure_selection(cell: ScaledCell) -> CellResult:
    """Selects the groups of every size by every method, and removes them.

    Returns:
        Table `results`: a row per size, method and group, with what Newton and Chebyshev's step predicts, what a refit
        finds, and the seconds of the selection.
    """
    size = cell.study.size
    split = cell.study.split(cell.seed)
    objective = fitted_regression(split.train, cell.study.decay)
    test = wrong_example(objective, split.test)
    influence = Influence(objective, split.train, damping=0.0)
    rows = []
    for fraction in size.fractions:
        count = round(fraction * len(split.train))
        for method, ids, seconds in selections(influence, test, count, size.groups, cell.seed):
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


def report_selection(measured: Measured) -> Reproduced:
    """Draws the true effect of the selected groups against their size; writes the results and their means over seeds.

    Several random groups of a size count as one: their mean.
    """
    results = measured.table("results")
    by_seed = results.groupby([*KEYS, "seed"], sort=False)[list(STATISTICS)].mean().reset_index()
    summary = measured.written("summary", mean_table(by_seed, KEYS, STATISTICS))
    shown = summary[[*KEYS, *STATISTICS]]
    return measured.published(Drawing(selection_figure, (summary,)), selection_findings(by_seed, summary), shown)


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
            bars = np.stack([part["true"] - part["true_low"], part["true_high"] - part["true"]])
            style = {"marker": MARKERS[str(method)], "color": COLOURS[str(method)], "markersize": 4}
            left.errorbar(percent, part["true"], bars, capsize=2, label=str(method), **style)
            if method != RANDOM:
                right.plot(percent, part["seconds"], **style)
        left.set_ylabel("true change of the test loss")
        right.set_ylabel("seconds to select")
        right.set_yscale("log")
        for axes in (left, right):
            axes.set_xlabel("size of the group, % of the training examples")
        left.legend(frameon=False)
        return figure


STUDIES = (
    scaled_study(
        SelectedGroups(),
        "Basu et al. (2020), figure 3: the most influential group of 10 to 30 %, by every method, really removed.",
        measure_selection,
        report_selection,
    ),
)
