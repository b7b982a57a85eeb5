import logging

import numpy as np
import pytest
import torch
from torch import nn

from bayes_influence.data.dataset import Dataset
from bayes_influence.evaluation.calibration import calibration
from bayes_influence.experiments.training import referee
from bayes_influence.experiments.training.referee import neglect, sampled_row, warn_where_parted
from bayes_influence.moments import moment_check, to_bayesian
from bayes_influence.moments.sampling import Posterior
from bayes_influence.objectives.expected_likelihoods import TiltedCategorical
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.prediction import predict


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    return Dataset(
        torch.randn(30, 4, generator=generator), torch.arange(30) % 3, torch.arange(30), "three classes of noise"
    )


@pytest.fixture
def objective():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    return Objective(to_bayesian(network, initial_sigma=0.8), TiltedCategorical())


def test_scores_are_those_of_the_mean_over_drawn_networks(objective, data, monkeypatch):
    monkeypatch.setattr(referee, "REFEREE_DRAWS", 6)
    monkeypatch.setattr(referee, "REFEREE_BATCH", 7)
    propagated = predict(objective, data.inputs, mode="diagonal").probabilities
    row = sampled_row(objective, data, propagated)
    draws = Posterior.of(objective.network).samples(data.inputs, 6, None)
    mean = torch.cat([torch.softmax(outputs, -1) for outputs in draws]).mean(0).double()
    expected = calibration(mean.numpy(), data.targets.numpy())
    assert row["sampled_nll"] == pytest.approx(expected.nll, rel=1e-5)
    assert row["sampled_ece"] == pytest.approx(expected.ece, rel=1e-4)
    differences = np.log(mean.numpy()[range(30), data.targets]) - np.log(
        propagated.double().numpy()[range(30), data.targets]
    )
    assert row["sampled_nll_error"] == pytest.approx(differences.std(ddof=1) / 30**0.5, rel=1e-4)


def test_a_single_network_has_none(data):
    row = sampled_row(Objective(nn.Linear(4, 3), CrossEntropy()), data, torch.full((30, 3), 1 / 3))
    assert list(row) == ["sampled_nll", "sampled_ece", "sampled_nll_error"]
    assert np.isnan(list(row.values())).all()


@pytest.mark.parametrize(
    ("nll", "sampled", "error", "warned"),
    [
        (0.020, 0.071, 0.003, True),
        (0.071, 0.020, 0.003, True),  # the moments may be too wide, too
        (0.020, 0.0219, 0.0001, False),  # less than a tenth
        (0.020, 0.071, 0.03, False),  # less than two standard errors
        (0.020, np.nan, np.nan, False),
    ],
)
def test_a_report_warns_where_samples_and_moments_part(nll, sampled, error, warned, caplog):
    with caplog.at_level(logging.WARNING):
        warn_where_parted("bnn, seed 3", nll, {"sampled_nll": sampled, "sampled_nll_error": error}, {})
    assert len(caplog.records) == int(warned)
    if warned:
        assert f"bnn, seed 3: with sampled weights its negative log-likelihood is {sampled:.4f}" in caplog.text
        assert f"by its moments {nll:.4f}: the moments are not the posterior's" in caplog.text


@pytest.mark.parametrize(
    ("method", "structure", "advice"),
    [
        ("first-order", "diagonal", "the method 'exact' and the structure 'calibrated-covariance'"),
        ("first-order", "calibrated", "the method 'exact'"),
        ("exact", "covariance", "the structure 'calibrated-covariance'"),
        ("exact", "calibrated-covariance", "a smaller regulariser_weight, for a narrower posterior"),
    ],
)
def test_what_may_help_depends_on_the_moments_that_were_trained(method, structure, advice, caplog):
    parted = {"sampled_nll": 0.071, "sampled_nll_error": 0.003}
    warn_where_parted("bnn, seed 3", 0.02, parted, {"method": method, "structure": structure})
    assert caplog.messages[0].endswith(f"look at moment_check, and train with {advice}")


def test_the_neglect_of_a_network_is_that_of_its_moment_check(objective, data):
    found = neglect(objective, data)
    checked = moment_check(objective.network, data.inputs, n_samples=referee.REFEREE_DRAWS)
    assert found == {"variance_ratio": checked.layers[-1].variance_ratio, "neglect": checked.summary}
    assert 0.2 < found["variance_ratio"] < 2


def test_a_network_without_variance_is_not_checked_and_says_why(objective, data):
    still = {n: torch.full_like(v, -40.0) if n.endswith("_rho") else v for n, v in objective.params.items()}
    found = neglect(objective.at(still), data)
    assert np.isnan(found["variance_ratio"])
    assert found["neglect"].startswith("not checked: the output of '0' (BayesianLinear) does not vary in the samples")
    alone = neglect(Objective(nn.Linear(4, 3), CrossEntropy()), data)
    assert alone["neglect"] == ""
    assert np.isnan(alone["variance_ratio"])
