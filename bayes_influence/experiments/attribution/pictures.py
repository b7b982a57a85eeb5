"""A test image beside the training images that shaped its prediction."""

from __future__ import annotations

from math import ceil
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bayes_influence.data.catalogue import picture
from bayes_influence.data.dataset import Dataset
from bayes_influence.experiments.attribution.ranking import LOSS, heading
from bayes_influence.experiments.store.drawings import Drawing
from bayes_influence.influence.shown import KINDS, draw_picture

A_LINE = 10
"""Training images in a line, at most."""

A_HEADING = 3
"""Training images for whose width a heading has room, at least."""


def is_pictured(data: Dataset) -> bool:
    """Whether examples can be shown as images."""
    return picture(data, int(data.ids[0])) is not None


def drawn(rows: pd.DataFrame, train: Dataset, test: Dataset, measured: str) -> Drawing:
    """The figure of one test image, kept with all that it is drawn of.

    Args:
        rows: Of this test example, see `influence_figure`.
        train: All training examples.
        test: All test examples.
        measured: What influence is on.
    """
    named = train.at(rows["train_id"].drop_duplicates().tolist())
    return Drawing(influence_figure, (rows, _held(named), _held(test.at(int(rows["test_id"].iloc[0]))), measured))


def _held(data: Dataset) -> Dataset:
    """The examples in memory, also those that are read when needed."""
    batch = data.batch()
    return Dataset(batch.inputs, batch.targets, data.ids, data.name, class_names=data.class_names)


def influence_figure(ranking: pd.DataFrame, train: Dataset, tests: Dataset, measured: str = LOSS) -> Figure:
    """A test image with all training images that are ranked: most helpful ones above, most harmful ones below.

    Under every training image stand its id and what its removal does; classes other than the test image's are in
    italics.

    Args:
        ranking: The rows of one test example, see `RunInfluence`.
        train: Training examples that can be drawn, see `picture`.
        tests: Test images, this one among them.
        measured: What influence is on.
    """
    test = ranking.iloc[0]
    count = int(ranking["rank"].max())
    columns, lines = min(A_LINE, count), ceil(count / A_LINE)
    wide = max(columns, A_HEADING)
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(1.05 * (wide + 2.2), 0.9 + 3.3 * lines), layout="constrained")
        left, right = figure.subfigures(1, 2, width_ratios=[2.2, wide])  # type: ignore[misc]
        axes = left.subplots()
        _draw(axes, tests, int(test["test_id"]))
        axes.set_title(f"test {test['test']}: {test['test_target']}", parse_math=False)
        told = f"id {test['test_id']}\npredicted {test['predicted_target']}\nloss {test['test_loss']:.2g}"
        axes.set_xlabel(told, parse_math=False)
        for (kind, (colour, sign)), part in zip(KINDS.items(), right.subfigures(2, 1), strict=True):
            what = "it" if measured != LOSS and measured in heading(kind, measured) else f"the test {measured}"
            words = f"{sign} {heading(kind, measured)}: removal changes {what} by ..."
            part.suptitle(words, color=colour, wrap=True)
            places = part.subplots(lines, columns, squeeze=False).ravel()
            examples = list(ranking[ranking["kind"] == kind].itertuples())
            for axes, example in zip(places, examples, strict=False):
                _draw_ranked(axes, train, example)
            for axes in places[len(examples) :]:
                axes.set_visible(False)
        return figure


def _draw_ranked(axes: Axes, train: Dataset, example: Any) -> None:
    """A training image with its class above, and its id and removal effect below."""
    _draw(axes, train, int(example.train_id))
    alike = example.train_target == example.test_target
    colour, style = ("black", "normal") if alike else ("tab:purple", "italic")
    axes.set_title(example.train_target, fontsize=9, color=colour, fontstyle=style, parse_math=False)
    axes.set_xlabel(f"id {example.train_id}\n{example.removal:+.1e}", labelpad=2, fontsize=8)


def _draw(axes: Axes, data: Dataset, example: int) -> None:
    image = picture(data, example)
    if image is None:
        raise ValueError(f"{data.name}: example {example} is no image and cannot be drawn")
    draw_picture(axes, image)
