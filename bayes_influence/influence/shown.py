"""`Shown`: the training examples that shaped a prediction, as text, as a figure, and as a page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from html import escape
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from bayes_influence.data.appearance import Appearance
from bayes_influence.data.files import checked_place, write_whole

KINDS = {"helpful": ("tab:blue", "▲"), "harmful": ("tab:orange", "▼")}
"""Both ends of a ranking by removal effect, most positive and most negative: a colour and a sign of their own each."""


def both_ends(removal: Float[Tensor, " n"], k: int) -> tuple[Int[Tensor, " first"], Int[Tensor, " last"]]:
    """Positions of the k most positive and of the k most negative effects, the strongest first.

    Where these would meet, every position once, at the end of its sign as far as k at each end allow.

    Args:
        removal: Removal effects.
        k: How many at each end.
    """
    order, count = torch.argsort(removal, descending=True, stable=True), len(removal)
    first = last = k
    if 2 * k > count:
        first = min(max(int((removal > 0).sum()), count - k), k)
        last = count - first
    return order[:first], order.flip(0)[:last]


FIGURES = (".png", ".pdf", ".svg")


@dataclass(frozen=True, eq=False)
class ShownExample:
    """A training example in a ranking.

    Attributes:
        id: In its dataset.
        removal: Predicted change of the measurement when it is removed.
        appearance: What it looks like.
    """

    id: int
    removal: float
    appearance: Appearance


@dataclass(frozen=True, eq=False)
class ShownTest:
    """A test example with both ends of its ranking.

    Attributes:
        id: In its dataset.
        appearance: What it looks like.
        helpful: Training examples whose removal raises the measurement most, first the largest.
        harmful: Those whose removal lowers it most.
    """

    id: int
    appearance: Appearance
    helpful: list[ShownExample]
    harmful: list[ShownExample]


@dataclass(frozen=True, eq=False)
class Shown:
    """The most helpful and the most harmful training examples of some test examples.

    Prints as text, shows as a page in a notebook, and is written by its file's suffix.

    Attributes:
        tests: One after the other.
        measurement: What the removal changes, such as "loss".
        stands_on: What the estimate stands on, in a line.
    """

    tests: list[ShownTest]
    measurement: str
    stands_on: str

    def __repr__(self) -> str:
        return f"Shown({len(self.tests)} test examples)"

    def __str__(self) -> str:
        lines = [f"change of the {self.measurement} when a training example is removed ({self.stands_on})"]
        for test in self.tests:
            lines += ["", f"test {test.id}: {_words(test.appearance)}"]
            for kind, (_, sign) in KINDS.items():
                lines.append(f"  {sign} most {kind}")
                lines += [
                    f"    {one.id:>8}  {one.removal:+.3e}  {_words(one.appearance)}" for one in getattr(test, kind)
                ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return "".join(
            [f"<p>Change of the {escape(self.measurement)} when a training example is removed.</p>"]
            + [_section(test) for test in self.tests]
            + [f"<p>{escape(self.stands_on)}</p>"]
        )

    def html(self) -> str:
        """One page that needs no other file."""
        return (
            '<!doctype html><html lang="en"><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width"><title>Influence</title>'
            f"<style>{STYLE}</style><main><h1>Which training examples shaped these predictions</h1>"
            f"{self._repr_html_()}</main></html>"
        )

    def figure(self) -> Figure:
        """Every test example on a row of its own: itself, then the most helpful, then the most harmful ones."""
        count = max(len(test.helpful) + len(test.harmful) for test in self.tests)
        pictured = all(test.appearance.picture is not None for test in self.tests)
        height = 1.9 if pictured else 0.5 + 0.22 * count
        with mpl.rc_context({"font.size": 8}):
            figure = Figure(
                figsize=(1.3 * (count + 1) if pictured else 9, height * len(self.tests)), layout="constrained"
            )
            parts = figure.subfigures(len(self.tests), 1, squeeze=False)[:, 0]
            for part, test in zip(parts, self.tests, strict=True):
                if pictured:
                    _draw_pictures(part.subplots(1, count + 1), test, self.measurement)
                else:
                    _draw_bars(part.subplots(), test, self.measurement)
        return figure

    def save(self, path: str | Path) -> None:
        """Writes a page (.html), a figure (.png, .pdf, .svg) or a text (.txt), whole.

        Raises:
            ValueError: If the suffix is another, or something stands there that is no file.
            TypeError: If this is no path.
            OSError: If it cannot be written.
        """
        target = checked_place(path, "shown examples")
        kind = target.suffix.lower()
        if kind in FIGURES:
            buffer = io.BytesIO()
            self.figure().savefig(buffer, format=kind[1:], dpi=150)
            content = buffer.getvalue()
        elif kind in (".html", ".txt"):
            content = (self.html() if kind == ".html" else f"{self}\n").encode()
        else:
            raise ValueError(f"{target.name} must end in .html, .txt or one of {', '.join(FIGURES)}, got {kind!r}")
        write_whole(target, content)


STYLE = """
:root{color-scheme:light dark;font:1rem/1.5 system-ui,sans-serif}main{max-width:70rem;margin:auto;padding:1rem}
.ends{display:flex;flex-wrap:wrap;gap:1rem}.ends section{flex:1 1 20rem}figure{display:inline-block;margin:.25rem}
figure img{width:6rem;image-rendering:pixelated}ol{padding-left:1.5rem}
"""
"""A page's own style: light and dark, one column on narrow screens."""


