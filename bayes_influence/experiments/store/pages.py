"""Stored figures, drawn again for a paper's page or a talk's screen."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.collections import Collection, PathCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names
from matplotlib.lines import Line2D
from matplotlib.text import Text

from bayes_influence.data.files import write_whole
from bayes_influence.experiments.store.drawings import stored_drawings
from bayes_influence.experiments.store.figures import DPI, FILE_TYPES, encoded
from bayes_influence.experiments.store.settings import Settings

logger = logging.getLogger(__name__)

KINDS = ("png", "pdf", "svg")
"""Files that a figure can be written to; all but the first are made of lines, and stay sharp at any size."""


LARGEST, LARGEST_DPI = 100, 1200
"""Inches and points per inch of what can be drawn."""


SHORTEST_LINE = 8
"""Letters of a title's line, below which it is not broken."""


@dataclass(frozen=True)
class Page(Settings):
    """What a figure is drawn for.

    Attributes:
        width: Inches; as it was drawn when not given.
        height: Inches; in proportion to the width when not given.
        most_height: Inches that a height in proportion is cut to, so that what was drawn tall fits on a screen.
        font_size: Of most letters, in points; the others in proportion. As they were drawn when not given.
        font: Name of a font that is installed; matplotlib's own when not given.
        kinds: Files to write: png, pdf, svg.
        dpi: Points per inch of a png.

    Raises:
        ValueError: If a number is not positive, or too large, a kind is unknown, or there is no such font.
    """

    width: float | None = None
    height: float | None = None
    most_height: float | None = None
    font_size: float | None = None
    font: str | None = None
    kinds: tuple[str, ...] = FILE_TYPES
    dpi: int = DPI

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("width", "height", "most_height", "font_size", "dpi"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        for name in ("width", "height"):
            if (getattr(self, name) or 0) > LARGEST:
                raise ValueError(f"{name} must be at most {LARGEST} inches, got {getattr(self, name)}")
        if self.dpi > LARGEST_DPI:
            raise ValueError(f"dpi must be at most {LARGEST_DPI}, got {self.dpi}")
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise ValueError(f"unknown kind {', '.join(unknown) or '(none given)'}; known: {', '.join(KINDS)}")
        if self.font is not None and self.font not in get_font_names():
            some = ", ".join(sorted(get_font_names())[:5])
            raise ValueError(
                f"no font {self.font!r} is installed; there are {some}, and {len(get_font_names())} in all"
            )

    def fit(self, figure: Figure) -> Figure:
        """The figure itself, in this page's size and letters, its lines and markers in proportion to the width."""
        figure.draw_without_rendering()  # makes the letters at the ticks
        width, height = figure.get_size_inches()
        own = self.width or (self.height * width / height if self.height else width)
        figure.set_size_inches(own, self.height or min(own * height / width, self.most_height or LARGEST))
        self._set_letters(figure)
        _scale_strokes(figure, own / width)
        _break_lines(figure)
        _break_lines(figure)  # since longer titles leave less room
        return figure

    def _set_letters(self, figure: Figure) -> None:
        letters = [text for text in figure.findobj(Text) if isinstance(text, Text)]
        sizes = [float(text.get_fontsize()) for text in letters]
        usual = median([size for size, text in zip(sizes, letters, strict=True) if text.get_text()] or [1.0])
        factor = self.font_size / usual if self.font_size else 1.0
        for size, text in zip(sizes, letters, strict=True):
            text.set_fontsize(size * factor)
            text.set_fontfamily(self.font or text.get_fontfamily())
        for axes in figure.get_axes():
            for axis in (axes.xaxis, axes.yaxis):
                for tick in axis.get_ticklabels()[:1]:  # of which another size of the axes may need more
                    axis.set_tick_params(labelsize=tick.get_fontsize(), labelfontfamily=tick.get_fontfamily()[0])


def _break_lines(figure: Figure) -> None:
    """Breaks titles and names of axes that are longer than what they stand at."""
    figure.draw_without_rendering()
    for axes in figure.get_axes():
        box = axes.get_window_extent()
        _broken(axes.title, box.width)
        _broken(axes.xaxis.label, box.width)
        _broken(axes.yaxis.label, box.height, upright=True)
    for text in figure.findobj(Text):
        if isinstance(text, Text) and text.axes is None and not text.get_rotation():
            _broken(text, figure.bbox.width)


def _broken(text: Text, room: float, *, upright: bool = False) -> None:
    """Breaks a text's lines between words, so that each is no longer than its room."""
    extent = text.get_window_extent()
    long, words = extent.height if upright else extent.width, text.get_text()
    if " " in words and "$" not in words and long > room > 0:
        letters = int(max(map(len, words.split("\n"))) * room / long)
        lines = [fill(line, max(letters, SHORTEST_LINE), break_long_words=False) for line in words.split("\n")]
        text.set_text("\n".join(lines))


def _scale_strokes(figure: Figure, factor: float) -> None:
    """Lines and markers `factor` times as wide."""
    for line in figure.findobj(Line2D):
        assert isinstance(line, Line2D)
        line.set_linewidth(factor * line.get_linewidth())
        line.set_markersize(factor * line.get_markersize())
    for many in figure.findobj(Collection):
        assert isinstance(many, Collection)
        many.set_linewidth([factor * width for width in np.atleast_1d(many.get_linewidth())])
        if isinstance(many, PathCollection):
            many.set_sizes(factor**2 * many.get_sizes())


PAGES = {
    "paper": Page(width=6.75, font_size=8.0, kinds=("pdf", "svg")),
    "talk": Page(width=12.0, most_height=6.75, font_size=14.0, kinds=("png", "svg"), dpi=200),
}
"""What is mostly asked for: the width of a page of two columns, and of a screen."""


def page_of(name: str | None = None, **said: Any) -> Page:
    """One of `PAGES`, with what is said otherwise.

    Args:
        name: Its name; a page as the figure was drawn when not given.
        **said: Its attributes that are to be others; None for one that is not said.

    Raises:
        ValueError: If there is no such page, or as `Page`.
    """
    if name is not None and name not in PAGES:
        raise ValueError(f"unknown page {name!r}; known: {', '.join(PAGES)}")
    return replace(PAGES[name] if name else Page(), **{key: value for key, value in said.items() if value is not None})


def redraw(folder: str | Path, page: Page, out: str | Path, names: Sequence[str] = ()) -> list[Path]:
    """Draws the figures of a stored study again.

    Nothing is measured again, and the study's folder stays as it is.

    Args:
        folder: Of any study.
        page: What for.
        out: The folder for the files, made where there is none; what has their names is replaced.
        names: Of the figures; all when not given.

    Returns:
        The files.

    Raises:
        FileNotFoundError: If the folder has no stored figures.
        ValueError: If there is none of a name, one is damaged, or was drawn by another version.
        OSError: If a file cannot be written.
    """
    drawings = stored_drawings(folder)
    unknown = [name for name in names if name not in drawings]
    if unknown:
        raise ValueError(f"{folder} has no figure {unknown[0]!r}; it has {', '.join(drawings)}")
    place, files = Path(out), []
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{place} cannot be a folder for the figures ({error.strerror}); name another") from error
    for name in names or drawings:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            figure = page.fit(drawings[name].figure())
            for kind in page.kinds:
                files.append(place / f"{name}.{kind}")
                write_whole(files[-1], encoded(figure, kind, page.dpi))
        if any("constrained_layout not applied" in str(warning.message) for warning in said):
            logger.warning(
                "%s: its letters leave no room for what they stand at; take smaller ones (font_size, --font-size) or a "
                "larger page (width and height, --width and --height)",
                name,
            )
    return files
