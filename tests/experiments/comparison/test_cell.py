"""A cell's truth against refits by code of its own, in the parameters that each estimate moves."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bayes_influence.experiments.comparison.cell import Estimator, estimators, measure
from bayes_influence.experiments.comparison.study import Study
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.schemes import find_schemes

STUDY = Study(repeats=1, removals=4, epochs=300, refit_epochs=50, schemes=("bnn",), test_example=83)


@pytest.fixture(scope="module")
def cell():
    return measure(STUDY)


def fitted(study=STUDY):
    (fits,) = fit_schemes(
        find_schemes(study.schemes), study.make_network, study.split().train, study.seeds, study.full_schedule,
        parameters=study.parameters,
    )  # fmt: skip
    return fits


def newton_minimum(objective, batch, data_weights):
    """Where J is least with these weights, by ten undamped steps of Newton's method in the moved parameters alone."""
    flat, theta = objective.flat, objective.flat.theta
    for _ in range(10):
        gradient = torch.func.grad(flat.value)(theta, batch, data_weights)
        hessian = torch.func.hessian(flat.value)(theta, batch, data_weights)
        theta = theta - torch.linalg.solve(hessian, gradient)
    return flat.state(theta)


@pytest.mark.parametrize(
    ("estimator", "moved"),
    [("variational", "last-layer"), ("posterior-mean", "last-layer-means")],
)
def test_the_truth_moves_the_parameters_that_the_estimate_moves(cell, estimator, moved):
    split, objective = STUDY.split(), fitted().at(0).taking(moved)
    rows = cell.tables["differences"].query("estimator == @estimator")
    before = objective.losses(objective.params, split.test.batch())
    for row in rows.itertuples():
        kept = (split.train.ids != row.example).to(torch.float64)
        refitted = newton_minimum(objective, split.train.batch(), kept)
        true = objective.losses(refitted, split.test.batch()) - before
        assert row.true == pytest.approx(float(true.detach()), rel=1e-6)


def test_both_estimates_of_a_bayesian_network_agree_with_their_own_truth_in_size(cell):
    results = cell.tables["results"].set_index("estimator")
    assert results["slope"].between(0.9, 1.25).all()
    assert (results["pearson"] > 0.99).all()
    assert results["refits_converged"].all()
    truths = cell.tables["differences"].pivot(index="example", columns="estimator", values="true")
    assert not np.allclose(truths["variational"], truths["posterior-mean"], rtol=1e-2)


def test_what_a_network_is_like_is_the_same_for_its_estimators(cell):
    results = cell.tables["results"]
    for column in ("train_accuracy", "gradient_norm", "polished", "loss_hessian_max", "power_iteration"):
        assert results[column].nunique() == 1
    assert (results["seconds"] > 0).all()


def test_every_row_says_of_which_network_it_is(cell):
    for frame in cell.tables.values():
        assert list(frame.columns[:2]) == ["depth", "width"]
        assert set(frame["depth"]) == {1}
        assert set(frame["width"]) == {5}
        assert set(frame["scheme"]) == {"bnn"}


def test_a_curvature_too_large_for_a_sweep_leaves_a_table_of_the_same_kinds(cell, monkeypatch):
    monkeypatch.setattr("bayes_influence.experiments.comparison.cell.is_small", lambda *of: False)
    large = measure(replace(STUDY, epochs=2, refit_epochs=2, removals=3, schemes=("weight-decay",)))
    sweep, none = cell.tables["damping"], large.tables["damping"]
    assert none.empty
    assert none.dtypes.to_dict() == sweep.dtypes.to_dict()


def test_estimators_follow_the_parameters_of_the_study():
    bayesian = fitted(replace(STUDY, epochs=1)).objective
    assert estimators("last-layer", bayesian) == [
        Estimator("variational", "last-layer"),
        Estimator("posterior-mean", "last-layer-means"),
    ]
    assert estimators("all", bayesian) == [Estimator("variational", "all"), Estimator("posterior-mean", "means")]
    plain = fitted(replace(STUDY, epochs=1, schemes=("none",))).objective
    assert estimators("last-layer", plain) == [Estimator("influence", "last-layer")]


@pytest.mark.slow
def test_a_deep_ensemble_is_compared_as_one_network():
    study = replace(STUDY, schemes=("deep-ensemble",), scheme_options={"size": 2})
    results = measure(study).tables["results"]
    assert results["truth"].tolist() == ["newton"]
    assert results["pearson"].item() > 0.95
    assert results["loss_hessian_max"].item() > 0
