from dataclasses import dataclass, replace

import pytest
import torch

from bayes_influence.data.synthetic import logistic_classes
from bayes_influence.models.mlp import MLP
from bayes_influence.objectives.expected_likelihoods import (
    ExpectedBernoulli,
    ExpectedGaussian,
    ExtendedVI,
    as_likelihood,
)
from bayes_influence.objectives.likelihoods import Bernoulli, CrossEntropy, GaussianNoise
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.training.averaging import SWAG
from bayes_influence.training.deterministic import Deterministic, Dropout
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.minimum import minimum_of
from bayes_influence.training.noise import LearnedNoise
from bayes_influence.training.schedules import SWA, Schedule
from bayes_influence.training.schemes import DEFAULT_SCHEMES, SCHEMES, Variational, ensembles, find_schemes


def grouped(*schemes):
    return [[scheme.name for scheme in group] for group in ensembles(schemes)]


def test_the_papers_schemes_train_in_two_ensembles():
    assert grouped(*find_schemes(DEFAULT_SCHEMES)) == [["none", "weight-decay", "swa", "weight-decay+swa"], ["bnn"]]


def test_whatever_is_trained_differently_trains_apart():
    names = ["swa", "swag", "dropout", "laplace", "deep-ensemble", "bnn", "bnn-evi", "mean-field-vi", "ivon"]
    assert grouped(*find_schemes(names)) == [[name] for name in names]
    assert grouped(*find_schemes(["bnn", "bnn-tempered"])) == [["bnn", "bnn-tempered"]]


@pytest.mark.parametrize(
    ("scheme", "change"),
    [
        (Deterministic("a"), {"weight_decay": 0.1}),
        (Deterministic("a", averaging=SWA()), {"averaging": SWA(start=0.5)}),
        (Deterministic("a", averaging=SWA()), {"averaging": SWAG()}),
        (Dropout("a"), {"probability": 0.5}),
        (Variational("a"), {"prior": "fan-in"}),
        (Variational("a"), {"prior_scale": 2.0}),
        (Variational("a"), {"method": "exact"}),
        (Variational("a"), {"initial_sigma": 0.1}),
    ],
)
def test_one_number_that_differs_is_enough(scheme, change):
    assert grouped(scheme, replace(scheme, name="b", **change)) == [["a"], ["b"]]


def test_a_new_schemes_numbers_keep_it_apart_without_a_word_about_it():
    @dataclass(frozen=True)
    class Own(Deterministic):
        number: float = 1.0

    assert grouped(Own("a"), Own("b", number=2.0), Own("c"), Deterministic("d")) == [["a", "c"], ["b"], ["d"]]


def test_numbers_that_are_no_fields_count_too():
    class Hidden(Deterministic):
        def __init__(self, name, number):
            super().__init__(name)
            object.__setattr__(self, "number", number)

    assert grouped(Hidden("a", 1), Hidden("b", 2)) == [["a"], ["b"]]


