from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from bayes_influence.experiments.store.folder import StudyFolder
from bayes_influence.experiments.training.settings import TrainRun
from bayes_influence.experiments.training.side_by_side import (
    calibration_figure,
    history_figure,
    summarise,
    train_schemes,
)

RUN = TrainRun("iris", "mlp", seeds=(3, 4), epochs=4, width=5)


@pytest.mark.slow
def test_schemes_are_trained_side_by_side_and_their_seeds_summarised(tmp_path):
    summary = train_schemes(RUN, ["none", "bnn"], tmp_path, progress=False)
    assert summary.index.tolist() == ["none", "bnn"]
    reports = pd.read_csv(tmp_path / "reports.csv")
    assert list(zip(reports["scheme"], reports["seed"], strict=True)) == [
        ("none", 3),
        ("none", 4),
        ("bnn", 3),
        ("bnn", 4),
    ]
    nll = reports.loc[reports["scheme"] == "bnn", "nll"]
    assert summary.loc["bnn", "nll"] == f"{nll.mean():.4f} ± {abs(np.diff(nll)[0]) / 2**0.5:.4f}"
    assert summary.loc["none", "variance_auroc"] == "-"
    assert summary.loc["none", "epoch_ratio"] == "1.00"
    assert "outside_entropy_auroc" not in summary.columns
    for name in (
        "summary.csv",
        "reliability-all.png",
        "history-all.png",
        "none/checkpoint.safetensors",
        "bnn/report.csv",
    ):
        assert (tmp_path / name).exists()
    again = train_schemes(RUN, ["none", "bnn"], tmp_path, progress=False)
    pd.testing.assert_frame_equal(again, summary)


@pytest.mark.slow
def test_schemes_are_added_with_learning_rates_of_their_own_and_other_settings_refused(tmp_path):
    train_schemes(RUN, ["none"], tmp_path, progress=False)
    train_schemes(RUN, ["none", "bnn"], tmp_path, progress=False)
    rates = [StudyFolder.open(tmp_path / name).config["learning_rate"] for name in ("none", "bnn")]
    assert rates == [0.002, 0.005]
    with pytest.raises(ValueError, match="another configuration: width is 5 there and 6 here"):
        train_schemes(replace(RUN, width=6), ["none"], tmp_path, progress=False)
    with pytest.raises(ValueError, match="unknown scheme bn; known: none"):
        train_schemes(RUN, ["bn"], tmp_path / "new", progress=False)
    assert not (tmp_path / "new").exists()


@pytest.fixture
def towns(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 2))
    frame = pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "y": x[:, 0] + 0.1 * x[:, 1], "u": (x[:, 0] > 0) * 1})
    frame.assign(v=(x[:, 1] > 0) * 1).to_csv(tmp_path / "towns.csv", index=False)
    return str(tmp_path / "towns.csv")


@pytest.mark.parametrize(
    ("target", "measures"),
    [(("y",), ["rmse", "mae", "r2", "coverage", "interval_width"]), (("u", "v"), ["label_accuracy", "exact_accuracy"])],
)
def test_real_targets_and_labels_are_compared_by_their_own_measures(target, measures, towns, tmp_path):
    run = TrainRun(towns, "mlp", target=target, seeds=(0, 1), epochs=2, width=4)
    summary = train_schemes(run, ["none", "bnn"], tmp_path / "out", progress=False)
    assert set(measures) <= set(summary.columns)
    assert "accuracy" not in summary.columns
    reports = pd.read_csv(tmp_path / "out" / "reports.csv").query("scheme == 'none'")
    assert summary.loc["none", measures[0]].startswith(f"{reports[measures[0]].mean():.4f} ± ")
    assert (tmp_path / "out" / "history-all.png").exists()
    assert not (tmp_path / "out" / "reliability-all.png").exists()


def test_a_history_without_accuracies_shows_the_objective_alone():
    history = pd.DataFrame({"epoch": [1, 2], "seed": [0, 0], "objective": [3.0, -1.0], "train_accuracy": [np.nan] * 2})
    (axes,) = history_figure({"none": history, "bnn": history}, "towns").axes
    assert (axes.get_ylabel(), axes.get_yscale()) == ("objective (nats per example)", "linear")
    assert [line.get_marker() for line in axes.lines] == ["o", "s"]


def test_one_seed_has_no_deviation():
    row = {"scheme": "none", "seed": 0, "accuracy": 0.5, "nll": 1.0, "brier": 0.4, "ece": 0.1, "epoch_seconds": 2.0}
    absent = dict.fromkeys(["misclassification_auroc", "variance_auroc", "outside_entropy_auroc"], np.nan)
    summary = summarise(pd.DataFrame([row | absent | {"outside_variance_auroc": np.nan}]))
    assert summary.loc["none"].to_dict() == {
        "accuracy": "0.5000",
        "nll": "1.0000",
        "brier": "0.4000",
        "ece": "0.1000",
        "epoch_seconds": "2.0",
        "epoch_ratio": "1.00",
    }


def test_the_plot_pools_the_seeds_by_their_shares():
    curve = pd.DataFrame(
        {
            "seed": [0, 0, 1],
            "low": [0.0, 0.5, 0.5],
            "share": [0.25, 0.75, 0.25],
            "confidence": [0.4, 0.8, 0.6],
            "accuracy": [0.5, 0.9, 0.5],
        }
    )
    upper, lower = calibration_figure({"bnn": curve}, "iris").axes
    line = upper.lines[1]
    np.testing.assert_allclose(line.get_xdata(), [0.4, 0.75])
    np.testing.assert_allclose(line.get_ydata(), [0.1, 0.05])
    np.testing.assert_allclose(lower.lines[0].get_ydata(), [0.125, 0.5])


def test_histories_are_drawn_per_scheme_and_seed():
    history = pd.DataFrame(
        {"epoch": [1, 1, 2, 2], "seed": [0, 1, 0, 1], "objective": [3.0, 4.0, 1.0, 2.0], "train_accuracy": [0.5] * 4}
    )
    left, right = history_figure({"none": history, "bnn": history}, "iris").axes
    assert len(left.lines) == len(right.lines) == 4
    np.testing.assert_allclose(right.lines[1].get_ydata(), [4.0, 2.0])
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["none", "bnn"]
