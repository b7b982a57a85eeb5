import numpy as np
import pandas as pd
import pytest
import torch

from bayes_influence.experiments.attribution.of_run import InfluenceRequest, influence_of_run
from bayes_influence.experiments.training.real_report import (
    in_units,
    label_row,
    predict_real,
    predictions_table,
    real_row,
)
from bayes_influence.experiments.training.report import train_and_report
from bayes_influence.experiments.training.run import run_training
from bayes_influence.experiments.training.settings import TrainRun
from bayes_influence.training.noise import LearnedNoise


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    x = np.random.default_rng(0).normal(size=(200, 2))
    targets = 10 + 5 * x[:, 0] + np.random.default_rng(1).normal(size=200)
    pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "y": targets, "u": (x[:, 0] > 0) * 1, "v": (x[:, 1] > 0) * 1}).to_csv(
        folder / "t.csv", index=False
    )
    return folder / "t.csv"


def run_of(path, scheme, target=("y",), epochs=60):
    return TrainRun(str(path), "mlp", scheme, target=target, epochs=epochs, width=8, learning_rate=0.02)


@pytest.mark.parametrize("scheme", ["weight-decay", "bnn"])
def test_a_regression_is_reported_in_the_tables_units_with_intervals_that_hold(scheme, path, tmp_path):
    report = train_and_report(run_of(path, scheme), tmp_path, progress=False)
    row = report.iloc[0]
    assert 0.7 < row["rmse"] < 1.5  # the noise has a standard deviation of 1
    assert row["r2"] > 0.9
    assert row["coverage"] > 0.85
    assert 3 < row["interval_width"] < 7  # 2 x 1.96 standard deviations of the noise
    table = pd.read_csv(tmp_path / "predictions.csv")
    raw = pd.read_csv(path)
    np.testing.assert_allclose(table["true"], raw["y"][table["id"]], rtol=1e-5)
    errors = table["predicted"] - table["true"]
    assert row["rmse"] == pytest.approx(np.sqrt((errors**2).mean()))


def test_the_interval_of_a_bayesian_network_has_noise_and_spread(path, tmp_path):
    trained, split = run_training(run_of(path, "bnn", epochs=5), tmp_path, progress=False)
    predicted = predict_real(trained.at(0), split.test, split.train)
    objective = trained.at(0)
    assert isinstance(objective.network, LearnedNoise)
    with torch.no_grad():
        outputs = objective.outputs(objective.params, split.test.inputs)
    noise = objective.params["log_scale"].exp()
    torch.testing.assert_close(predicted.mean, outputs.expectation[:, :1])
    torch.testing.assert_close(predicted.deviation, (noise.square() + outputs.variance[:, :1]).sqrt())


def test_the_interval_of_other_networks_has_the_training_error(path, tmp_path):
    trained, split = run_training(run_of(path, "none", epochs=5), tmp_path, progress=False)
    predicted = predict_real(trained.at(0), split.test, split.train)
    objective = trained.at(0)
    with torch.no_grad():
        errors = objective.outputs(objective.params, split.train.inputs) - split.train.targets
    torch.testing.assert_close(predicted.deviation, errors.square().mean().sqrt().expand(len(split.test), 1))


def test_a_ranking_of_a_regression_shows_numbers_in_the_tables_units(path, tmp_path):
    train_and_report(run_of(path, "bnn", epochs=5), tmp_path / "run", progress=False)
    found = influence_of_run(tmp_path / "run", tmp_path / "out", InfluenceRequest(tests=(0,), top=2), progress=False)
    row, raw = found.ranking.iloc[0], pd.read_csv(path)["y"]
    assert row["test_target"] == f"{raw[row['test_id']]:.4g}"
    assert row["train_target"] == f"{raw[row['train_id']]:.4g}"


def test_rows_of_several_targets_are_averaged():
    table = pd.DataFrame(
        {
            "target": ["a", "a", "b", "b"],
            "true": [0.0, 2.0, 0.0, 4.0],
            "predicted": [1.0, 1.0, 0.0, 4.0],
            "low": [0.5, 0.0, -1.0, 3.0],
            "high": [1.5, 2.0, 1.0, 5.0],
        }
    )
    assert real_row(table) == pytest.approx(
        {"rmse": 0.5, "mae": 0.5, "r2": 0.5, "coverage": 0.75, "interval_width": 1.75}
    )


def test_predictions_have_a_row_per_example_and_target(path, tmp_path):
    trained, split = run_training(run_of(path, "none", epochs=2), tmp_path, progress=False)
    predicted = predict_real(trained.at(0), split.test, split.train)
    table = predictions_table(predicted, split.test, ("y",), (torch.tensor([1.0]), torch.tensor([2.0])))
    assert table["id"].tolist() == split.test.ids.tolist()
    np.testing.assert_allclose(
        (table["high"] - table["predicted"]) / 1.959964, 2 * predicted.deviation[:, 0], rtol=1e-5
    )


@pytest.mark.parametrize("scheme", ["weight-decay", "bnn"])
def test_labels_are_counted_one_by_one_and_together(scheme, path, tmp_path):
    report = train_and_report(run_of(path, scheme, ("u", "v"), 30), tmp_path / "run", progress=False).iloc[0]
    assert report["label_accuracy"] > 0.9
    assert report["exact_accuracy"] <= report["label_accuracy"]
    trained, split = run_training(run_of(path, scheme, ("u", "v"), 30), tmp_path / "run", progress=False)
    assert label_row(trained, 0, split.test)["nll"] == pytest.approx(report["nll"])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_have_the_digits_that_their_precision_leaves(dtype):
    raw = np.array([[0.3, 1234.5], [-0.07, 1200.0], [12.0, 1211.25], [0.0, 1190.1]])
    scale, shift = raw.std(axis=0), raw.mean(axis=0)
    values = ((raw - shift) / scale).astype(dtype)
    found = in_units(values, scale, shift)
    assert found.tolist() == raw.tolist()
    assert ((found - shift) / scale).astype(dtype) == pytest.approx(values, rel=float(2 * np.finfo(dtype).eps))


def test_different_numbers_stay_different_and_what_is_no_number_stays_so():
    values = np.array([1.0, np.nextafter(np.float32(1), np.float32(2)), 1e-30, np.nan, np.inf], np.float32)[:, None]
    found = in_units(values, np.array([1.0]), np.array([0.0]))[:, 0]
    assert (found[:3].astype(np.float32) == values[:3, 0]).all()
    assert len(set(found[:3])) == 3
    assert np.isnan(found[3])
    assert found[4] == np.inf


def test_a_report_repeats_the_targets_as_the_table_has_them(tmp_path):
    y = np.random.default_rng(0).normal(size=40).round(1)
    pd.DataFrame({"x": y + 0.25, "y": y}).to_csv(tmp_path / "t.csv", index=False)
    train_and_report(run_of(tmp_path / "t.csv", "none", epochs=1), tmp_path / "run", progress=False)
    written = pd.read_csv(tmp_path / "run" / "predictions.csv", dtype=str)
    assert written["true"].astype(float).tolist() == y[written["id"].astype(int)].tolist()
    assert max(len(number.lstrip("-").replace(".", "").lstrip("0")) for number in written["predicted"]) <= 9
