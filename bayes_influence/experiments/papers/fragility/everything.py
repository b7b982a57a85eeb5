"""All figures, the ablations and where fragility is real in one go, and one summary of what agrees with the paper."""

from __future__ import annotations

import shlex
import traceback
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd

from bayes_influence.experiments.papers.fragility import (
    ablation,
    ablation_images,
    all_layers,
    curves,
    images,
    iris,
    refit_length,
    training_recipe,
)
from bayes_influence.experiments.papers.fragility.choices import MODES
from bayes_influence.experiments.papers.fragility.settings import SCALES, FragilityStudy
from bayes_influence.experiments.papers.study import PaperStudy, Reproduced
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.store.runner import FailedCellsError
from bayes_influence.experiments.store.settings import Settings

SUMMARY = "summary.txt"
"""The sentences of all studies, each under its command."""

PARTS: dict[str, tuple[PaperStudy, ...]] = {
    "iris": iris.STUDIES,
    "images": images.STUDIES,
    "curves": curves.STUDIES,
    "ablation": ablation.STUDIES,
    "ablation-images": ablation_images.STUDIES,
    "refit-length": refit_length.STUDIES,
    "all-layers": all_layers.STUDIES,
    "training-recipe": training_recipe.STUDIES,
}
"""Every study, by the subfolder that it goes into."""

ALWAYS_SAID = ("mode", "scale")
"""Options that a command of the summary has even where they are the study's own."""


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

    def of(self, study: PaperStudy) -> Settings:
        """The settings of one of the studies: its own, with what was said here and is an option of it."""
        said = {name: value for name, value in asdict(self).items() if name in study.options}
        return replace(study.settings, **said)


def command_of(study: PaperStudy, settings: Settings) -> str:
    """The command that does a study alone, with these settings.

    Args:
        study: Which.
        settings: Its own, or others.
    """
    words = ["bayes-influence", "reproduce", study.name]
    for name, own in study.options.items():
        value = getattr(settings, name)
        if value != own or name in ALWAYS_SAID:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)


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
    parts = [(where, one, study.of(one)) for where, studies in PARTS.items() for one in studies]
    for where, part, settings in parts:
        keys = {"study": part.name, "command": command_of(part, settings)}
        try:
            found = part.run(settings, folder.path / where, n_jobs, progress)
        except Exception as error:
            failures[part.name] = traceback.format_exc()
            rows.append(keys | {"finding": f"failed: {error}"})
            continue
        figures.extend(found.figures[:1])
        rows.extend(keys | {"finding": sentence} for sentence in found.findings)
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
        "All figures of Epifano et al., the ablations of its code's choices, and what goes beyond; with one summary",
        reproduce_everything,
        WholeStudy(),
        folder="runs/fragility",
    ),
)
