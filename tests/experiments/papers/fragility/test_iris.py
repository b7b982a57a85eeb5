import pandas as pd
import pytest

from bayes_influence.experiments.papers.fragility import iris, settings
from bayes_influence.experiments.papers.fragility.iris import FIGURES, reproduce_figure
from bayes_influence.experiments.papers.fragility.settings import FragilityStudy, Scale
from bayes_influence.experiments.store.folder import StudyFolder

SMALL = FragilityStudy(scale="quick", removals=4, schemes=("weight-decay", "none"), test_example=83)


@pytest.fixture(autouse=True)
def _three_small_networks(monkeypatch):
    monkeypatch.setitem(settings.SCALES, "quick", Scale(2, 40, 10, ((1, 5), (2, 5), (1, 8))))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["corrected", "as-published"])
def test_both_figures_come_from_the_same_cells(tmp_path, mode):
    study = FragilityStudy(**{**SMALL.to_config(), "mode": mode})
    found = reproduce_figure("fig1", study, tmp_path / "grid", 1, progress=False)
    assert len(pd.read_csv(tmp_path / "grid" / "summary.csv")) == 6
    assert set(found.table["between"]) == {"schemes", "depths", "widths"}
    cells = sorted((tmp_path / "grid" / "cells").iterdir())
    stamps = [path.stat().st_mtime_ns for path in cells]
    reproduce_figure("fig3", study, tmp_path / "grid", 1, progress=False)
    assert [path.stat().st_mtime_ns for path in cells] == stamps
    for name in ("fig1.png", "fig3.pdf", "fig1-anova.csv", "fig3-anova.csv", "fig1-pairs.csv", "results.csv"):
        assert (tmp_path / "grid" / name).exists()
    assert (tmp_path / "grid" / "fig1-summary.txt").read_text().splitlines() == list(found.findings)
    other = FragilityStudy(**{**study.to_config(), "seed": 5})
    with pytest.raises(ValueError, match="belongs to another configuration: seed is 0 there and 5 here"):
        reproduce_figure("fig1", other, tmp_path / "grid", progress=False)
    other_mode = "corrected" if mode == "as-published" else "as-published"
    other = FragilityStudy(**{**study.to_config(), "mode": other_mode})
    with pytest.raises(ValueError, match=f"belongs to another configuration: mode is {mode} there and {other_mode}"):
        reproduce_figure("fig1", other, tmp_path / "grid", progress=False)


def test_schemes_of_one_objective_share_a_cell_and_every_other_has_its_own():
    cells = iris.corrected_cells(FragilityStudy().networks(), ((1, 5), (2, 5)))
    groups = ("none_swa", "weight-decay_weight-decay+swa", "bnn")
    assert list(cells) == [f"depth={depth},width=5,schemes={group}" for group in groups for depth in (1, 2)]
    asked = FragilityStudy(schemes=("weight-decay+swa", "swag", "none", "weight-decay")).networks()
    assert [cell.schemes for cell in iris.corrected_cells(asked, ((1, 8),)).values()] == [
        ("weight-decay", "weight-decay+swa"),
        ("swag",),
        ("none",),
    ]


def test_schemes_are_added_to_a_folder_and_the_report_has_those_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(settings.SCALES, "quick", Scale(2, 20, 5, ((1, 5),)))
    for schemes in (("weight-decay",), ("none", "weight-decay"), ("none",)):
        study = FragilityStudy(**{**SMALL.to_config(), "schemes": schemes})
        grid = iris._corrected(study, StudyFolder(tmp_path, study.configuration()), 1, progress=False)
        assert tuple(grid.summary["scheme"]) == tuple(grid.results["scheme"].unique()) == schemes
    cells = sorted((tmp_path / "cells").iterdir())
    assert [path.stem for path in cells] == ["depth=1,width=5,schemes=none", "depth=1,width=5,schemes=weight-decay"]


@pytest.mark.parametrize(
    ("mode", "width", "said"),
    [
        ("corrected", 5, []),
        ("as-published", 6, ["Nothing to hold against the published: it has none of these sizes."]),
    ],
)
def test_one_size_of_one_scheme_is_drawn_though_nothing_can_be_compared(tmp_path, monkeypatch, mode, width, said):
    monkeypatch.setitem(settings.SCALES, "quick", Scale(2, 20, 5, ((1, width),)))
    study = FragilityStudy(**{**SMALL.to_config(), "mode": mode, "schemes": ("weight-decay",)})
    found = reproduce_figure("fig1", study, tmp_path / "grid", 1, progress=False)
    assert found.table.empty
    nothing = "No analysis of variance: one size of one scheme leaves nothing to compare."
    assert list(found.findings)[-1 - len(said) :] == [*said, nothing]
    assert (tmp_path / "grid" / "fig1.png").exists()
    assert (tmp_path / "grid" / "fig1-anova.csv").read_text().startswith("between,at,test")


def test_a_network_s_numbers_as_published_do_not_depend_on_its_company():
    cells = iris.published_cells(SMALL.networks(), ((1, 5), (2, 5)))
    assert len(cells) == 4
    one = iris.measure_as_published(cells["mode=as-published,depth=1,width=5,scheme=none"]).tables
    assert one["results"]["scheme"].unique().tolist() == ["none"]
    assert one["differences"].groupby("seed").size().tolist() == [4, 4]
    both = iris.Pipeline(SMALL.networks(), 4).measure(iris.AS_PUBLISHED.correcting("points")).results
    none = both[both["scheme"] == "none"]
    assert none["train_loss"].to_numpy() == pytest.approx(one["results"]["train_loss"].to_numpy(), rel=1e-4)


@pytest.mark.slow
def test_the_spectrum_of_a_network_is_drawn_once_for_all_its_estimators(compared):
    drawn = FIGURES["fig3"].series(compared.summary)
    assert drawn["scheme"].tolist() == ["none", "weight-decay", "swa", "weight-decay+swa", "bnn"]
    assert len(FIGURES["fig3"].series(compared.results)) == 5 * 2
    assert len(FIGURES["fig1"].series(compared.summary)) == 6
