import numpy as np
import pandas as pd
import pytest
import torch

from bayes_influence.data.columns import Form
from bayes_influence.data.dataset import Dataset
from bayes_influence.data.own_rows import OwnArrays, OwnTable, arrays_dataset, usual_epochs
from bayes_influence.data.standardisation import standardise
from bayes_influence.data.tables import hold_out


def frame(rows=40):
    numbers = np.random.default_rng(0).normal(size=rows)
    towns = np.where(np.arange(rows) % 3 == 0, "a", "b")
    return pd.DataFrame({"x": numbers, "town": towns, "y": np.where(np.arange(rows) % 2, "p", "n")})


def test_a_table_is_split_as_hold_out_splits_it_and_standardised_on_its_training_part():
    table = OwnTable.of_frame(frame(), "y", "t")
    split, expected = table.split(torch.float64), hold_out(table.examples())
    assert sorted(split.test.ids.tolist()) == sorted(expected.test.ids.tolist())
    ids = expected.train.ids
    torch.testing.assert_close(split.train.at(ids).inputs, expected.train.inputs)
    torch.testing.assert_close(split.test.at(expected.test.ids).inputs, expected.test.inputs)
    assert split.train.feature_names == ("x", "town=a", "town=b")


def test_a_row_of_a_category_that_is_in_no_other_trains():
    table = OwnTable.of_frame(frame(), "y", "t")
    row = int(table.split(torch.float64).test.ids[0])
    alone = OwnTable.of_frame(frame().assign(town=frame()["town"].where(frame().index != row, "c")), "y", "t")
    assert row in alone.split(torch.float64).train.ids.tolist()
    with pytest.raises(ValueError, match=f"column 'town' holds 'c' in row {row}, a category that no training row has"):
        alone.left_out(row)


def test_left_out_rows_have_no_say_in_the_encoding():
    table = OwnTable.of_frame(
        frame().assign(x=np.where(np.arange(40) == 7, np.nan, np.arange(40))), "y", "t", missing="impute"
    )
    split = table.left_out(3)
    assert split.test.ids.tolist() == [3]
    others = [row for row in range(40) if row not in (3, 7)]
    assert float(split.train.at(7).inputs[0, 0]) == pytest.approx(0.0, abs=1e-12)  # imputed by the training mean
    filled = [*others, np.mean(others)]
    assert float(split.test.inputs[0, 0]) == pytest.approx((3 - np.mean(filled)) / np.std(filled))


def test_frames_become_datasets_raw():
    data = Dataset.from_dataframe(frame(), target="y", name="t")
    assert data.inputs[:, 0].tolist() == frame()["x"].tolist()
    assert (data.class_names, data.ids.tolist(), data.name) == (("n", "p"), list(range(40)), "t")
    assert len(standardise(data)) == 1

    class OfPolars:
        def to_pandas(self):
            return frame()

    assert torch.equal(Dataset.from_dataframe(OfPolars(), "y").inputs, data.inputs)
    with pytest.raises(TypeError, match="table must be a frame of pandas or polars, got dict"):
        Dataset.from_dataframe({"y": [1]}, "y")


@pytest.mark.parametrize(
    ("targets", "task", "expected", "dtype", "shape"),
    [
        (np.arange(6) % 2, None, "classification", torch.int64, (6,)),
        (np.arange(6) % 3, "regression", "regression", torch.float64, (6, 1)),
        (np.arange(6) % 2, "labels", "labels", torch.float64, (6, 1)),
        (np.arange(12).reshape(6, 2) % 3 % 2, None, "labels", torch.float64, (6, 2)),
        (np.linspace(0, 1, 6), None, "regression", torch.float64, (6, 1)),
    ],
)
def test_arrays_say_what_is_predicted(targets, task, expected, dtype, shape, tmp_path):
    np.savez(tmp_path / "a.npz", inputs=np.random.default_rng(0).normal(size=(6, 2)), targets=targets)
    known = OwnArrays.read(tmp_path / "a.npz", task)
    data = known.examples()
    assert (known.task, data.targets.dtype, tuple(data.targets.shape)) == (expected, dtype, shape)
    assert known.n_targets == (shape[1] if len(shape) > 1 else 1)


