import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris

from bayes_influence.data.dataset import Dataset
from bayes_influence.data.tables import TABLES, hold_out, leave_out, load_table


@pytest.mark.parametrize(
    ("name", "shape", "n_classes"),
    [("iris", (150, 4), 3), ("wine", (178, 13), 3), ("breast-cancer", (569, 30), 2), ("digits", (1797, 64), 10)],
)
def test_every_table(name, shape, n_classes):
    table = load_table(name)
    assert tuple(table.inputs.shape) == shape
    assert table.inputs.dtype == torch.float64
    assert table.ids.tolist() == list(range(shape[0]))
    assert table.n_classes == len(table.class_names) == n_classes
    assert len(table.feature_names) == shape[1]


def test_every_known_table_is_tested():
    assert set(TABLES) == {"iris", "wine", "breast-cancer", "digits"}


def test_rows_are_scikit_learns():
    source, iris = load_iris(), load_table("iris")
    assert np.array_equal(iris.inputs.numpy(), source.data)
    assert np.array_equal(iris.targets.numpy(), source.target)
    assert iris.class_names == ("setosa", "versicolor", "virginica")
    assert iris.feature_names[0] == "sepal length (cm)"


def test_unknown_table_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown table 'irsi'; known: breast-cancer, digits, iris, wine"):
        load_table("irsi")


def test_leave_out_keeps_ids_and_standardises():
    split = leave_out(load_table("iris"), 83)
    assert split.test.ids.tolist() == [83]
    assert 83 not in split.train.ids.tolist()
    assert len(split.train) == 149
    torch.testing.assert_close(split.train.inputs.mean(dim=0), torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(split.train.inputs.std(dim=0, correction=0), torch.ones(4, dtype=torch.float64))


def test_leave_out_of_a_class_with_one_member():
    lonely = Dataset(
        torch.zeros(3, 1), torch.tensor([0, 0, 1]), torch.arange(3), "lonely", class_names=("common", "rare")
    )
    with pytest.raises(ValueError, match=r"class 1 \(rare\) has 1 member"):
        leave_out(lonely, 0)


def test_leave_out_of_an_unknown_row():
    with pytest.raises(ValueError, match=r"iris: no example has id \[150\]; ids run from 0 to 149"):
        leave_out(load_table("iris"), 150)


def test_hold_out_is_stratified_and_reproducible():
    iris = load_table("iris")
    split, again, other = hold_out(iris, 0.2, seed=1), hold_out(iris, 0.2, seed=1), hold_out(iris, 0.2, seed=2)
    assert torch.bincount(split.test.targets).tolist() == [10, 10, 10]
    assert torch.equal(split.test.ids, again.test.ids)
    assert not torch.equal(split.test.ids, other.test.ids)
    assert sorted(split.train.ids.tolist() + split.test.ids.tolist()) == list(range(150))


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5])
def test_hold_out_fraction_out_of_range(fraction):
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        hold_out(load_table("iris"), fraction)


@pytest.mark.parametrize(
    ("fraction", "message"),
    [
        (
            0.01,
            r"toy: test_fraction=0\.01 makes 1 of 20 examples the test part; each part needs at least 2, one",
        ),
        (0.95, r"toy: test_fraction=0\.95 makes 19 of 20 examples the test part; each part needs at least 2"),
        (0.1, "toy: the test part has no member of class 1; take another test_fraction, or drop classes that are so"),
    ],
)
def test_every_part_has_a_member_of_every_class(fraction, message):
    rare = Dataset(torch.arange(20.0)[:, None], (torch.arange(20) > 17).long(), torch.arange(20), "toy")
    with pytest.raises(ValueError, match=message):
        hold_out(rare, fraction)


@pytest.mark.parametrize("fraction", ["0.2", None, 1, True])
def test_fractions_that_are_no_numbers(fraction, as_installed):
    with pytest.raises(ValueError, match="strictly between 0 and 1, got"):
        hold_out(load_table("iris"), fraction)


def test_hold_out_of_a_regression_takes_any_examples():
    data = Dataset(torch.arange(10.0)[:, None], torch.arange(10.0), torch.arange(10) + 5, "line")
    split = hold_out(data, 0.3, seed=2)
    assert (len(split.train), len(split.test)) == (7, 3)
    assert sorted([*split.train.ids.tolist(), *split.test.ids.tolist()]) == list(range(5, 15))
    assert split.train.targets.tolist() == (split.train.ids - 5).tolist()


def test_a_seed_is_checked():
    with pytest.raises(ValueError, match="a seed is a whole number in 0"):
        hold_out(load_table("iris"), seed=-1)
