"""What scikit-learn asks of every estimator, with networks that learn just enough."""

import pytest
from sklearn.utils.estimator_checks import estimator_checks_generator

from bayes_influence.estimators.classifier import BayesianClassifier
from bayes_influence.estimators.regressor import BayesianRegressor

SHORT = {"width": 4, "epochs": 20, "learning_rate": 0.3, "tolerance": None}

QUICK = {
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimators_unfitted",
    "check_no_attributes_set_in_init",
    "check_sample_weight_equivalence_on_dense_data",
}
"""Checks in every test run; all of them are in the slow one."""


def checks():
    for estimator in (BayesianClassifier(**SHORT), BayesianRegressor(**SHORT)):
        for own, check in estimator_checks_generator(estimator):
            name = check.func.__name__
            said = ",".join(f"{key}={value}" for key, value in check.keywords.items())
            marks = () if name in QUICK else pytest.mark.slow
            yield pytest.param(own, check, id=f"{type(own).__name__}-{name}({said})", marks=marks)


@pytest.mark.parametrize(("estimator", "check"), list(checks()))
def test_what_scikit_learn_checks(estimator, check, as_installed, untraced):
    assert check(estimator) is None


def test_the_quick_checks_are_among_those_that_there_are():
    assert {param.values[1].func.__name__ for param in checks()} >= QUICK
