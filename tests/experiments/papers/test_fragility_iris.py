import dataclasses

import pandas as pd
import pytest

from bayes_influence.experiments.comparison.study import Study
from bayes_influence.experiments.papers import fragility_iris as fragility
from bayes_influence.experiments.papers.fragility_iris import SIZES, reproduce_figure


def test_the_grid_is_the_paper_s():
    assert len(SIZES) == 14
    assert {depth for depth, width in SIZES if width == 5} == set(range(1, 9))
    assert {width for depth, width in SIZES if depth == 1} == {5, 8, 14, 20, 30, 40, 50}


def test_both_figures_come_from_the_same_cells(tmp_path, monkeypatch):
    monkeypatch.setattr(fragility, "SIZES", ((1, 5), (2, 5), (1, 8)))
    study = Study(repeats=2, removals=4, epochs=60, schemes=("weight-decay", "none"), refit_epochs=20, test_example=83)
    found = reproduce_figure("fig1", study, tmp_path / "grid", 1, progress=False)
    assert len(pd.read_csv(tmp_path / "grid" / "summary.csv")) == 6
    assert set(found.table["between"]) == {"schemes", "depths", "widths"}
    cells = sorted((tmp_path / "grid" / "cells").iterdir())
    stamps = [path.stat().st_mtime_ns for path in cells]
    reproduce_figure("fig3", study, tmp_path / "grid", 1, progress=False)
    assert [path.stat().st_mtime_ns for path in cells] == stamps
    for name in ("fig1.png", "fig3.pdf", "fig1-anova.csv", "fig3-anova.csv", "results.csv"):
        assert (tmp_path / "grid" / name).exists()
    with pytest.raises(ValueError, match="belongs to another configuration: seed is 0 there and 5 here"):
        reproduce_figure("fig1", dataclasses.replace(study, seed=5), tmp_path / "grid", progress=False)


def test_the_spectrum_of_a_network_is_drawn_once_for_all_its_estimators(compared):
    drawn = fragility.FIGURES["fig3"].series(compared.summary)
    assert drawn["scheme"].tolist() == ["none", "weight-decay", "swa", "weight-decay+swa", "bnn"]
    assert len(fragility.FIGURES["fig3"].series(compared.results)) == 5 * 2
    assert len(fragility.FIGURES["fig1"].series(compared.summary)) == 6
