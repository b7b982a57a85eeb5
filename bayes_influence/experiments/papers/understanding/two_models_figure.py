"""The figure of `two-models`: influence against distance, and the pictures that help and harm most."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bayes_influence.experiments.store.figures import figure_style, series_style

PICTURES = 4
"""Of each kind."""


def two_models_figure(
    images: pd.DataFrame, pictures: Float[np.ndarray, "n side side"], shown: Float[np.ndarray, "side side"]
) -> Figure:
    """The paper's figure 4, a row per model: influence against distance, then the test image and who helps and harms.

    Args:
        images: `model`, `same`, `distance` and `estimated` of every training image, in one order for each model.
        pictures: The training images in that order.
        shown: The test image.
    """
    models = list(dict.fromkeys(images["model"]))
    with figure_style(8):
        figure = Figure(figsize=(12, 2.9 * len(models)), layout="constrained")
        grid = figure.add_gridspec(2 * len(models), 2 + PICTURES, width_ratios=(3.4, *[1] * (1 + PICTURES)))
        for number, model in enumerate(models):
            own = images[images["model"] == model].reset_index(drop=True)
            rows = slice(2 * number, 2 * number + 2)
            _draw_distances(figure.add_subplot(grid[rows, 0]), own, model)
            _draw_picture(figure.add_subplot(grid[rows, 1]), shown, "test image")
            ordered = own["estimated"].sort_values().index
            kinds = {"helpful": ordered[::-1][:PICTURES], "harmful": ordered[:PICTURES]}
            for line, (kind, chosen) in enumerate(kinds.items()):
                for column, row in enumerate(chosen):
                    title = f"{kind}, {'same' if own['same'][row] else 'other'} class"
                    _draw_picture(figure.add_subplot(grid[2 * number + line, 2 + column]), pictures[row], title)
        return figure


def _draw_distances(axes: Axes, own: pd.DataFrame, model: str) -> None:
    for number, (same, label) in enumerate(((True, "class of the test image"), (False, "the other class"))):
        points = own[own["same"] == same]
        style = series_style(number) | {"linestyle": "none", "markersize": 3, "markerfacecolor": "none"}
        axes.plot(points["distance"], points["estimated"], label=label, **style)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set_title(model)
    axes.set_xlabel("squared distance to the test image in pixels")
    axes.set_ylabel("predicted change of the test loss\nwhen an image is removed")
    axes.legend(frameon=False)


def _draw_picture(axes: Axes, picture: Float[np.ndarray, "side side"], title: str) -> None:
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1)
    axes.set_title(title, fontsize=7)
    axes.set_axis_off()