def draw_picture(axes: Axes, image: Float[Tensor, "channels height width"]) -> None:
    """Draws an image without ticks, its values stretched to 0..1."""
    axes.imshow(_stretched(image), cmap="gray_r")
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_color("lightgray")


def _stretched(image: Float[Tensor, "channels height width"]) -> np.ndarray:
    numbers = image.detach().cpu().to(torch.float32)
    stretched = (numbers - numbers.min()) / (numbers.max() - numbers.min()).clamp(min=torch.finfo(torch.float32).tiny)
    channels_last = stretched.movedim(0, -1).numpy()
    return channels_last[..., 0] if channels_last.shape[-1] == 1 else channels_last


def _draw_pictures(row: np.ndarray, test: ShownTest, measurement: str) -> None:
    for axes in row:
        axes.set_axis_off()
    _draw_one(
        row[0], test.appearance, f"test {test.id}\n{test.appearance.label}", f"change of\n{measurement}:", "black"
    )
    ends = [(one, *KINDS[kind]) for kind in KINDS for one in getattr(test, kind)]
    for axes, (one, colour, sign) in zip(row[1:], ends, strict=False):
        _draw_one(axes, one.appearance, f"{sign} {one.id}\n{one.appearance.label}", f"{one.removal:+.1e}", colour)


def _draw_one(axes: Axes, appearance: Appearance, title: str, label: str, colour: str) -> None:
    axes.set_axis_on()
    if appearance.picture is not None:
        draw_picture(axes, appearance.picture)
    axes.set_title(title, color=colour, fontsize=8, parse_math=False)
    axes.set_xlabel(label)


def _draw_bars(axes: Axes, test: ShownTest, measurement: str) -> None:
    ends = [(one, *KINDS[kind]) for kind in KINDS for one in getattr(test, kind)]
    for place, (one, colour, sign) in enumerate(ends):
        axes.barh(-place, one.removal, color=colour)
        axes.annotate(
            f"{sign} {one.id}  {_words(one.appearance)}"[:120],
            (1.01, -place),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=7,
            parse_math=False,
        )
    axes.axvline(0, color="gray", linewidth=0.8)
    axes.set_yticks([])
    axes.set_title(f"test {test.id}: {_words(test.appearance)}"[:110], loc="left", fontsize=8, parse_math=False)
    axes.set_xlabel(f"change of the {measurement} when removed")


def _words(appearance: Appearance) -> str:
    return ": ".join(part for part in (appearance.label, appearance.text) if part)


def _section(test: ShownTest) -> str:
    ends = "".join(
        f"<section><h3>{sign} most {kind}</h3><ol>{''.join(map(_item, getattr(test, kind)))}</ol></section>"
        for kind, (_, sign) in KINDS.items()
    )
    return f'<h2>test {test.id}</h2>{_html(test.appearance)}<div class="ends">{ends}</div>'


def _item(one: ShownExample) -> str:
    return f"<li>id {one.id}: {one.removal:+.3e} {_html(one.appearance)}</li>"


def _html(appearance: Appearance) -> str:
    if appearance.picture is None:
        return f"<span>{escape(_words(appearance))}</span>"
    label = escape(appearance.label)
    image = f'<img alt="{label}" src="{picture_url(appearance.picture)}">'
    return f"<figure>{image}<figcaption>{label}</figcaption></figure>"


def picture_url(image: Float[Tensor, "channels height width"]) -> str:
    """An image as a page holds it: a PNG, its values stretched to 0..1, within a `data:` address."""
    buffer = io.BytesIO()
    mpl.image.imsave(buffer, _stretched(image), cmap="gray_r", format="png")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
