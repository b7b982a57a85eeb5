"""What a paper's study is: a name, what it shows, its settings, and the one function that does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd

from bayes_influence.experiments.store.drawings import Drawing
from bayes_influence.experiments.store.figures import save_figure
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.store.settings import Settings


@dataclass(frozen=True, eq=False)
class Reproduced:
    """What a study of a paper came to.

    Attributes:
        folder: Where everything is stored.
        table: What is printed of it.
        figures: The files of its figures.
        findings: What agrees with the paper and what does not, in sentences.
    """

    folder: Path
    table: pd.DataFrame
    figures: tuple[Path, ...] = ()
    findings: tuple[str, ...] = ()


def publish(
    folder: StudyFolder, name: str, drawing: Drawing, findings: Sequence[str], table: pd.DataFrame
) -> Reproduced:
    """Writes `<name>.png`, `<name>.pdf` and `<name>-summary.txt`, a finding a line, and returns what the study came to.

    Args:
        folder: Of the study.
        name: Of what was drawn.
        drawing: Its figure, in the paper's layout.
        findings: What agrees with the paper and what does not.
        table: What is printed of it.
    """
    save_figure(drawing, folder, name)
    folder.write_file(f"{name}-summary.txt", "\n".join([*findings, ""]).encode())
    return Reproduced(folder.path, table, (folder.path / f"{name}.png", folder.path / f"{name}.pdf"), tuple(findings))


@dataclass(frozen=True, eq=False)
class PaperStudy:
    """A study of a paper that can be done again.

    Attributes:
        name: What it is asked for by.
        shows: One sentence: the paper, and what is measured.
        run: Does it, from settings, a result folder, jobs at once, and whether to show progress.
        settings: As they are when nothing is said; every field of them is an option.
        fixed: Fields that are no options, because the study has values of its own for them.
        folder: Where results go when nothing is said. Studies that share their cells share it.
    """

    name: str
    shows: str
    run: Callable[[Any, str | Path, int | None, bool], Reproduced]
    settings: Settings
    fixed: tuple[str, ...] = ()
    folder: str = field(default="runs")

    @property
    def options(self) -> dict[str, Any]:
        """The settings that can be said, with what they are when nothing is."""
        return {
            one.name: getattr(self.settings, one.name) for one in fields(self.settings) if one.name not in self.fixed
        }
