"""All figures, the ablations and where fragility is real in one go, and one summary of what agrees with the paper."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from bayes_influence.experiments.papers.fragility.ablation import AblationStudy, reproduce_ablation
from bayes_influence.experiments.papers.fragility.ablation_images import ImageAblationStudy, reproduce_image_ablation
from bayes_influence.experiments.papers.fragility.all_layers import reproduce_all_layers
from bayes_influence.experiments.papers.fragility.choices import MODES
from bayes_influence.experiments.papers.fragility.curves import CurveStudy, reproduce_curves
from bayes_influence.experiments.papers.fragility.grid_cells import AllLayersStudy
from bayes_influence.experiments.papers.fragility.image_settings import ImageStudy
from bayes_influence.experiments.papers.fragility.images import reproduce_images
from bayes_influence.experiments.papers.fragility.iris import reproduce_figure
from bayes_influence.experiments.papers.fragility.recipes import RecipeStudy
from bayes_influence.experiments.papers.fragility.settings import SCALES, FragilityStudy
from bayes_influence.experiments.papers.fragility.training_recipe import reproduce_recipes
from bayes_influence.experiments.papers.study import PaperStudy, Reproduced
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.store.runner import FailedCellsError
from bayes_influence.experiments.store.settings import Settings

SUMMARY = "summary.txt"
"""The sentences of all studies, each under its command."""

WITHOUT_MODE = ("ablation", "ablation-images", "all-layers", "training-recipe")
"""Studies that are the same in either mode, whose commands have no such option."""

Part = Callable[[Path, "int | None", bool], Reproduced]


@dataclass(frozen=True)
class WholeStudy(Settings):
    """Everything of Epifano et al.

    Attributes:
        mode: "corrected" or "as-published"; the ablations go from the second to the first in either.
        scale: "quick", "medium" or "full".
        seed: The first seed.
        test_example: On Iris; the one with the largest leave-one-out loss when not given.
        data_folder: Where image sets are kept.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    mode: str = "corrected"
    scale: str = "medium"
    seed: int = 0
    test_example: int | None = None
    data_folder: str | None = None

    def __post_init__(self) -> None:
        self.check_known(mode=MODES, scale=SCALES)
        FragilityStudy(seed=self.seed, test_example=self.test_example)

    def parts(self) -> dict[str, tuple[str, Part]]:
        """Every study by name, with the subfolder that it goes into and what runs it."""
        iris: dict[str, Any] = {"scale": self.scale, "seed": self.seed, "test_example": self.test_example}
        own = iris | {"mode": self.mode}
        sizes = FragilityStudy(**own)
        images = ImageStudy(mode=self.mode, scale=self.scale, seed=self.seed, data_folder=self.data_folder)
        curves = CurveStudy(**own, data_folder=self.data_folder)
        ablation = AblationStudy(**iris, removals=40)
        on_images = ImageAblationStudy(scale=self.scale, seed=self.seed, data_folder=self.data_folder)
        recipes = RecipeStudy(scale=self.scale, seed=self.seed, data_folder=self.data_folder)
        return {
            "fig1": ("iris", partial(_run, partial(reproduce_figure, "fig1"), sizes)),
            "fig3": ("iris", partial(_run, partial(reproduce_figure, "fig3"), sizes)),
            "fig2": ("images", partial(_run, reproduce_images, images)),
            "fig4": ("curves", partial(_run, partial(reproduce_curves, "fig4"), curves)),
            "fig5": ("curves", partial(_run, partial(reproduce_curves, "fig5"), curves)),
            "ablation": ("ablation", partial(_run, reproduce_ablation, ablation)),
            "ablation-images": ("ablation-images", partial(_run, reproduce_image_ablation, on_images)),
            "all-layers": ("all-layers", partial(_run, reproduce_all_layers, AllLayersStudy(**iris))),
            "training-recipe": ("training-recipe", partial(_run, reproduce_recipes, recipes)),
        }


def _run(
    run: Callable[..., Reproduced], settings: Settings, out: Path, n_jobs: int | None, progress: bool
) -> Reproduced:
    return run(settings, out, n_jobs, progress)


def reproduce_everything(
    study: WholeStudy, out: str | Path, n_jobs: int | None = None, progress: bool = True
) -> Reproduced:
    """Runs every study in a subfolder and writes `summary.txt`; what fails is noted, and the others go on.

    Args:
        study: Mode and scale.
        out: The result folder.
        n_jobs: Cells at once; as many as there are cores, when not given.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If the folder belongs to another mode or scale.
        FailedCellsError: If a study failed, after all others were done; it names the studies.
    """
    config = {name: value for name, value in study.to_config().items() if name != "data_folder"}
    folder = StudyFolder(out, {"study": "fragility, everything", **config})
    rows: list[dict[str, str]] = []
    figures: list[Path] = []
    failures: dict[str, str] = {}
    parts = study.parts()
    for name, (where, run) in parts.items():
        mode = "" if name in WITHOUT_MODE else f" --mode {study.mode}"
        command = f"bayes-influence reproduce {name}{mode} --scale {study.scale}"
        try:
            found = run(folder.path / where, n_jobs, progress)
        except (FailedCellsError, OSError) as error:
            failures[name] = traceback.format_exc()
            rows.append({"study": name, "command": command, "finding": f"failed: {error}"})
            continue
        figures.extend(found.figures[:1])
        rows.extend({"study": name, "command": command, "finding": sentence} for sentence in found.findings)
    table = pd.DataFrame(rows)
    folder.write_table("summary", table)
    folder.write_file(SUMMARY, written_summary(table).encode())
    if failures:
        raise FailedCellsError(failures, len(parts), folder)
    shown = table.groupby("study", sort=False).size().rename("findings").reset_index()
    return Reproduced(folder.path, shown, tuple(figures), tuple(table["finding"]))


def written_summary(table: pd.DataFrame) -> str:
    """The findings under the commands that they come from.

    Args:
        table: One row per finding: study, command, finding.
    """
    parts = []
    for command, rows in table.groupby("command", sort=False):
        parts.append("\n".join([str(command), *(f"- {finding}" for finding in rows["finding"])]))
    return "\n\n".join(parts) + "\n"


STUDIES = (
    PaperStudy(
        "all",
        "All figures of Epifano et al., the ablations of its code's choices, the grid in all layers; with one summary",
        reproduce_everything,
        WholeStudy(),
        folder="runs/fragility",
    ),
)
