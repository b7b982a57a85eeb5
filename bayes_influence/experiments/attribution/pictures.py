"""A test image beside the training images that shaped its prediction."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bayes_influence.data.catalogue import picture
from bayes_influence.data.dataset import Dataset
from bayes_influence.experiments.attribution.ranking import LOSS, heading
from bayes_influence.influence.shown import KINDS, draw_picture

PICTURED = 8
"""Training images that a picture shows of each kind, at most."""


def is_pictured(data: Dataset) -> bool:
    """Whether examples can be shown as images."""
    return picture(data, int(data.ids[0])) is not None


def influence_figure(ranking: pd.DataFrame, train: Dataset, tests: Dataset, measured: str = LOSS) -> Figure:
    """A test image with its most helpful training images (above) and its most harmful ones (below).

    Args:
        ranking: The rows of one test example, see `RunInfluence`.
        train: Training examples that can be drawn, see `picture`.
        tests: Test images, this one among them.
        measured: What influence is on.
    """
    test = ranking.iloc[0]
    shown = min(PICTURED, int(ranking["rank"].max()))
    exponent = int(np.floor(np.log10(max(ranking["removal"].abs().max(), np.finfo(float).tiny))))
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(1.05 * (shown + 2.2), 3.0), layout="constrained")
        left, right = figure.subfigures(1, 2, width_ratios=[2.2, shown])  # type: ignore[misc]
        axes = left.subplots()
        _draw(axes, tests, int(test["test_id"]))
        axes.set_title(f"test {test['test']}: {test['test_class']}")
        axes.set_xlabel(f"predicted {test['predicted_class']}\nloss {test['test_loss']:.2g}")
        for (kind, (colour, sign)), row in zip(KINDS.items(), right.subfigures(2, 1), strict=True):
            changed = f"removal changes the test {measured} by ... $\\times 10^{{{exponent}}}$"
            row.suptitle(f"{sign} {heading(kind, measured)}: {changed}", color=colour)
            chosen = ranking[ranking["kind"] == kind].head(shown)
            for axes, example in zip(row.subplots(1, shown, squeeze=False)[0], chosen.itertuples(), strict=True):
                _draw(axes, train, int(example.train_id))  # type: ignore[arg-type]
                axes.set_title(example.train_class, fontsize=9, color=_label_colour(example))
                axes.set_xlabel(f"{float(example.removal) / 10.0**exponent:+.1f}", labelpad=2)  # type: ignore[arg-type]
        return figure


def _label_colour(example: Any) -> str:
    return "black" if example.train_class == example.test_class else "tab:purple"


def _draw(axes: Axes, data: Dataset, example: int) -> None:
    image = picture(data, example)
    if image is None:
        raise ValueError(f"{data.name}: example {example} is no image and cannot be drawn")
    draw_picture(axes, image)
