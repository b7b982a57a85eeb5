import dataclasses

import pytest
import torch

from bayes_influence.experiments.comparison.study import Study


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
    assert {(cell.depth, cell.width) for cell in cells.values()} == {(1, 5), (2, 5)}


def test_the_split_leaves_the_test_example_out_and_standardises_on_the_rest():
    split = Study(test_example=83).split()
    assert split.test.ids.tolist() == [83]
    assert len(split.train) == 149
    assert torch.allclose(split.train.inputs.mean(0), torch.zeros(4).double(), atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset": "irsi"}, "unknown table 'irsi'; known: breast-cancer, digits, iris, wine"),
        ({"schemes": ("bn",)}, "unknown scheme bn; known: none, weight-decay"),
        ({"activation": "sellu"}, "unknown activation 'sellu'; known: .*selu"),
        ({"parameters": "first-layer"}, "unknown parameters 'first-layer'; known: last-layer, all"),
        ({"repeats": 0}, "repeats must be at least 1, got 0"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"removals": 150}, r"removals must lie in 3\.\.149 \(iris has 149 training examples"),
        ({"removals": 2}, r"removals must lie in 3\.\.149"),
        ({"test_example": 150}, r"no example has id \[150\]; ids run from 0 to 149"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(settings, message):
    with pytest.raises(ValueError, match=message):
        Study(**settings)


def test_a_study_without_its_test_example_cannot_be_split():
    with pytest.raises(ValueError, match="test example is not resolved"):
        Study().split()


def test_the_configuration_repeats_the_study():
    study = Study(dataset="wine", width=8, schemes=("bnn",), test_example=3)
    assert Study(**study.to_config()) == study
    assert dataclasses.replace(study, width=9) != study
