"""Means and standard deviations of `BayesianRegressor`."""

import numpy as np
import pytest

import bayes_influence as bi
from bayes_influence.data.synthetic import linear_regression

SHORT = {"depth": 0, "epochs": 200, "learning_rate": 0.1, "random_state": 0, "tolerance": None}


@pytest.fixture(scope="module")
def problem():
    data = linear_regression(60, n_features=3, seed=1).dataset
    X, y = data.inputs.numpy(), 100 + 20 * data.targets.numpy().reshape(-1)  # noqa: N806
    return bi.BayesianRegressor(**SHORT).fit(X, y), X, y


def test_mean_and_deviation_are_those_of_a_linear_model_with_random_weights(problem):
    fitted, X, y = problem  # noqa: N806
    params = {name: value.numpy() for name, value in fitted.fits_.at(0).params.items()}
    rows = (X - X.mean(axis=0)) / X.std(axis=0)
    mean = rows @ params["network.0.weight"][0] + params["network.0.bias"]
    variance = rows**2 @ np.exp(2 * params["network.0.weight_rho"][0]) + np.exp(2 * params["network.0.bias_rho"])
    found, deviation = fitted.predict(X, return_std=True)
    np.testing.assert_allclose(found, y.mean() + y.std() * mean, rtol=1e-10)
    np.testing.assert_allclose(deviation, y.std() * np.sqrt(variance + np.exp(2 * params["log_scale"])), rtol=1e-10)
    np.testing.assert_array_equal(fitted.predict(X), found)


def test_intervals_hold_what_they_say(problem):
    fitted, X, y = problem  # noqa: N806
    mean, deviation = fitted.predict(X, return_std=True)
    assert fitted.score(X, y) > 0.5
    assert 0.85 < (np.abs(y - mean) < 1.96 * deviation).mean() <= 1


def test_units_of_the_target_are_those_of_the_prediction(problem):
    fitted, X, y = problem  # noqa: N806
    other = bi.BayesianRegressor(**SHORT).fit(X, 3 * y - 7)
    mean, deviation = fitted.predict(X, return_std=True)
    other_mean, other_deviation = other.predict(X, return_std=True)
    np.testing.assert_allclose(other_mean, 3 * mean - 7, rtol=1e-6)
    np.testing.assert_allclose(other_deviation, 3 * deviation, rtol=1e-6)


def test_a_constant_target(problem, untraced):
    _, X, _ = problem  # noqa: N806
    fitted = bi.BayesianRegressor(**{**SHORT, "epochs": 5}).fit(X, np.full(60, 4.0))
    assert (fitted.target_mean_, fitted.target_scale_) == (4.0, 1.0)
    assert np.isfinite(fitted.predict(X)).all()


def test_words_are_refused_as_targets():
    with pytest.raises(ValueError, match=r"y must hold numbers, got .*'a'.*; take BayesianClassifier for classes"):
        bi.BayesianRegressor().fit(np.eye(4), np.array(["a"] * 4))
