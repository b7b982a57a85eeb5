"""What both estimators do with rows, weights and influence."""

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError

import bayes_influence as bi
from bayes_influence.data.synthetic import logistic_classes

SHORT = {"width": 3, "epochs": 60, "learning_rate": 0.1, "random_state": 0}


def arrays(count=40):
    data = logistic_classes(count, n_features=3, n_classes=2, seed=1).dataset
    return 2.0 + 5.0 * data.inputs.numpy(), data.targets.numpy()


@pytest.fixture(scope="module")
def problem():
    X, y = arrays()  # noqa: N806
    return bi.BayesianClassifier(**SHORT).fit(X[:30], y[:30]), X, y


def test_rows_are_standardised_by_the_training_rows(problem):
    fitted, X, y = problem  # noqa: N806
    expected = (X - X[:30].mean(axis=0)) / X[:30].std(axis=0)
    np.testing.assert_allclose(fitted.train_.inputs.numpy(), expected[:30], rtol=1e-12)
    np.testing.assert_allclose(fitted.dataset(X[30:], y[30:]).inputs.numpy(), expected[30:], rtol=1e-12)


def test_a_constant_column_is_centred_and_not_divided(untraced):
    X, y = arrays()  # noqa: N806
    X[:, 1] = 7.0
    fitted = bi.BayesianClassifier(**{**SHORT, "epochs": 2, "tolerance": None}).fit(X, y)
    assert fitted.input_scale_[1] == 1
    assert (fitted.train_.inputs[:, 1] == 0).all()


def test_influence_predicts_what_retraining_without_a_row_does(problem):
    fitted, X, y = problem  # noqa: N806
    tests = fitted.dataset(X[30:], y[30:])
    scores = fitted.influence(damping=0.0).on_loss(tests)
    assert scores.train_ids.tolist() == list(range(30))
    strongest = scores.removal.abs().sum(dim=0).argsort(descending=True)[:3]
    refits = bi.Minimum().refit(fitted.fits_, fitted.train_, strongest)
    truth = bi.loss_changes(refits, tests)[0]
    found = bi.agreement(scores.removal[:, strongest].T.flatten(), truth.flatten())
    assert found.pearson > 0.98
    assert 0.8 < found.slope < 1.25


def test_a_weight_of_two_is_a_row_seen_twice(untraced):
    X, y = arrays(12)  # noqa: N806
    short = {**SHORT, "epochs": 5, "tolerance": None}
    weighted = bi.BayesianClassifier(**short).fit(X, y, sample_weight=np.r_[2.0, np.ones(11)])
    repeated = bi.BayesianClassifier(**short).fit(np.r_[X, X[:1]], np.r_[y, y[:1]])
    one, other = weighted.fits_.at(0), repeated.fits_.at(0)
    for name, value in one.params.items():
        torch.testing.assert_close(value, other.params[name])
    torch.testing.assert_close(
        one.value(one.params, weighted.train_.batch()), one.value(one.params, repeated.train_.batch())
    )
    tests = weighted.dataset(X[:2], y[:2])
    both, each = (part.influence(damping=1.0).on_loss(tests).removal for part in (weighted, repeated))
    torch.testing.assert_close(both[:, 0], each[:, 0] + each[:, 12])
    torch.testing.assert_close(both[:, 1:], each[:, 1:12])


def test_a_row_of_weight_zero_takes_no_part(untraced):
    X, y = arrays(12)  # noqa: N806
    X[3] = 1e6
    weights = np.ones(12)
    weights[3] = 0
    short = {**SHORT, "epochs": 2, "tolerance": None}
    fitted = bi.BayesianClassifier(**short).fit(X, y, sample_weight=weights)
    without = bi.BayesianClassifier(**short).fit(np.delete(X, 3, 0), np.delete(y, 3))
    assert fitted.train_.ids.tolist() == [0, 1, 2, *range(4, 12)]
    np.testing.assert_array_equal(fitted.predict_proba(X), without.predict_proba(X))


def test_the_weight_of_the_kl_goes_into_the_objective(untraced):
    X, y = arrays(12)  # noqa: N806
    fitted = bi.BayesianClassifier(**{**SHORT, "epochs": 2, "tolerance": None, "kl_weight": 0.1, "prior_scale": 2.0})
    objective = fitted.fit(X, y, sample_weight=np.full(12, 3.0)).fits_.at(0)
    # 12 rows of weight 3 are 36 examples: J = mean loss + 0.1 KL / 36.
    whole = bi.GaussianKL(36, 2.0)
    found = objective.regulariser_weight * objective.regulariser(objective.params)
    torch.testing.assert_close(found, 0.1 * whole(objective.params))


@pytest.mark.parametrize(
    ("weights", "complaint"),
    [
        (np.ones(5), r"sample_weight must have shape \(12,\), one weight per row of X, got \(5,\)"),
        (np.r_[-1.0, np.ones(11)], "every sample_weight must be finite and at least 0, got"),
        (np.r_[np.nan, np.ones(11)], "every sample_weight must be finite and at least 0, got"),
        (np.zeros(12), "every sample_weight is zero, so that no row is left"),
    ],
)
def test_weights_that_are_none(weights, complaint):
    X, y = arrays(12)  # noqa: N806
    with pytest.raises(ValueError, match=complaint):
        bi.BayesianClassifier(**SHORT).fit(X, y, sample_weight=weights)


@pytest.mark.parametrize("asked", [lambda it, rows, y: it.influence(), lambda it, rows, y: it.dataset(rows, y)])
def test_nothing_is_said_before_the_fit(asked):
    with pytest.raises(NotFittedError, match="This BayesianRegressor instance is not fitted yet"):
        asked(bi.BayesianRegressor(), *arrays(12))


def test_names_of_columns_are_those_of_the_frame(untraced):
    import pandas as pd

    X, y = arrays(12)  # noqa: N806
    frame = pd.DataFrame(X, columns=["height", "width", "age"])
    fitted = bi.BayesianClassifier(**{**SHORT, "epochs": 2, "tolerance": None}).fit(frame, y)
    assert fitted.train_.feature_names == ("height", "width", "age")