def test_real_targets_of_arrays_are_standardised_on_the_training_part(tmp_path):
    generator = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", inputs=generator.normal(size=(20, 2)), targets=generator.normal(5, 3, size=20))
    known = OwnArrays.read(tmp_path / "a.npz")
    split = known.split(torch.float64)
    assert float(split.train.targets.mean()) == pytest.approx(0, abs=1e-12)
    mean, scale = known.target_units()
    torch.testing.assert_close(split.test.targets * scale + mean, known.examples().at(split.test.ids).targets)


@pytest.mark.parametrize(
    ("targets", "task", "message"),
    [
        (np.ones(4), None, "a: a target is constant; nothing can be learned"),
        (np.array([0, 1, 1, 2]), "labels", "a: labels are 0 or 1, but the targets hold other values"),
        (np.array([0, 1, 1, 1]), None, "a: class 0 has 1 member, at least 2 are needed"),
        (
            np.array([0.5, 1, 1, 1]),
            "classification",
            "classes are whole numbers from 0 on, got targets of torch.float64",
        ),
        (np.arange(4), "ranking", "unknown task 'ranking'; known: classification"),
    ],
)
def test_arrays_that_cannot_be_learned_are_refused(targets, task, message):
    with pytest.raises(ValueError, match=message):
        arrays_dataset(np.eye(4), targets, "a", task)


def test_from_numpy_is_the_same():
    inputs, targets = np.eye(4), np.array([0, 1, 0, 1])
    assert torch.equal(Dataset.from_numpy(inputs, targets).inputs, arrays_dataset(inputs, targets).inputs)


@pytest.mark.parametrize("kind", [str, object])
def test_words_are_classes_in_alphabetical_order(kind):
    found = Dataset.from_numpy(np.eye(4), np.array(["b", "a", "b", "a"], dtype=kind))
    assert (found.class_names, found.targets.tolist()) == (("a", "b"), [1, 0, 1, 0])


def test_words_are_no_amounts():
    with pytest.raises(ValueError, match=r"arrays: words are classes, .* begin with .*'b'.* the task is regression"):
        arrays_dataset(np.eye(2), np.array(["b", "a"]), task="regression")
    with pytest.raises(ValueError, match=r"words are classes, one for each .* shape is \(2, 2\) and the task is not"):
        arrays_dataset(np.eye(2), np.array([["b", "a"], ["a", "b"]]))


def test_large_tables_get_fewer_passes():
    assert [usual_epochs(count) for count in (100, 10_000, 10**6)] == [300, 32, 10]


def test_a_file_is_called_by_its_name(tmp_path):
    frame().to_csv(tmp_path / "towns.csv", index=False)
    table = OwnTable.read(tmp_path / "towns.csv", Form(("y",)))
    assert (table.name, table.epochs, table.task, table.target_names) == ("towns", 300, "classification", ("y",))


def test_all_examples_are_encoded_and_standardised_as_they_themselves_say():
    sizes = pd.DataFrame({"size": [1.0, 2.0, 3.0, 6.0], "kind": ["a", "b", "b", "a"], "label": ["x", "y", "x", "y"]})
    found = OwnTable.of_frame(sizes, "label", "table").all_examples(torch.float32)
    assert found.ids.tolist() == [0, 1, 2, 3]
    assert found.targets.tolist() == [0, 1, 0, 1]
    assert found.inputs.dtype == torch.float32
    expected = (torch.tensor([1.0, 2.0, 3.0, 6.0]) - 3.0) / 3.5**0.5
    torch.testing.assert_close(found.inputs[:, 0], expected)
    assert found.inputs[:, 1].tolist() == [1.0, -1.0, -1.0, 1.0]


def test_all_arrays_are_standardised_on_themselves():
    whole = arrays_dataset(np.array([[1.0], [3.0]] * 2), np.array([0, 1] * 2))
    found = OwnArrays(whole=whole, epochs=1).all_examples(torch.float64)
    assert found.inputs[:, 0].tolist() == [-1.0, 1.0, -1.0, 1.0]
