"""How the figures of all studies look, and how they are stored."""

from __future__ import annotations

import io
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
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
    buffer = io.BytesIO()
    # Without a date and without random names, the same results give the same file.
    metadata = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {"Software": None}}[kind]
    with mpl.rc_context({"svg.hashsalt": "figure", "pdf.fonttype": 42}):
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    return buffer.getvalue()


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
