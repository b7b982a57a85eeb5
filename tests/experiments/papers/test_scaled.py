import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest

from bayes_influence.curvature import cost
from bayes_influence.experiments.papers.registry import paper_studies
from bayes_influence.experiments.papers.scaled import QUICK, ScaledStudy, StudyScale, scaled_study
from bayes_influence.experiments.papers.study import Reproduced
from bayes_influence.experiments.store.cells import CellResult


@dataclass(frozen=True, kw_only=True)
class Scale(StudyScale):
    points: int


@dataclass(frozen=True)
class Counted(ScaledStudy):
    points: int | None = None
    slope: float = 1.0
    data_folder: str | None = None

    NAME: ClassVar[str] = "counted"
    SCALES: ClassVar[Any] = {"quick": Scale(repeats=2, points=3), "full": Scale(repeats=5, points=9)}
    FULL_MINUTES: ClassVar[float] = 30
    PARTS: ClassVar[tuple[str, ...]] = ("up", "down")


def test_what_is_said_goes_before_the_scale():
    assert Counted().size == Scale(repeats=2, points=3)
    assert Counted(scale="full", points=4).size == Scale(repeats=5, points=4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": "huge"}, "unknown scale 'huge'; known: quick, full"),
        ({"repeats": 0}, "repeats must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Counted(**settings)


def test_a_folder_belongs_to_the_numbers_and_not_to_the_seeds_or_where_data_are():
    assert Counted().configuration() == {"study": "counted", "points": 3, "slope": 1.0}
    same = Counted(scale="full", points=3, repeats=7, seed=2, data_folder="here")
    assert same.configuration() == Counted().configuration()
    assert Counted(slope=2.0).configuration() != Counted().configuration()


@pytest.mark.parametrize(
    ("settings", "missing", "jobs", "said"),
    [
        ({}, 10, 1, ["counted: 10 cells, 1 at a time of points=9, about 30 min"]),
        ({}, 4, 2, ["counted: 4 cells, 2 at a time of points=9, about 6 min"]),
        ({}, 1, 2, ["counted: 1 cells, 2 at a time of points=9, about 3 min"]),
        ({}, 0, 2, []),
        ({"repeats": 1}, 2, 1, ["counted: 2 cells, 1 at a time of points=9, about 6 min"]),
        ({"points": 4}, 10, 1, []),
        ({"scale": "quick"}, 4, 1, []),
    ],
)
def test_full_says_what_is_missing_and_what_it_takes_as_it_was_measured(settings, missing, jobs, said, caplog):
    with caplog.at_level("INFO", cost.__name__):
        Counted(**{"scale": "full"} | settings).announce(missing, jobs)
    assert caplog.messages == said


def test_the_page_has_the_minutes_of_every_study_of_its_papers():
    page = (Path(__file__).parents[3] / "docs" / "understanding_predictions.md").read_text()
    rows = re.findall(
        r"^\| `([a-z-]+)` \|[^|]*\| ([\d.]+) \|", page.partition("## What the full studies need")[2], re.M
    )
    studies = {name: study.settings for name, study in paper_studies().items()}
    papers = re.compile(r"papers\.(groups|understanding)\.")
    own = {name: one.FULL_MINUTES for name, one in studies.items() if papers.search(type(one).__module__)}
    assert {name: float(minutes) for name, minutes in rows} == own


def test_the_plan_is_told_before_any_cell_and_without_those_that_are_stored(tmp_path, caplog):
    seen = []

    def measure(cell):
        seen.append(list(caplog.messages))
        return CellResult(tables={"rows": pd.DataFrame({"value": [cell.seed]})})

    study = scaled_study(
        Counted(), "A paper: a number.", measure, lambda found: Reproduced(tmp_path, found.table("rows"))
    )
    with caplog.at_level("INFO", cost.__name__):
        study.run(Counted(points=9, repeats=1), tmp_path, 1, False)
        study.run(Counted(scale="full"), tmp_path, 1, False)
    first = "counted: 2 cells, 1 at a time of points=9, about 6 min"
    assert seen == [[first]] * 2 + [[first, "counted: 8 cells, 1 at a time of points=9, about 24 min"]] * 8


def test_every_part_and_seed_is_measured_once_and_seeds_are_added(drawing, tmp_path, caplog):
    measured = []

    def measure(cell):
        measured.append((cell.part, cell.seed))
        return CellResult(tables={"rows": pd.DataFrame({"part": [cell.part], "value": [cell.seed * cell.study.slope]})})

    def report(found):
        rows = found.table("rows")
        return found.published(drawing, ["a sentence"], found.written("last", rows.tail(1)))

    study = scaled_study(Counted(), "A paper: a number.", measure, report)
    assert (study.name, study.folder, set(study.options)) == (
        "counted",
        "runs/counted",
        {"scale", "repeats", "seed", "points", "slope", "data_folder"},
    )
    done = study.run(Counted(repeats=1), tmp_path, 1, False)
    assert measured == [("up", 0), ("down", 0)]
    assert not caplog.messages
    more = study.run(Counted(seed=1), tmp_path, 1, False)
    assert measured[2:] == [("up", 1), ("up", 2), ("down", 1), ("down", 2)]
    said = "holds cells that this run leaves out: part=down,seed=0, part=up,seed=0; --seed, --repeats and the like say"
    assert said in caplog.text
    assert done.findings == ("a sentence", QUICK)
    larger = study.run(Counted(points=4, repeats=1), tmp_path / "larger", 1, False)
    assert larger.findings == ("a sentence",)
    assert more.table["value"].tolist() == [2.0]
    assert pd.read_csv(tmp_path / "rows.csv")["value"].tolist() == [1.0, 2.0, 1.0, 2.0]
    assert (tmp_path / "counted.png").exists()
    assert (tmp_path / "cells" / "part=up,seed=0.safetensors").exists()
