import logging

import pytest
import torch
from torch import nn

from bayes_influence.objectives.derivatives import gradient
from bayes_influence.training import fits as fits_module
from bayes_influence.training.finiteness import NonFiniteTrainingError
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.schedules import SWA, Schedule
from bayes_influence.training.schemes import SCHEMES, Deterministic, find_schemes


def make_network():
    return nn.Sequential(nn.Linear(4, 5), nn.SELU(), nn.Linear(5, 3))


def test_schemes_share_an_ensemble_and_come_back_in_order(iris):
    names = ["weight-decay+swa", "none", "weight-decay", "swa"]
    fits = fit_schemes(find_schemes(names), make_network, iris.train, range(2), Schedule(100))
    assert [fit.scheme.name for fit in fits] == names
    alone = fit_schemes(find_schemes(["swa"]), make_network, iris.train, [1], Schedule(100))[0]
    for name, value in fits[3].params.items():
        assert torch.allclose(value[1], alone.params[name][0], atol=1e-10)


@pytest.mark.parametrize("scheme", ["weight-decay", "weight-decay+swa", "bnn"])
def test_regularised_schemes_are_polished_in_the_last_layer(iris, scheme):
    (fit,) = fit_schemes(find_schemes([scheme]), make_network, iris.train, range(2), Schedule(300))
    assert fit.polished.all()
    for index in range(2):
        assert float(gradient(fit.at(index), iris.train.batch()).norm()) <= 1e-10


def test_a_tempered_posterior_is_trained_beside_the_bayesian_one_and_is_narrower(iris):
    schemes = find_schemes(["bnn", "bnn-tempered"])
    bayesian, tempered = fit_schemes(schemes, make_network, iris.train, [0], Schedule(400))
    assert bayesian.scheme.family == tempered.scheme.family
    assert (bayesian.objective.regulariser_weight, tempered.objective.regulariser_weight) == (1.0, 0.1)
    widths = [fit.params["2.weight_rho"].exp().mean() for fit in (bayesian, tempered)]
    assert widths[1] < 0.8 * widths[0]


def test_unregularised_schemes_are_left_as_trained_and_their_gradient_is_reported(iris):
    (fit,) = fit_schemes(find_schemes(["none"]), make_network, iris.train, [0], Schedule(100))
    assert not fit.polished.any()
    measured = gradient(fit.at(0), iris.train.batch()).norm()
    assert torch.allclose(fit.gradient_norms[0], measured)
    assert float(measured) > 1e-4


def test_a_polish_that_falls_short_is_logged_with_the_norm(iris, caplog):
    """Minima of a SELU network lie at kinks, where the gradient of all layers does not vanish."""
    with caplog.at_level(logging.WARNING, logger=fits_module.__name__):
        (fit,) = fit_schemes(
            find_schemes(["weight-decay"]), make_network, iris.train, [0], Schedule(50), parameters="all"
        )
    assert not fit.polished.any()
    assert "weight-decay: 1 of 1 members did not reach a gradient norm of 1.0e-10" in caplog.text


def test_a_training_that_diverges_names_scheme_seed_and_step(iris):
    class Overflow(nn.Module):
        def forward(self, inputs):
            return inputs * 1e308 * 1e308

    with pytest.raises(NonFiniteTrainingError, match=r"weight-decay, seed 7: the objective became (nan|inf) at step 0"):
        fit_schemes(
            find_schemes(["weight-decay"]),
            lambda: nn.Sequential(nn.Linear(4, 3), Overflow()),
            iris.train,
            [7],
            Schedule(5),
        )


def test_more_outputs_than_classes_are_refused_before_training(iris):
    with pytest.raises(
        ValueError, match="iris has 3 classes, but the network has 4 outputs; build it with n_outputs=3"
    ):
        fit_schemes(find_schemes(["none"]), lambda: nn.Linear(4, 4), iris.train, [0], Schedule(10**9))


def test_a_class_with_one_member_is_refused_before_training(iris):
    lonely = iris.train.select([*range(60), 120])
    with pytest.raises(ValueError, match=r"iris: class 2 \(virginica\) has 1 member, at least 2 are needed"):
        fit_schemes(find_schemes(["none"]), make_network, lonely, [0], Schedule(10**9))


def test_one_ensemble_averages_in_one_way(iris):
    clashing = [SCHEMES["swa"], Deterministic("early-swa", averaging=SWA(start=0.5))]
    with pytest.raises(ValueError, match="must average alike"):
        fit_schemes(clashing, make_network, iris.train, [0], Schedule(5))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["dropuot"], "unknown scheme dropuot; known: none, weight-decay, swa"),
        ([], r"unknown scheme \(none given\)"),
        (["swa", "swa"], "each scheme once, got swa, swa"),
    ],
)
def test_wrong_scheme_names_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        find_schemes(names)
