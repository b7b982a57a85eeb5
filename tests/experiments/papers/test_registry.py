from pathlib import Path

import pandas as pd
import pytest

from bayes_influence.experiments.comparison.study import Study
from bayes_influence.experiments.papers import registry
from bayes_influence.experiments.papers.registry import FILES, paper_studies, reproduce
from bayes_influence.experiments.papers.study import PaperStudy, Reproduced


@pytest.fixture
def recorded(monkeypatch):
    """A registry of one study that says what it was asked for."""
    asked = []

    def run(study, out, n_jobs, progress):
        asked.append((study, out, n_jobs, progress))
        return Reproduced(Path(out), pd.DataFrame())

    study = PaperStudy("mine", "A paper: a number.", run, Study(repeats=3), fixed=("depth",), folder="runs/mine")
    monkeypatch.setattr(registry, "paper_studies", lambda: {"mine": study})
    return asked


def test_every_file_of_the_registry_has_studies_with_names_of_their_own():
    studies = paper_studies()
    assert list(studies)[:2] == ["fig1", "fig3"]
    assert all(name == study.name and study.shows for name, study in studies.items())
    assert all(study.settings.descriptions()[option] for study in studies.values() for option in study.options)


def test_two_studies_of_one_name_are_refused(monkeypatch):
    monkeypatch.setattr(registry, "FILES", (*FILES, *FILES))
    with pytest.raises(ValueError, match="two studies are called 'fig1'"):
        paper_studies()


def test_a_study_runs_with_its_settings_but_for_the_options_that_are_said(recorded):
    reproduce("mine", {"width": 8}, n_jobs=2, progress=False)
    reproduce("mine", out="elsewhere")
    assert recorded == [
        (Study(repeats=3, width=8), "runs/mine", 2, False),
        (Study(repeats=3), "elsewhere", None, True),
    ]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fig2", {}, "unknown study 'fig2'; known: mine"),
        ("mine", {"depth": 2}, "mine has no option 'depth'; it has dataset, target, "),
        ("mine", {"repeats": 0}, "repeats must be at least 1, got 0"),
    ],
)
def test_what_does_not_apply_is_refused(recorded, name, options, message):
    with pytest.raises(ValueError, match=message):
        reproduce(name, options)
    assert recorded == []


def test_a_study_runs_on_the_backend_that_is_said(recorded):
    reproduce("mine", backend="threading")
    assert len(recorded) == 1
    with pytest.raises(ValueError, match="unknown backend 'thread'; known: loky"):
        reproduce("mine", backend="thread")
    assert len(recorded) == 1
