"""Figures 4 and 5 of Epifano et al.: effects against their rank, and the test loss while retraining."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bayes_influence.evaluation.agreement import agreement
from bayes_influence.experiments.papers.fragility.choices import choices_of
from bayes_influence.experiments.papers.fragility.curve_cells import CurveCell, measure_curves
from bayes_influence.experiments.papers.fragility.image_settings import NETWORKS, ImageCell
from bayes_influence.experiments.papers.fragility.settings import FragilityStudy
from bayes_influence.experiments.papers.study import PaperStudy, Reproduced, publish
from bayes_influence.experiments.store.cells import cell_key
from bayes_influence.experiments.store.drawings import Drawing
from bayes_influence.experiments.store.figures import figure_style
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.store.runner import run_cells

IMAGE_SCALES: dict[str, tuple[str, int, int | None]] = {
    "quick": ("digits FC-32", 5, None),
    "medium": ("MNIST FC-128", 6, 10_000),
    "full": ("MNIST FC-128", 30, None),
}
"""Image network, passes of its training, and training images (all when None) of every scale."""

IMAGE_SETTINGS = ("epochs", "train_examples", "removals")
"""What a result folder says of its image network."""

SHOWN_METRICS = ("spearman", "pearson", "slope", "top_k_overlap", "miss_relation")
"""What stands in a panel of figure 4: the metrics that see a miss-relation beside the one that does not."""

DRAWN_SCHEME = "weight-decay"
"""Of figure 4, in every setting that has it; elsewhere all are drawn."""


@dataclass(frozen=True)
class CurveStudy(FragilityStudy):
    """Figures 4 and 5: Iris at depth 1 and width 5, and a small network on images.

    Attributes:
        schemes: Some of the published ones, `DEFAULT_SCHEMES`.
        network: The image network, a key of `NETWORKS` in `image_settings`; "none" for Iris alone; the scale's when
            not given.
        image_epochs: Passes of its training; the scale's when not given.
        train_examples: The first so many training images; the scale's when not given.
        shown: Removals whose refits are watched.
        data_folder: Where image sets are kept.
    """

    network: str | None = None
    image_epochs: int | None = None
    train_examples: int | None = None
    shown: int = 5
    data_folder: str | None = None

    ONLY_DEFAULT_SCHEMES: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_known(network=("none", *NETWORKS))
        self.check_at_least(image_epochs=1, train_examples=1, shown=1)

    def cells(self) -> dict[str, CurveCell]:
        """One for Iris, and one for the image network."""
        iris = replace(self.networks(), repeats=1)
        found = {"iris": CurveCell("iris", self.mode, self.shown, iris=iris)}
        name, epochs, examples = IMAGE_SCALES[self.scale]
        name = self.network or name
        if name == "none":
            return found
        removals = self.removals or choices_of("corrected").points
        own = (self.image_epochs or epochs, iris.refits.epochs, self.train_examples or examples)
        image = ImageCell(NETWORKS[name], self.seed, self.mode, removals, *own)
        return found | {cell_key(network=name.replace(" ", "_")): CurveCell(name, self.mode, self.shown, image=image)}

    def configuration(self, study: str = "fragility curves") -> dict[str, Any]:
        """What a result folder belongs to; the curves of all schemes are in one cell."""
        images = [
            {"network": cell.name} | {name: getattr(cell.image, name) for name in IMAGE_SETTINGS}
            for cell in self.cells().values()
            if cell.image is not None
        ]
        own = {"schemes": self.schemes, "images": images, "shown": self.shown, "repeats": 1}
        return super().configuration(study) | own


def reproduce_curves(
    name: str, study: CurveStudy, out: str | Path, n_jobs: int | None = None, progress: bool = True
) -> Reproduced:
    """Runs both settings and draws figure 4 or 5, which share their cells.

    Args:
        name: "fig4" or "fig5".
        study: Mode and settings.
        out: The result folder.
        n_jobs: Cells at once; as many as there are cores, when not given.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If the folder belongs to another study or mode.
        FailedCellsError: If a cell failed, a missing data set included, after the other was stored.
    """
    folder = StudyFolder(out, study.configuration())
    resolved = study.networks().resolved(folder, progress=progress)
    cells = replace(study, test_example=resolved.test_example).cells()
    compute = partial(measure_curves, out=folder.path, data_folder=study.data_folder)
    run_cells(cells, compute, folder, n_jobs=n_jobs, progress=progress)
    tables = {table: folder.table(table, list(cells)) for table in ("differences", "curves", "ends")}
    if name == "fig4":
        shown = rank_metrics(tables["differences"])
        drawing, sentences = Drawing(rank_figure, (tables["differences"], shown)), rank_findings(shown)
    else:
        shown = curve_metrics(tables["curves"], tables["ends"])
        drawing, sentences = Drawing(curves_figure, (tables["curves"], tables["ends"])), curve_findings(shown)
    folder.write_table(f"{name}-metrics", shown)
    return publish(folder, name, drawing, sentences, shown)


def rank_metrics(differences: pd.DataFrame) -> pd.DataFrame:
    """Agreement of estimates with refits, one row per setting and scheme.

    Args:
        differences: One row per setting, scheme and removed example.
    """
    rows = []
    for (setting, scheme), points in differences.groupby(["setting", "scheme"], sort=False):
        compared = agreement(points["estimated"].to_numpy(), points["true"].to_numpy())
        rows.append(
            {"setting": setting, "scheme": scheme, "n": compared.n}
            | {name: getattr(compared, name) for name in SHOWN_METRICS}
        )
    return pd.DataFrame(rows)


def rank_figure(differences: pd.DataFrame, metrics: pd.DataFrame) -> Figure:
    """One panel per setting: estimated and true effect against the rank of the estimate, the paper's figure 4."""
    known = differences["setting"].isin(differences.loc[differences["scheme"] == DRAWN_SCHEME, "setting"])
    panels = list(
        differences[~known | (differences["scheme"] == DRAWN_SCHEME)].groupby(["setting", "scheme"], sort=False)
    )
    with figure_style(10):
        figure = Figure(figsize=(5.2 * len(panels), 4), layout="constrained")
        for axes, ((setting, scheme), points) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            ordered = points.sort_values("estimated", ascending=False)
            ranks = np.arange(1, len(ordered) + 1)
            axes.plot(ranks, ordered["true"], "o", color="tab:blue", label="true (retraining)")
            axes.plot(ranks, ordered["estimated"], "x", color="tab:orange", label="estimated")
            row = metrics[(metrics["setting"] == setting) & (metrics["scheme"] == scheme)].iloc[0]
            said = f"Spearman {row['spearman']:.2f}, Pearson {row['pearson']:.2f}, slope {row['slope']:.2f}"
            axes.set_title(f"{setting}, {scheme}\n{said}, top-k overlap {row['top_k_overlap']:.2f}", fontsize=9)
            axes.axhline(0, color="lightgray", linewidth=0.8, zorder=0)
            axes.set_xlabel("rank of the estimate")
            axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
            axes.legend(frameon=False)
        return figure


