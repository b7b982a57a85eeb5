"""Comparisons on data of one's own: what is predicted, by which network, and which truth fits."""

from dataclasses import replace

import numpy as np
import pytest

from bayes_influence.experiments.comparison import description
from bayes_influence.experiments.comparison.cell import measure
from bayes_influence.experiments.comparison.regularisers import compare_regularisers
from bayes_influence.experiments.comparison.study import Study
from bayes_influence.training.minibatch_schedule import MinibatchSchedule

SMALL = {"repeats": 1, "removals": 5, "epochs": 15, "refit_epochs": 10, "width": 4}


def on_first(study):
    """The study with the first example of its test part."""
    return replace(study, test_example=int(study.split().test.ids[0]))


@pytest.mark.slow
def test_real_targets_are_compared_under_every_scheme(table, tmp_path):
    study = Study(table("price"), target=("price",), schemes=("none", "weight-decay", "bnn"), **SMALL)
    result = compare_regularisers(study, tmp_path / "out", n_jobs=1, progress=False)
    summary = result.summary.set_index(["scheme", "estimator"])
    assert {"train_rmse", "test_rmse"} <= set(summary.columns)
    assert "test_accuracy" not in summary.columns
    assert summary.loc[("none", "influence"), "truth"] == "warm"
    for keys in [("weight-decay", "influence"), ("bnn", "variational"), ("bnn", "posterior-mean")]:
        row = summary.loc[keys]
        assert (row["truth"], row["refits_converged"]) == ("newton", True)
        assert row["pearson"] > 0.97  # exact but for the example's own curvature
        assert row["slope"] > 0.5
    assert any(line.startswith("Truth, none: training from the fit") for line in result.findings)
    assert {"figure.png", "damping.png", "summary.csv"} <= {path.name for path in (tmp_path / "out").iterdir()}
    split = study.split()
    assert result.test_example in set(split.test.ids.tolist())
    assert not set(result.differences["example"]) & set(split.test.ids.tolist())


def test_labels_are_compared(table):
    study = Study(table("u", "v"), target=("u", "v"), schemes=("weight-decay",), **SMALL)
    row = measure(on_first(study)).tables["results"].iloc[0]
    assert 0 <= row["test_accuracy"] <= 1
    assert row["pearson"] > 0.97


def test_training_is_that_of_a_run_in_minibatches(table):
    study = Study(table("kind"), target=("kind",), schemes=("weight-decay", "bnn"), repeats=2)
    assert not study.full_batch
    deterministic, bayesian = (study.schedule(bayesian=own) for own in (False, True))
    assert isinstance(deterministic, MinibatchSchedule)
    assert (deterministic.learning_rate, bayesian.learning_rate, deterministic.decay) == (0.002, 0.005, "cosine")
    assert [len(group) for group in study.groups] == [1, 1]
    assert study.resolved_schemes()[1].prior == "isotropic"
    with pytest.raises(ValueError, match="networks on towns are trained in minibatches of 32"):
        study.full_schedule  # noqa: B018 - it raises


def test_a_spectrum_by_lanczos_is_that_of_the_whole_matrix(table, monkeypatch):
    study = Study(table("kind"), target=("kind",), schemes=("weight-decay",), **SMALL)
    study = on_first(study)
    dense = measure(study).tables["results"].iloc[0]
    monkeypatch.setattr(description, "DENSE_PASSES", 0)
    products = measure(study).tables["results"].iloc[0]
    assert (dense["spectrum"], products["spectrum"]) == ("dense", "lanczos")
    for name in ("loss_hessian_max", "loss_hessian_min", "hessian_max", "hessian_min", "spearman"):
        assert products[name] == pytest.approx(dense[name], rel=1e-3, abs=1e-3 * dense["loss_hessian_max"])
    assert np.isnan(products["power_iteration"])


def test_the_sweep_is_left_out_where_the_curvature_is_large(table, monkeypatch, tmp_path):
    monkeypatch.setattr(description, "DENSE_SIZE", 3)
    study = on_first(Study(table("kind"), target=("kind",), schemes=("weight-decay",), **SMALL))
    result = compare_regularisers(study, tmp_path / "out", n_jobs=1, progress=False)
    assert len(result.damping) == 0
    assert not (tmp_path / "out" / "damping.png").exists()
    assert "Spectrum of the loss, weight-decay: by Lanczos" in "".join(result.findings)


@pytest.mark.slow
def test_a_network_of_ones_own_has_no_sizes_in_what_is_said(table, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mynets.py").write_text(
        "from torch import nn\ndef small():\n    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))\n"
    )
    own = {name: value for name, value in SMALL.items() if name != "width"} | {"repeats": 2}
    study = on_first(Study(table("kind"), "mynets:small", target=("kind",), schemes=("none", "weight-decay"), **own))
    assert (study.sizes, study.title) == ((0, 0), "mynets:small")
    assert list(study.cells()) == ["schemes=none", "schemes=weight-decay"]
    result = compare_regularisers(study, tmp_path / "out", n_jobs=1, progress=False)
    assert any(line.startswith("Spearman, 2 seeds: ") for line in result.findings)
    with pytest.raises(ValueError, match="mynets:small has no width to choose; leave width out"):
        replace(study, width=3)
    with pytest.raises(ValueError, match="mynets:small has no activation to choose"):
        replace(study, activation="tanh")