def test_options_are_set_by_name():
    assert SCHEMES["weight-decay"].with_options(weight_decay=0.1) == Deterministic("weight-decay", weight_decay=0.1)
    assert SCHEMES["bnn"].with_options(prior_scale=2.0, regulariser_weight=0.5).prior_scale == 2.0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("none", {"weight_decay": 0.1}, "the scheme none has no option weight_decay; it has none"),
        ("swa", {"weight_decay": 0.1}, "the scheme swa has no option weight_decay; it has averaging"),
        ("dropout", {"weight_decay": 0.1}, "the scheme dropout has no option weight_decay; it has probability"),
        ("weight-decay", {"prior": "fan-in"}, "no option prior; it has regulariser_weight, weight_decay"),
        ("bnn", {"weight_decay": 0.1}, "the scheme bnn has no option weight_decay; it has regulariser_weight, like"),
    ],
)
def test_options_that_a_scheme_does_not_have_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        SCHEMES[name].with_options(**options)


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        (
            "weight-decay",
            {"weight_decay": "0.1"},
            TypeError,
            "weight_decay of the scheme weight-decay must be a finite",
        ),
        ("weight-decay", {"weight_decay": True}, TypeError, "must be a finite number, got True"),
        ("weight-decay", {"weight_decay": float("nan")}, TypeError, "must be a finite number, got nan"),
        ("weight-decay", {"weight_decay": None}, TypeError, "must be a finite number, got None"),
        (
            "weight-decay",
            {"weight_decay": 0},
            ValueError,
            "weight_decay of the scheme weight-decay must be positive, got",
        ),
        ("weight-decay", {"regulariser_weight": -1.0}, ValueError, "must not be negative, got -1"),
        ("dropout", {"probability": 1.0}, ValueError, r"probability of the scheme dropout must lie in \(0, 1\), got 1"),
        ("swa", {"averaging": 0.75}, TypeError, "averaging of the scheme swa must be SWA, got 0.75"),
        ("bnn", {"prior": "flat"}, ValueError, "prior of the scheme bnn must be one of isotropic, fan-in, got 'flat'"),
        ("bnn", {"prior": 1}, TypeError, "must be one of isotropic, fan-in, got 1"),
        (
            "bnn",
            {"structure": "sparse"},
            ValueError,
            "must be one of diagonal, calibrated, covariance, calibrated-covariance, got 'sparse'",
        ),
        ("bnn", {"method": "exakt"}, ValueError, "must be one of first-order, exact, gauss-hermite, got 'exakt'"),
        ("bnn", {"prior_scale": 0.0}, ValueError, "prior_scale of the scheme bnn must be positive, got 0"),
        ("bnn", {"initial_sigma": -0.1}, ValueError, "initial_sigma of the scheme bnn must be positive, got -0.1"),
        ("bnn", {"regulariser_weight": 0.0}, ValueError, "must be positive, got 0.0: without a KL nothing holds"),
        ("bnn", {"likelihood": "probit"}, ValueError, "unknown likelihood 'probit'; known: tilted, sobol"),
        ("bnn", {"likelihood": 3}, TypeError, "likelihood of the scheme bnn must be str or a function, got 3"),
    ],
)
def test_values_that_an_option_cannot_have_are_refused(name, options, error, message):
    with pytest.raises(error, match=message):
        SCHEMES[name].with_options(**options)


def test_names_parse_to_likelihoods_and_none_leaves_the_start_unsaid():
    scheme = SCHEMES["bnn"].with_options(likelihood="evi", initial_sigma=None, prior_scale=2)
    assert scheme == Variational("bnn", likelihood=ExtendedVI(), prior_scale=2)
    assert scheme.likelihood is as_likelihood("evi")
    assert as_likelihood(len) is len


def test_what_is_said_to_several_schemes_goes_to_those_that_have_it():
    none, decayed, bayesian = find_schemes(["none", "weight-decay", "bnn"], {"weight_decay": 0.1, "method": "exact"})
    assert none == SCHEMES["none"]
    assert (decayed.weight_decay, bayesian.method) == (0.1, "exact")
    with pytest.raises(
        ValueError, match="none, swa: no option weight_decay to choose; schemes that have it: weight-decay, w"
    ):
        find_schemes(["none", "swa"], {"weight_decay": 0.1})
    with pytest.raises(ValueError, match="no option momentum to choose; no scheme has one of that name"):
        find_schemes(["none"], {"momentum": 0.9})


def test_schemes_say_whether_their_networks_are_bayesian():
    bayesian = [name for name, scheme in SCHEMES.items() if scheme.bayesian]
    assert bayesian == ["bnn", "bnn-tempered", "bnn-evi", "mean-field-vi", "ivon"]


def test_schemes_suit_what_is_predicted():
    decay, bnn = SCHEMES["weight-decay"], SCHEMES["bnn"]
    assert decay.suited("classification") is decay
    assert (decay.suited("labels").criterion, decay.suited("regression").criterion) == (Bernoulli(), GaussianNoise(1.0))
    assert bnn.suited("labels").likelihood == ExpectedBernoulli()
    network = bnn.suited("regression", 2).prepare(MLP(3, 2))
    assert isinstance(network, LearnedNoise)
    assert network.scale.shape == (2,)
    assert bnn.suited("regression", 2).objective(network, 9).likelihood == ExpectedGaussian(None)