def rank_findings(metrics: pd.DataFrame) -> list[str]:
    """Whether magnitudes agree where ranks do, one sentence per setting and scheme."""
    return [
        f"{row['setting']}, {row['scheme']}, {row['n']} removals: Spearman {row['spearman']:.3f}, Pearson "
        f"{row['pearson']:.3f}, slope of true on estimated {row['slope']:.3g}, top-k overlap "
        f"{row['top_k_overlap']:.2f}: {'a' if row['miss_relation'] else 'no'} miss-relation."
        for _, row in metrics.iterrows()
    ]


def curve_metrics(curves: pd.DataFrame, ends: pd.DataFrame) -> pd.DataFrame:
    """How refits behave, one row per setting and scheme.

    Args:
        curves: One row per setting, scheme, refit and step.
        ends: One row per setting, scheme and refit.

    Returns:
        `drift` (control's last loss less the fit's), `effect` (median |last loss less the control's|), `rise` (largest
        loss of any refit over its own first), `error` (largest distance of a refit's last loss from the exact answer).
    """
    rows = []
    for (setting, scheme), part in curves.groupby(["setting", "scheme"], sort=False):
        table = part.pivot_table(index="refit", columns="epoch", values="loss").to_numpy()
        own = ends[(ends["setting"] == setting) & (ends["scheme"] == scheme)].sort_values("refit")
        exact = own["exact"].to_numpy()
        rows.append(
            {
                "setting": setting,
                "scheme": scheme,
                "drift": table[0, -1] - own["before"].iloc[0],
                "effect": float(np.median(np.abs(table[1:, -1] - table[0, -1]))),
                "rise": float((table - table[:, :1]).max()),
                "error": float(np.abs(table[:, -1] - exact).max()),
            }
        )
    return pd.DataFrame(rows)


def curve_findings(metrics: pd.DataFrame) -> list[str]:
    """How far the control moves beside the effects, and how far the refits end from the exact answer."""
    sentences = []
    for _, row in metrics.iterrows():
        text = (
            f"{row['setting']}, {row['scheme']}: the control, which removes nothing, moves the test loss by "
            f"{row['drift']:.2g}; a removal moves it by {row['effect']:.2g} against the control (median)"
        )
        exact = "there is no exact answer" if np.isnan(row["error"]) else f"refits end {row['error']:.2g} from it"
        sentences.append(f"{text}; {exact}.")
    return sentences


def curves_figure(curves: pd.DataFrame, ends: pd.DataFrame) -> Figure:
    """One panel per setting and scheme: the test loss at every step, the control in black, exact answers dotted."""
    panels = list(curves.groupby(["setting", "scheme"], sort=False))
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    with figure_style(9):
        figure = Figure(figsize=(3.8 * columns, 2.9 * lines), layout="constrained")
        grid = figure.subplots(lines, columns, squeeze=False).ravel()
        for axes, ((setting, scheme), part) in zip(grid, panels, strict=False):
            own = ends[(ends["setting"] == setting) & (ends["scheme"] == scheme)].set_index("refit")
            _draw_curves(axes, part, own)
            axes.set_title(f"{setting}, {scheme}", fontsize=9)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        figure.supxlabel("step of retraining", fontsize=9)
        figure.supylabel("test loss", fontsize=9)
        return figure


def _draw_curves(axes: Axes, curves: pd.DataFrame, ends: pd.DataFrame) -> None:
    for refit, exact in zip(ends.index, ends["exact"], strict=True):
        part, control = curves[curves["refit"] == refit], refit == 0
        colour = "black" if control else f"C{refit - 1}"
        axes.plot(part["epoch"], part["loss"], color=colour, linewidth=1.6 if control else 0.9, zorder=3 - control)
        if not np.isnan(exact):
            axes.axhline(exact, color=colour, linestyle=":", linewidth=0.8, zorder=1)
    axes.ticklabel_format(style="sci", scilimits=(-2, 4))
    axes.locator_params(nbins=5)


STUDIES = tuple(
    PaperStudy(
        name,
        shows,
        partial(reproduce_curves, name),
        CurveStudy(),
        fixed=("repeats", "only"),
        folder="runs/fragility-curves",
    )
    for name, shows in (
        ("fig4", "fig4 of Epifano et al.: estimated and true effects against rank, Iris and a small image network"),
        ("fig5", "fig5 of Epifano et al.: the test loss while retraining, with the control and the exact answer"),
    )
)
