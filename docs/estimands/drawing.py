"""What the pictures of the pages in this folder have in common: panels, and an estimate against the truth."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import bayes_influence as bi


def scatter(axes: Axes, estimate: Tensor, truth: Tensor, title: str, colour: str = "tab:blue") -> None:
    """Estimate against truth with the diagonal; Pearson correlation and slope (of truth on estimate) printed too."""
    x, y = estimate.detach().flatten().numpy(), truth.detach().flatten().numpy()
    found = bi.agreement(x, y)
    ends = [min(x.min(), y.min()), max(x.max(), y.max())]
    axes.plot(ends, ends, color="gray", linewidth=0.8)
    axes.plot(x, y, ".", color=colour, markersize=4, alpha=0.5)
    axes.set_title(f"{title}\nPearson {found.pearson:.3f}, slope {found.slope:.2f}", fontsize=9)
    axes.set_xlabel("estimate")
    print(f"  {title}: Pearson {found.pearson:.4f}, slope {found.slope:.3f}, largest true change {np.abs(y).max():.3g}")


def panels(count: int, width: float = 3.1, height: float = 3.0) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side."""
    figure = Figure(figsize=(width * count, height), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
        each.ticklabel_format(style="sci", scilimits=(-2, 3), axis="both")
    return figure, list(axes)
