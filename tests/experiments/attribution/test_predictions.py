"""New rows are predicted as the report predicts test examples, in the words and units of their own table."""

import numpy as np
import pandas as pd
import pytest
import torch

from bayes_influence.experiments.attribution.predictions import predict_rows
from bayes_influence.experiments.training.report import train_and_report
from bayes_influence.experiments.training.run import load_run, run_training
from bayes_influence.experiments.training.settings import TrainRun


@pytest.fixture(scope="module")
def frame():
    x = np.random.default_rng(0).normal(size=(60, 2))
    found = pd.DataFrame({"a": x[:, 0], "b": x[:, 1]})
    labels = {"u": (x[:, 0] > 0) * 1, "v": (x[:, 1] > 0) * 1}
    return found.assign(kind=np.where(x[:, 0] > 0, "town", "village"), price=100 + 20 * x[:, 0], **labels)


def trained(frame, folder, *target, scheme="weight-decay"):
    path = folder / "table.csv"
    frame[["a", "b", *target]].to_csv(path, index=False)
    return TrainRun(str(path), "mlp", scheme, target=target, epochs=4, width=4, seeds=(0, 1))


def written(frame, folder, ids):
    path = folder / "new.csv"
    frame.iloc[list(ids)][["b", "a"]].to_csv(path, index=False)
    return path


def test_classes_have_the_networks_probabilities(frame, tmp_path):
    run_training(trained(frame, tmp_path, "kind"), tmp_path / "run", progress=False)
    objective, split, _ = load_run(tmp_path / "run", index=1)
    found = predict_rows(tmp_path / "run", written(frame, tmp_path, split.test.ids.tolist()), index=1)
    with torch.no_grad():
        expected = torch.softmax(objective.outputs(objective.params, split.test.inputs), dim=1).double().numpy()
    assert found.columns.tolist() == ["row", "predicted", "p(town)", "p(village)"]
    assert found["row"].tolist() == list(range(len(split.test)))
    np.testing.assert_allclose(found[["p(town)", "p(village)"]], expected, rtol=1e-5)
    assert found["predicted"].tolist() == [("town", "village")[row] for row in expected.argmax(axis=1)]
    alone = predict_rows(tmp_path / "run", tmp_path / "new.csv", (3,), index=1)
    pd.testing.assert_frame_equal(alone, found.iloc[[3]].reset_index(drop=True), rtol=1e-5)


@pytest.mark.parametrize("scheme", ["weight-decay", "bnn"])
def test_real_numbers_are_those_of_the_report(frame, tmp_path, scheme):
    train_and_report(trained(frame, tmp_path, "price", scheme=scheme), tmp_path / "run", progress=False)
    reported = pd.read_csv(tmp_path / "run" / "predictions.csv")
    reported = reported[reported["seed"] == 1].reset_index(drop=True)
    found = predict_rows(tmp_path / "run", written(frame, tmp_path, reported["id"]), index=1)
    assert found.columns.tolist() == ["row", "target", "predicted", "low", "high"]
    assert (found["target"] == "price").all()
    for name in ("predicted", "low", "high"):
        np.testing.assert_allclose(found[name], reported[name], rtol=1e-4)


def test_a_run_on_something_else_says_how_it_predicts_in_python(tmp_path):
    run_training(TrainRun("iris", "mlp", "none", epochs=1, width=2), tmp_path / "iris", progress=False)
    with pytest.raises(ValueError, match=r"no table in a file; load its network and predict in Python, `load_run` and"):
        predict_rows(tmp_path / "iris", tmp_path / "new.csv")


def test_labels_have_a_probability_each(frame, tmp_path):
    run_training(trained(frame, tmp_path, "u", "v"), tmp_path / "run", progress=False)
    objective, split, _ = load_run(tmp_path / "run")
    found = predict_rows(tmp_path / "run", written(frame, tmp_path, split.test.ids.tolist()))
    with torch.no_grad():
        expected = torch.sigmoid(objective.outputs(objective.params, split.test.inputs)).double().numpy()
    assert found.columns.tolist() == ["row", "p(u)", "p(v)"]
    np.testing.assert_allclose(found[["p(u)", "p(v)"]], expected, rtol=1e-5)


def test_what_cannot_be_predicted_is_refused(frame, tmp_path):
    run_training(trained(frame, tmp_path, "kind"), tmp_path / "run", progress=False)
    path = written(frame, tmp_path, [0])
    with pytest.raises(ValueError, match=r"the run has the seeds .*: index must lie in 0\.\.1, got 2"):
        predict_rows(tmp_path / "run", path, index=2)
    path.write_text("a\n1\n")
    with pytest.raises(ValueError, match=r"new\.csv: .*'b'"):
        predict_rows(tmp_path / "run", path)


def test_targets_in_the_file_all_or_some_do_not_matter(frame, tmp_path):
    run_training(trained(frame, tmp_path, "price", "u"), tmp_path / "run", progress=False)
    rows = frame.iloc[:5]
    rows[["a", "b"]].to_csv(tmp_path / "without.csv", index=False)
    rows[["a", "b", "u"]].assign(u="unknown").to_csv(tmp_path / "some.csv", index=False)
    without, some = (predict_rows(tmp_path / "run", tmp_path / f"{name}.csv") for name in ("without", "some"))
    pd.testing.assert_frame_equal(without, some)


@pytest.mark.parametrize(("target", "scheme"), [("kind", "bnn"), ("kind", "weight-decay"), ("price", "bnn")])
def test_a_row_without_a_prediction_is_named_and_left_empty(frame, tmp_path, caplog, target, scheme):
    run_training(trained(frame, tmp_path, target, scheme=scheme), tmp_path / "run", progress=False)
    new = frame.iloc[:4][["a", "b"]].copy()
    new.iloc[2, 0] = 1e38
    new.to_csv(tmp_path / "new.csv", index=False)
    found = predict_rows(tmp_path / "run", tmp_path / "new.csv").set_index("row")
    if scheme == "bnn":
        assert found.drop(columns="target", errors="ignore").loc[2].isna().all()
        assert (
            "new.csv: the network predicts no finite numbers for row 2, whose predictions are left empty" in caplog.text
        )
        assert found.drop(index=2).notna().all().all()
    else:
        assert found.notna().all().all()  # tanh ends at 1, however far off
    assert "new.csv: row 2 (a lies " in caplog.text
    assert "so far from the training rows that predictions there mean nothing" in caplog.text
