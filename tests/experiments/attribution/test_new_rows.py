"""Rows that no test part has: encoded as the training rows were, and what is measured without their targets."""

import re

import numpy as np
import pandas as pd
import pytest
import torch

from bayes_influence.data.dataset import Dataset
from bayes_influence.experiments.attribution.new_rows import named_rows
from bayes_influence.experiments.attribution.of_run import InfluenceRequest, influence_of_run
from bayes_influence.experiments.attribution.ranking import printed_rankings
from bayes_influence.experiments.training.run import load_run, run_training
from bayes_influence.experiments.training.settings import TrainRun
from bayes_influence.influence.influence import Influence
from bayes_influence.influence.measurements import PredictedValue


@pytest.fixture(scope="module")
def frame():
    x = np.random.default_rng(0).normal(size=(60, 2))
    found = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "c": ["north", "south", "east"] * 20})
    return found.assign(kind=np.where(x[:, 0] > 0, "town", "village"), price=100 + 20 * x[:, 0])


@pytest.fixture(scope="module")
def runs(frame, tmp_path_factory):
    """Runs on classes and on real numbers, by target."""
    folder = tmp_path_factory.mktemp("runs")
    for target in ("kind", "price"):
        path = folder / f"{target}.csv"
        frame[["a", "b", "c", target]].to_csv(path, index=False)
        run = TrainRun(str(path), "mlp", "weight-decay", target=(target,), epochs=3, width=4)
        run_training(run, folder / target, progress=False)
    return folder


@pytest.fixture
def new(frame, tmp_path):
    """Writes some rows with some columns as a file of new rows."""

    def written(*columns, rows=(3, 4, 5), **changed):
        path = tmp_path / "new.csv"
        frame.iloc[list(rows)].assign(**changed)[list(columns)].to_csv(path, index=False)
        return path

    return written


def explained(run, path, tmp_path, **said):
    return influence_of_run(run, tmp_path / "out", InfluenceRequest(on=str(path), top=3, **said), progress=False)


def test_rows_with_targets_are_explained_by_their_loss_as_test_examples_are(runs, frame, new, tmp_path):
    objective, split, _ = load_run(runs / "kind")
    position = 2
    row = int(split.test.ids[position])
    path = new("c", "kind", "b", "a", rows=(0, row))  # columns in another order, and the row of a test example
    found = explained(runs / "kind", path, tmp_path, tests=(1,), damping=0.1)
    expected = Influence(objective, split.train, damping=0.1, parameters="last-layer").on_loss(split.test.select([2]))
    torch.testing.assert_close(found.scores.values, expected.values, rtol=1e-5, atol=1e-9)
    assert (found.measured, found.ranking["test"].unique().tolist()) == ("loss", [1])
    assert found.ranking["test_target"].iloc[0] == frame["kind"][row]
    assert found.pictures == ()


def test_without_targets_influence_is_on_the_loss_of_the_predicted_class(runs, new, tmp_path):
    found = explained(runs / "kind", new("a", "b", "c"), tmp_path)
    assert found.measured == "loss of the predicted class"
    rows = found.ranking.drop_duplicates("test")
    assert rows["test"].tolist() == [0, 1, 2]
    assert set(rows["test_target"]) == {"not given"}
    losses = rows["test_loss"].to_numpy()
    assert (losses <= np.log(2) + 1e-6).all()  # of two classes the predicted one has a probability of a half at least
    predicted = explained(
        runs / "kind", new("a", "b", "c", "kind", kind=rows["predicted_target"].to_numpy()), tmp_path / "given"
    )
    torch.testing.assert_close(found.scores.values, predicted.scores.values)


def test_without_targets_influence_on_a_real_number_is_on_the_prediction(runs, new, tmp_path):
    found = explained(runs / "price", new("a", "b", "c"), tmp_path, damping=0.1)
    assert found.measured == "prediction (in standard deviations of the target)"
    assert found.ranking["test_loss"].isna().all()
    (table,) = printed_rankings(found.ranking[found.ranking["test"] == 0], found.measured)
    assert re.fullmatch(r"test 0 \(id 0\): not given, predicted [\d.e+-]+", table.title)
    objective, split, config = load_run(runs / "price")
    known = TrainRun.from_config(config).known()
    rows = known.encoding().inputs(pd.read_csv(tmp_path / "new.csv")).float()
    mean, scale = known.target_units()
    with torch.no_grad():
        predicted = objective.outputs(objective.params, rows).double() * scale + mean
    shown = found.ranking.drop_duplicates("test")["predicted_target"].astype(float)
    np.testing.assert_allclose(shown, predicted.flatten(), rtol=1e-3)
    (example,) = split.train.positions(torch.tensor([int(found.ranking["train_id"].iloc[0])])).tolist()
    influence = Influence(objective, split.train, damping=0.1, parameters="last-layer")
    chosen = Dataset(rows, torch.zeros(3, 1), torch.arange(3), "new")
    expected = influence.on_measurement(PredictedValue(), chosen).removal[0, example]
    assert found.ranking["removal"].iloc[0] == pytest.approx(float(expected), rel=1e-5)
    trained = found.ranking["train_target"].astype(float)
    np.testing.assert_allclose(trained, pd.read_csv(runs / "price.csv")["price"][found.ranking["train_id"]], rtol=1e-3)