def test_a_likelihood_of_classes_is_refused_for_real_numbers():
    with pytest.raises(
        ValueError, match="bnn-evi has the likelihood ExtendedVI, which is for classes, but the data are"
    ):
        SCHEMES["bnn-evi"].suited("regression")


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("names", ["bnn", ["bnn", 1], iter(["bnn"]), None])
def test_schemes_are_asked_for_by_a_list_of_names(names):
    with pytest.raises(TypeError, match=r"schemes are asked for by a list of names, such as \['bnn'\], got"):
        find_schemes(names)


def test_laplace_trains_weight_decay_and_keeps_its_posterior_beside_it():
    train = logistic_classes(30, n_features=3, n_classes=3, seed=1).dataset
    (plain, scheme) = find_schemes(["weight-decay", "laplace"])
    make = lambda: MLP(3, 3, width=4)  # noqa: E731
    one, other = fit_schemes([plain, scheme], make, train, [0], Schedule(50, 0.05))
    for name, value in one.params.items():
        torch.testing.assert_close(other.params[name], value)
    assert plain.posterior(one.at(0), train) is None
    posterior = scheme.posterior(other.at(0), train)
    assert posterior.prior_precision == pytest.approx(30 * 0.005)
    assert posterior.layout.names == ("2.weight", "2.bias")
    changed = scheme.with_options(covariance="diagonal", posterior_parameters="all", weight_decay=0.01)
    assert changed.posterior(other.at(0), train).layout.names == tuple(other.params)
    best = scheme.with_options(prior_precision="marginal-likelihood").posterior(other.at(0), train)
    assert best.log_marginal_likelihood() > posterior.log_marginal_likelihood()


def test_laplace_needs_weight_decay_and_classes():
    with pytest.raises(ValueError, match=r"must be positive, got 0\.0: without weight decay there is no prior"):
        replace(SCHEMES["laplace"], regulariser_weight=0.0)
    with pytest.raises(ValueError, match="the scheme laplace is for classes, got regression"):
        SCHEMES["laplace"].suited("regression")


def test_a_deep_ensemble_ends_where_its_members_end_alone():
    train = logistic_classes(30, n_features=3, n_classes=3, seed=1).dataset
    make = lambda: MLP(3, 3, width=4, activation="tanh")  # noqa: E731
    scheme = replace(SCHEMES["deep-ensemble"], size=2, weight_decay=0.05)
    (fits,) = fit_schemes([scheme], make, train, [0], Schedule(200, 0.05), parameters="all", tolerance=1e-10)
    objective = fits.at(0)
    one = Objective(make().double(), CrossEntropy(), WeightDecay(0.05))
    losses = []
    for index in range(2):
        start = f"members.{index}."
        own = {name.removeprefix(start): v for name, v in objective.params.items() if name.startswith(start)}
        alone = minimum_of(one.at(own), train)
        for name, value in alone.params.items():
            torch.testing.assert_close(own[name], value, rtol=0, atol=1e-6)
        losses.append(alone.losses(alone.params, train.batch()))
    assert not torch.allclose(objective.params["members.0.0.weight"], objective.params["members.1.0.weight"], atol=0.1)
    torch.testing.assert_close(
        objective.losses(objective.params, train.batch()), torch.stack(losses).mean(0), rtol=1e-5, atol=1e-6
    )


def test_members_of_a_deep_ensemble_need_different_starts():
    scheme = SCHEMES["deep-ensemble"]
    with pytest.raises(ValueError, match="two came with the same weights; build them without a seed of their own"):
        scheme.built(lambda: MLP(3, 3, seed=0))
    with pytest.raises(ValueError, match="size of the scheme deep-ensemble must be at least 2 networks, got 1"):
        replace(scheme, size=1)
    with pytest.raises(ValueError, match="the scheme deep-ensemble is for classes, got labels"):
        scheme.suited("labels")
    assert len(scheme.prepare(MLP(3, 3)).members) == 5
