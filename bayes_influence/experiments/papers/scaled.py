"""Studies in scales, a cell for each seed and part: their settings, and the one way in which they are done."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from bayes_influence.curvature.cost import announce
from bayes_influence.experiments.papers.study import PaperStudy, Reproduced, publish
from bayes_influence.experiments.store.cells import CellResult, cell_key
from bayes_influence.experiments.store.drawings import Drawing
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.store.runner import jobs_at_once, run_cells
from bayes_influence.experiments.store.settings import Settings

logger = logging.getLogger(__name__)

QUICK = "This is the scale quick, which shows that the study runs: its numbers are too few to be held against a paper."

UNSAID = ("scale", "repeats", "seed", "data_folder")
"""Settings that a folder does not depend on: seeds can be added to it, and where data are is no part of a result."""

NO_MINIMUM = "or refits have no minimum to reach"
"""Why a weight decay must be positive."""

HELD_BY_NOTHING = "or the PBRF is held by nothing"
"""Why a damping must be."""


@dataclass(frozen=True, kw_only=True)
class StudyScale:
    """How large a study is where nothing else is said.

    Attributes:
        repeats: Seeds.
    """

    repeats: int


@dataclass(frozen=True)
class ScaledStudy(Settings):
    """A study whose numbers a scale, a `StudyScale`, has where they are not said.

    A subclass has the numbers that can be said as fields of the scale's names, None where the scale's hold; a name, its
    scales, and in `FULL_MINUTES` what "full" takes as it stands, in minutes of a core that were measured.

    Attributes:
        scale: "quick" or "full": how large it is where the next options do not say.
        repeats: Seeds; the scale's when not given.
        seed: The first seed.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    scale: str = "quick"
    repeats: int | None = None
    seed: int = 0

    NAME: ClassVar[str]
    SCALES: ClassVar[Mapping[str, Any]]
    FULL_MINUTES: ClassVar[float]
    PARTS: ClassVar[tuple[str, ...]] = ("",)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_known(scale=self.SCALES)
        self.check_at_least(repeats=1, seed=0)

    @property
    def size(self) -> Any:
        """The scale, with what was said instead."""
        scale = self.SCALES[self.scale]
        said = {one.name: getattr(self, one.name, None) for one in fields(scale)}
        return replace(scale, **{name: value for name, value in said.items() if value is not None})

    @property
    def parts(self) -> Sequence[str]:
        """What has a cell of its own besides seeds."""
        return self.PARTS

    def configuration(self) -> dict[str, Any]:
        """What a result folder belongs to; seeds can be added."""
        own = self.to_config() | asdict(self.size)
        return {"study": self.NAME} | {name: value for name, value in own.items() if name not in UNSAID}

    def announce(self, missing: int, jobs: int) -> None:
        """Logs how many cells are missing, of which size, and what they take, where that was measured.

        Args:
            missing: Cells that are to be computed.
            jobs: At once.
        """
        full = type(self)(scale="full")
        if missing and replace(self.size, repeats=full.size.repeats) == full.size:
            said = ", ".join(f"{name}={value}" for name, value in asdict(full.size).items() if name != "repeats")
            minutes = self.FULL_MINUTES * missing / len(full.cells()) / min(jobs, missing)
            announce(f"{self.NAME}: {missing} cells, {jobs} at a time{said and ' of '}{said}", 60 * minutes)

    def fetch(self) -> None:
        """Brings the files of the data to where they are read, before cells are measured.

        Raises:
            FileNotFoundError: If one is missing and cannot be downloaded.
        """

    def cells(self) -> dict[str, ScaledCell]:
        """One for each part and seed."""
        seeds = range(self.seed, self.seed + self.size.repeats)
        every = [ScaledCell(self, seed, part) for part in self.parts for seed in seeds]
        return {cell.key: cell for cell in every}


@dataclass(frozen=True)
class ScaledCell:
    """What is measured at a time.

    Attributes:
        study: Settings.
        seed: Of everything that is random.
        part: One of the study's parts.
    """

    study: Any
    seed: int
    part: str = ""

    @property
    def key(self) -> str:
        """Its name in the folder."""
        return cell_key(**({"part": self.part} if self.part else {}), seed=self.seed)


@dataclass(frozen=True, eq=False)
class Measured:
    """What the cells of a study measured, in its folder.

    Attributes:
        study: Settings.
        folder: Of the study.
        keys: Of its cells.
    """

    study: Any
    folder: StudyFolder
    keys: tuple[str, ...]

    def table(self, name: str) -> pd.DataFrame:
        """A table of all cells, one below the other, which is written, too."""
        return self.written(name, self.folder.table(name, self.keys))

    def written(self, name: str, table: pd.DataFrame) -> pd.DataFrame:
        """The table, after it was written."""
        self.folder.write_table(name, table)
        return table

    def published(self, drawing: Drawing, findings: Sequence[str], shown: pd.DataFrame) -> Reproduced:
        """As `publish`, by the study's name."""
        quick = self.study.SCALES["quick"]
        smallest = replace(self.study.size, repeats=quick.repeats) == quick
        return publish(self.folder, self.study.NAME, drawing, [*findings, *[QUICK] * smallest], shown)


def scaled_study(
    settings: ScaledStudy,
    shows: str,
    measure: Callable[[ScaledCell], CellResult],
    report: Callable[[Measured], Reproduced],
) -> PaperStudy:
    """A study that measures its cells and reports on their tables; finished cells are kept, and seeds can be added.

    Args:
        settings: As they are when nothing is said.
        shows: One sentence: the paper, and what is measured.
        measure: One cell.
        report: Tables, figure and findings of all of them.
    """

    def run(study: ScaledStudy, out: str | Path, n_jobs: int | None, progress: bool) -> Reproduced:
        folder, cells = StudyFolder(out, study.configuration()), study.cells()
        others = sorted(set(folder.keys()) - set(cells))
        if others:
            logger.warning(
                "%s holds cells that this run leaves out: %s; --seed, --repeats and the like say which it takes",
                *(folder.path, ", ".join(others)),
            )
        missing = sum(not folder.cell_done(key) for key in cells)
        if missing:
            study.fetch()
        study.announce(missing, jobs_at_once(missing, n_jobs))
        run_cells(cells, measure, folder, n_jobs=n_jobs, progress=progress)
        return report(Measured(study, folder, tuple(cells)))

    return PaperStudy(settings.NAME, shows, run, settings, folder=f"runs/{settings.NAME}")