@pytest.mark.parametrize(
    ("columns", "changed", "said", "message"),
    [
        (("a", "c"), {}, {}, r"new\.csv: there is no column 'b', which the training rows have; there are a, c"),
        (("a", "b", "c"), {"c": "west"}, {}, r"column 'c' holds 'west' in row 0, a category that no training row has"),
        (("a", "b", "c"), {"a": "x"}, {}, r"new\.csv: column 'a' must hold finite numbers, got 'x' in row 0"),
        (("a", "b", "c"), {"a": np.nan}, {}, r"new\.csv: column 'a' misses 3 of 3 values"),
        (("a", "b", "c", "kind"), {"kind": "hamlet"}, {}, "holds 'hamlet' in row 0, a class that no training row has"),
        (("a", "b", "c"), {}, {"tests": (3,)}, r"new\.csv: there is no row 3; its rows are numbered from 0 to 2"),
        (("a", "b", "c"), {}, {"test_ids": (3,)}, r"ids are of a run's own test part, the rows of .* are numbered"),
    ],
)
def test_rows_that_cannot_be_encoded_are_refused(columns, changed, said, message, runs, new, tmp_path):
    with pytest.raises(ValueError, match=message):
        explained(runs / "kind", new(*columns, **changed), tmp_path, **said)
    assert not (tmp_path / "out").exists()


def test_without_targets_a_bayesian_network_is_explained_in_its_mean(frame, new, tmp_path):
    path = tmp_path / "prices.csv"
    frame[["a", "b", "price"]].to_csv(path, index=False)
    run = TrainRun(str(path), "mlp", "bnn", target=("price",), epochs=3, width=4)
    run_training(run, tmp_path / "run", progress=False)
    found = explained(tmp_path / "run", new("a", "b"), tmp_path, damping=0.1)
    assert found.measured == "prediction (in standard deviations of the target)"
    assert found.ranking["test_loss"].isna().all()
    (table,) = printed_rankings(found.ranking[found.ranking["test"] == 0], found.measured)
    assert re.fullmatch(r"test 0 \(id 0\): not given, predicted [\d.e+-]+", table.title)
    objective, _, _ = load_run(tmp_path / "run")
    rows = run.known().encoding().inputs(pd.read_csv(tmp_path / "new.csv")).float()
    mean, scale = run.known().target_units()
    with torch.no_grad():
        expected = objective.outputs(objective.params, rows).expectation[:, 0].double() * scale[0] + mean[0]
    shown = found.ranking.drop_duplicates("test")["predicted_target"].astype(float)
    np.testing.assert_allclose(shown, expected, rtol=1e-3)


def test_files_that_are_no_table_of_rows_are_refused(runs, tmp_path):
    (tmp_path / "new.csv").write_text("a;b;c\n1;2;north\n")
    with pytest.raises(ValueError, match="has one column, 'a;b;c': ';' seems to stand between its columns"):
        explained(runs / "kind", tmp_path / "new.csv", tmp_path)
    (tmp_path / "new.csv").write_bytes("a,b,c\n1,2,S\xfcd\n".encode("latin-1"))
    with pytest.raises(ValueError, match="is not in UTF-8"):
        explained(runs / "kind", tmp_path / "new.csv", tmp_path)
    (tmp_path / "new.csv").write_text("a,b,c\n")
    with pytest.raises(ValueError, match=r"new\.csv: the table has no rows"):
        explained(runs / "kind", tmp_path / "new.csv", tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        explained(runs / "kind", tmp_path / "absent.csv", tmp_path)


def test_a_run_without_an_encoding_takes_no_new_rows(tmp_path, new):
    run_training(TrainRun("iris", "mlp", "none", epochs=1, width=2), tmp_path / "iris", progress=False)
    with pytest.raises(ValueError, match=r"the run in .* is on iris, which is no table in a file; of such a run"):
        explained(tmp_path / "iris", new("a", "b", "c"), tmp_path)


def test_a_row_that_is_predicted_nothing_is_refused_by_its_number(frame, new, tmp_path, caplog):
    path = tmp_path / "price.csv"
    frame[["a", "b", "price"]].to_csv(path, index=False)
    run = TrainRun(str(path), "mlp", "bnn", target=("price",), epochs=1, width=4)
    run_training(run, tmp_path / "run", progress=False)
    for columns in (("a", "b"), ("a", "b", "price")):
        with pytest.raises(ValueError, match=r"new\.csv: the network predicts no finite numbers for rows 0, 2; corr"):
            explained(tmp_path / "run", new(*columns, a=[-1e30, 0.0, 1e30]), tmp_path)
        assert "new.csv: row 0 (a lies " in caplog.text
    assert not (tmp_path / "out").exists()


def test_many_rows_are_named_by_the_first():
    assert named_rows([4]) == "row 4"
    assert named_rows(list(range(11))) == "rows 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ..."
