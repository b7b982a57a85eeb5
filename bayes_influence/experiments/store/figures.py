"""How the figures of all studies look, and how they are stored."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure

from bayes_influence.experiments.store.drawings import DRAWINGS, Drawing
from bayes_influence.experiments.store.folder import StudyFolder

FILE_TYPES = ("png", "pdf")

DPI = 150

MARKERS = "osD^vPX*<>"
"""One per series, so that nothing is told by its colour alone."""


def series_style(number: int) -> dict[str, Any]:
    """Colour and marker of a series by its number."""
    return {"color": f"C{number % 10}", "marker": MARKERS[number % len(MARKERS)]}


def figure_style(size: int = 9) -> AbstractContextManager[None]:
    """Matplotlib's settings within a `with`: letters of this size, and axes open above and to the right."""
    return mpl.rc_context({"font.size": size, "axes.spines.top": False, "axes.spines.right": False})


def save_figure(drawing: Drawing, folder: StudyFolder, name: str) -> None:
    """Draws a figure and writes it whole into the folder, once per file type, and once to be drawn again."""
    figure = drawing.figure()
    for kind in FILE_TYPES:
        folder.write_file(f"{name}.{kind}", encoded(figure, kind, DPI))
    folder.write_file(f"{DRAWINGS}/{name}.safetensors", drawing.encode())


def encoded(figure: Figure, kind: str, dpi: int) -> bytes:
    """A figure as the content of a file, the same for the same figure.

    Args:
        figure: What is drawn.
        kind: Of the file, such as png.
        dpi: Points per inch of one that is made of points.
    """
    clear_legends(figure)
    buffer = io.BytesIO()
    # Without a date and without random names, the same results give the same file.
    metadata = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {"Software": None}}[kind]
    with mpl.rc_context({"svg.hashsalt": "figure", "pdf.fonttype": 42}):
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    return buffer.getvalue()


def clear_legends(figure: Figure) -> None:
    """Puts legends that lie over what is drawn beside their axes, to the right."""
    figure.draw_without_rendering()
    for axes in figure.get_axes():
        legend = axes.get_legend()
        if legend is None:
            continue
        place = legend.get_window_extent()
        inside = place.count_contains(np.concatenate([np.empty((0, 2)), *_drawn_points(axes)]))
        if inside or any(place.overlaps(patch.get_window_extent()) for patch in axes.patches):
            legend.set_loc("upper left")
            legend.set_bbox_to_anchor((1.0, 1.0))


def _drawn_points(axes: Axes) -> Iterator[np.ndarray]:
    """Points of lines, error bars and scatters within the axes, as places of the figure."""
    for line in axes.get_lines():
        if line.get_transform() is axes.transData:  # and no line across the axes, which a legend may lie on
            yield _along(axes.transData.transform(line.get_xydata()))
    for many in axes.collections:
        if isinstance(many, LineCollection):
            yield from (_along(many.get_transform().transform(part)) for part in many.get_segments())
        elif isinstance(many, PathCollection):
            yield many.get_offset_transform().transform(many.get_offsets())


def _along(corners: np.ndarray) -> np.ndarray:
    """Points on the way from corner to corner."""
    corners = corners.reshape(-1, 2)  # also of a part without any: an error bar of one seed
    steps = np.linspace(0, 1, 50)[:, None, None]
    return np.concatenate([corners, ((1 - steps) * corners[:-1] + steps * corners[1:]).reshape(-1, 2)])


def signed_log_axis(axes: Axes, values: np.ndarray) -> None:
    """A logarithmic axis on which zero and negative values have a place: linear below the third of the smallest."""
    sizes = np.abs(values[np.isfinite(values) & (np.abs(values) > 1e-12)])
    threshold = 10 ** np.floor(np.log10(sizes.min() / 3)) if len(sizes) else 1.0
    axes.set_yscale("symlog", linthresh=threshold)
    if (values[np.isfinite(values)] < threshold).any():
        axes.axhline(0, color="lightgray", linewidth=0.8, zorder=0)


def draw_against_truth(axes: Axes, ends: np.ndarray, title: str) -> None:
    """What every scatter of estimates (along) against true changes (up) has: the diagonal, a title, few ticks.

    Args:
        axes: That the points are drawn in.
        ends: All values of both, which the diagonal spans.
        title: Of the axes.
    """
    span = np.array([ends.min(), ends.max()])
    axes.plot(span, span, color="black", linewidth=0.7, linestyle=":")
    axes.set_title(title, fontsize=9)
    axes.ticklabel_format(style="sci", scilimits=(-2, 3))
    axes.locator_params(nbins=4)
