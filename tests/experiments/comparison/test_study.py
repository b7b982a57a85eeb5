import dataclasses

import pytest

from bayes_influence.experiments.comparison.study import Study
from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.training.averaging import SWAG
from bayes_influence.training.schemes import SCHEMES


def test_cells_group_schemes_that_share_an_ensemble():
    cells = Study().cells()
    assert list(cells) == [
        "depth=1,width=5,schemes=none_weight-decay_swa_weight-decay+swa",
        "depth=1,width=5,schemes=bnn",
    ]
    assert [cell.schemes for cell in cells.values()] == [("none", "weight-decay", "swa", "weight-decay+swa"), ("bnn",)]


def test_a_grid_has_the_cells_of_every_size_once():
    cells = Study(schemes=("none", "bnn")).cells([(1, 5), (2, 5), (1, 5)])
    assert len(cells) == 4
    assert {cell.sizes for cell in cells.values()} == {(1, 5), (2, 5)}


def test_a_cell_has_the_numbers_of_its_own_schemes():
    study = Study(schemes=("none", "weight-decay", "bnn"), scheme_options={"weight_decay": 0.1, "prior": "fan-in"})
    first, second, third = study.cells().values()
    assert (first.schemes, first.scheme_options) == (("none",), {})
    assert (second.schemes, second.scheme_options) == (("weight-decay",), {"weight_decay": 0.1})
    assert (third.schemes, third.scheme_options) == (("bnn",), {"prior": "fan-in"})
    assert second.resolved_schemes()[0].weight_decay == 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schemes": ("bn",)}, "unknown scheme bn; known: none, weight-decay"),
        ({"schemes": ("none",), "scheme_options": {"prior": "fan-in"}}, "none: no option prior to choose; schemes"),
        ({"removals": 150}, r"removals must lie in 3\.\.149 \(iris has 149 training examples"),
        ({"removals": 2}, r"removals must lie in 3\.\.149"),
        ({"refit_epochs": 0}, "refit_epochs must be at least 1, got 0"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(settings, message):
    with pytest.raises(ValueError, match=message):
        Study(**settings)


def test_the_configuration_repeats_the_study():
    study = Study(dataset="wine", width=8, schemes=("bnn",), test_example=3, data_folder="elsewhere")
    config = study.to_config()
    assert Study(**config).to_config() == config
    assert (config["epochs"], config["refit_epochs"], config["activation"]) == (4000, 1000, "selu")
    assert "data_folder" not in config
    assert dataclasses.replace(study, width=9).to_config() != config


def test_a_folder_belongs_to_the_schemes_numbers_not_to_how_they_were_said():
    said = Study(schemes=("weight-decay",), scheme_options={"weight_decay": 0.005})
    assert said.configuration() == Study(schemes=("weight-decay",)).configuration()
    other = dataclasses.replace(said, scheme_options={"weight_decay": 0.1})
    assert other.configuration() != said.configuration()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "weight-decay",
            {"weight_decay": 0.1},
            r"resolved_schemes\.weight-decay\.weight_decay is 0\.005 there and 0\.1",
        ),
        ("bnn", {"method": "exact"}, r"resolved_schemes\.bnn\.method is first-order there and exact here"),
        (
            "swag",
            {"averaging": SWAG(start=0.5)},
            r"resolved_schemes\.swag\.averaging\.start is 0\.75 there and 0\.5 here",
        ),
    ],
)
def test_results_are_not_continued_with_another_default_of_a_scheme(tmp_path, monkeypatch, name, change, message):
    study = Study(schemes=(name,))
    StudyFolder(tmp_path, study.configuration()).save_cell("done", {})
    StudyFolder(tmp_path, study.configuration())
    monkeypatch.setitem(SCHEMES, name, dataclasses.replace(SCHEMES[name], **change))
    with pytest.raises(ValueError, match=message):
        StudyFolder(tmp_path, study.configuration())
