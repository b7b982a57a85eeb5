"""Probabilities and labels of `BayesianClassifier`."""

import numpy as np
import pytest
import torch

import bayes_influence as bi
from bayes_influence.data.synthetic import logistic_classes

LABELS = np.array(["oak", "ash", "elm"])


@pytest.fixture(scope="module")
def problem():
    data = logistic_classes(60, n_features=3, n_classes=3, seed=1).dataset
    X, y = data.inputs.numpy(), LABELS[data.targets.numpy()]  # noqa: N806
    fitted = bi.BayesianClassifier(depth=0, epochs=150, learning_rate=0.1, random_state=0, tolerance=None)
    return fitted.fit(X, y), X, y


def test_probabilities_are_those_of_a_linear_model_with_random_weights(problem):
    fitted, X, _ = problem  # noqa: N806
    params = {name: value.numpy() for name, value in fitted.fits_.at(0).params.items()}
    rows = (X - X.mean(axis=0)) / X.std(axis=0)
    mean = rows @ params["0.weight"].T + params["0.bias"]
    variance = rows**2 @ np.exp(2 * params["0.weight_rho"]).T + np.exp(2 * params["0.bias_rho"])
    logits = mean / np.sqrt(1 + np.pi / 8 * variance)  # MacKay's averaging over the logits
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(fitted.predict_proba(X), expected, rtol=1e-10)


def test_columns_and_labels_are_in_the_order_of_the_classes(problem):
    fitted, X, y = problem  # noqa: N806
    assert fitted.classes_.tolist() == ["ash", "elm", "oak"]
    assert (fitted.predict(X) == fitted.classes_[fitted.predict_proba(X).argmax(axis=1)]).all()
    assert fitted.score(X, y) > 0.6
    encoded = fitted.dataset(X[:5], y[:5])
    assert [fitted.classes_[index] for index in encoded.targets] == y[:5].tolist()
    assert encoded.class_names == ("ash", "elm", "oak")


def test_a_class_of_one_row_is_learned(untraced):
    X = np.arange(6.0)[:, None]  # noqa: N806
    fitted = bi.BayesianClassifier(width=2, epochs=2, tolerance=None).fit(X, [0, 0, 0, 0, 0, 1])
    torch.testing.assert_close(torch.from_numpy(fitted.predict_proba(X).sum(axis=1)), torch.ones(6).double())


def test_a_test_row_of_an_unseen_class(problem):
    fitted, X, y = problem  # noqa: N806
    with pytest.raises(ValueError, match=r"no training example has the class 'yew'; there are \['ash', 'elm', 'oak'\]"):
        fitted.dataset(X[:2], [y[0], "yew"])


def test_one_class_alone():
    with pytest.raises(ValueError, match="a classifier needs two classes or more, got one class: 3"):
        bi.BayesianClassifier().fit(np.arange(6.0)[:, None], [3] * 6)
