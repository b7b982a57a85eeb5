import logging
import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from bayes_influence.models.initialisation import initial_state
from bayes_influence.moments import TwinMismatchError, to_bayesian
from bayes_influence.objectives.derivatives import gradient
from bayes_influence.objectives.expected_likelihoods import ExpectedBernoulli
from bayes_influence.objectives.likelihoods import Bernoulli, GaussianNoise
from bayes_influence.training import fits as fits_module
from bayes_influence.training.deterministic import Deterministic
from bayes_influence.training.finiteness import NonFiniteTrainingError
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.minibatch import train_minibatches
from bayes_influence.training.minibatch_schedule import MinibatchSchedule
from bayes_influence.training.prepared import prepared_objective
from bayes_influence.training.schedules import SWA, Schedule
from bayes_influence.training.schemes import SCHEMES, Variational, find_schemes
from tests.fitted import Recurrent


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
    assert bayesian.scheme.shares_ensemble(tempered.scheme)
    assert (bayesian.objective.regulariser_weight, tempered.objective.regulariser_weight) == (1.0, 0.1)
    widths = [fit.params["2.weight_rho"].exp().mean() for fit in (bayesian, tempered)]
    assert widths[1] < 0.8 * widths[0]


def test_unregularised_schemes_are_left_as_trained_and_their_gradient_is_reported(iris):
    (fit,) = fit_schemes(find_schemes(["none"]), make_network, iris.train, [0], Schedule(100))
    assert not fit.polished.any()
    measured = gradient(fit.at(0), iris.train.batch()).norm()
    assert torch.allclose(fit.gradient_norms[0], measured)
    assert float(measured) > 1e-4


def test_on_a_schedule_of_minibatches_every_scheme_trains_as_it_would_alone(iris):
    schedule = MinibatchSchedule(4, 16, 0.01, decay="cosine")
    schemes = find_schemes(["swa", "weight-decay", "bnn", "dropout"])
    for fit in fit_schemes(schemes, make_network, iris.train, [3, 5], schedule, tolerance=None):
        start, buffers = initial_state(lambda fit=fit: fit.scheme.prepare(make_network()), [5], dtype=torch.float64)
        objective = prepared_objective(fit.scheme, make_network, iris.train, 5)
        options = {"averaging": fit.scheme.averaging, "step": fit.scheme.step(objective, len(iris.train))}
        alone = train_minibatches(objective, start, iris.train, schedule, [5], buffers=buffers, **options)
        for name, value in fit.params.items():
            torch.testing.assert_close(value[1], alone.params[name][0], rtol=0, atol=1e-10)


def test_networks_of_minibatches_are_polished_to_the_same_minimum_as_others(iris):
    (fit,) = fit_schemes(find_schemes(["weight-decay"]), make_network, iris.train, [0], MinibatchSchedule(3, 16, 0.01))
    assert fit.polished.all()
    assert float(gradient(fit.at(0), iris.train.batch()).norm()) <= 1e-10


def test_a_polish_that_falls_short_is_logged_with_the_norm(iris, caplog):
    """Minima of a SELU network lie at kinks, where the gradient of all layers does not vanish."""
    with caplog.at_level(logging.WARNING, logger=fits_module.__name__):
        (fit,) = fit_schemes(
            find_schemes(["weight-decay"]), make_network, iris.train, [0], Schedule(50), parameters="all"
        )
    assert not fit.polished.any()
    assert "1 of 1 networks did not reach a gradient norm of 1.0e-10" in caplog.text


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


class Labels(Deterministic):
    """Weight decay under the likelihood of labels."""

    def objective(self, network, n_train, parameters="all"):
        return replace(super().objective(network, n_train, parameters), likelihood=Bernoulli())


SETOSA = [Labels("labels"), Variational("bayesian-labels", likelihood=ExpectedBernoulli())]


@pytest.mark.parametrize("outputs", [1, 3])
def test_schemes_of_labels_train_networks_with_a_logit_each(iris, outputs):
    one_hot = torch.eye(3)[iris.train.targets][:, :outputs]
    labels = replace(iris.train, targets=one_hot.squeeze(1), class_names=())
    for fits in fit_schemes(SETOSA, lambda: nn.Linear(4, outputs), labels, [0], Schedule(300, 0.05), tolerance=1e-5):
        objective = fits.at(0)
        outputs_there = objective.outputs(objective.params, labels.inputs)
        assert objective.likelihood.hits(outputs_there, labels.targets).mean() > (0.95 if outputs == 1 else 0.7)


def test_whole_number_labels_count_as_off_and_on(iris):
    labels = replace(iris.train, targets=(iris.train.targets == 0).long(), class_names=())
    (fits,) = fit_schemes(SETOSA[:1], lambda: nn.Linear(4, 1), labels, [0], Schedule(50, 0.05), tolerance=None)
    assert fits.at(0).losses(fits.at(0).params, labels.batch()).mean() < 0.5
    lonely = labels.select([0, *torch.where(labels.targets == 1 - labels.targets[0])[0].tolist()])
    with pytest.raises(ValueError, match="has 1 member, at least 2 are needed"):
        fit_schemes(SETOSA[:1], lambda: nn.Linear(4, 1), lonely, [0], Schedule(10**9))


@pytest.mark.parametrize(
    ("outputs", "targets", "error", "message"),
    [
        (1, lambda classes: (classes == 0).long(), ValueError, "one logit of two classes is Bernoulli's"),
        (
            3,
            lambda classes: torch.stack([classes > 0, classes > 1, classes > 2], 1).long(),
            ValueError,
            "Bernoulli for",
        ),
        (3, lambda classes: classes.float(), TypeError, "needs class indices, int64, got torch.float32"),
    ],
)
@pytest.mark.parametrize("scheme", ["none", "bnn"])
def test_targets_that_are_no_classes_are_refused_before_training(iris, scheme, outputs, targets, error, message):
    other = replace(iris.train, targets=targets(iris.train.targets), class_names=())
    with pytest.raises(error, match=f"iris: .*{message}"):
        fit_schemes(find_schemes([scheme]), lambda: nn.Linear(4, outputs), other, [0], Schedule(10**9))


def test_two_ways_of_averaging_train_apart(iris):
    schemes = [SCHEMES["swa"], Deterministic("early-swa", averaging=SWA(start=0.5), regulariser_weight=0.0)]
    late, early = fit_schemes(schemes, make_network, iris.train, [0], Schedule(20))
    assert not torch.equal(late.params["0.weight"], early.params["0.weight"])
    (alone,) = fit_schemes(schemes[1:], make_network, iris.train, [0], Schedule(20))
    assert torch.equal(alone.params["0.weight"], early.params["0.weight"])


def test_a_network_for_a_factory_is_refused(iris):
    with pytest.raises(TypeError, match="must build a new network at every call, got a Sequential itself; pass a"):
        fit_schemes(find_schemes(["none"]), make_network(), iris.train, [0], Schedule(5))


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


@pytest.mark.parametrize("scheme", ["weight-decay", "dropout"])
def test_frozen_parameters_stay_where_they_start(iris, scheme):
    def frozen():
        network = make_network()
        network[0].requires_grad_(False)
        return network

    (fit,) = fit_schemes(find_schemes([scheme]), frozen, iris.train, [3], Schedule(20), tolerance=None)
    torch.manual_seed(3)
    start = make_network().double()
    assert torch.equal(fit.params["0.weight"][0], start[0].weight)
    assert not torch.equal(fit.params["2.weight"][0], start[2].weight)


def test_running_statistics_are_those_of_the_training_and_each_members_own(iris):
    def normalised():
        return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))

    (fit,) = fit_schemes(find_schemes(["swa"]), normalised, iris.train, [0, 1], Schedule(60), tolerance=None)
    for index in range(2):
        network = fit.at(index).network
        hidden = network[0](iris.train.inputs)
        torch.testing.assert_close(network[1].running_mean, hidden.mean(0))
        torch.testing.assert_close(network[1].running_var, hidden.var(0))
    assert not torch.equal(*fit.buffers["1.running_mean"])


def test_a_networks_own_dropout_drops_and_one_of_zero_changes_nothing(iris):
    def ended(*layers):
        make = lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), *layers, nn.Linear(5, 3))  # noqa: E731
        (fit,) = fit_schemes(find_schemes(["none"]), make, iris.train, [0], Schedule(20))
        return fit.params["0.weight"]

    plain, idle, dropped = ended(nn.Identity()), ended(nn.Dropout(0.0)), ended(nn.Dropout(0.5))
    assert torch.equal(plain, idle)
    assert not torch.allclose(plain, dropped, atol=1e-3)


@pytest.mark.parametrize("scheme", ["none", "dropout", "bnn"])
def test_networks_of_the_caller_and_the_global_generator_are_left_as_they_were(iris, scheme):
    network = make_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.random.get_rng_state()
    fit_schemes(find_schemes([scheme]), lambda: network, iris.train, [0], Schedule(3), tolerance=None)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert {value.dtype for value in network.parameters()} == {torch.float32}


class Drawn(nn.Module):
    """Inputs in an order and on scales that are drawn where the network is made."""

    def __init__(self):
        super().__init__()
        self.register_buffer("order", torch.randperm(4))
        self.register_buffer("scale", torch.rand(4))

    def forward(self, inputs):
        return inputs[:, self.order] * self.scale


@pytest.mark.parametrize("layer", [nn.Identity(), nn.Dropout(0.3)], ids=["together", "in turns"])
@pytest.mark.parametrize("tolerance", [None, 1e-10], ids=["trained", "polished"])
def test_random_buffers_are_each_members_own(iris, layer, tolerance):
    make = lambda: nn.Sequential(Drawn(), layer, nn.Linear(4, 3))  # noqa: E731
    both, (alone,) = (
        fit_schemes(find_schemes(["weight-decay"]), make, iris.train, seeds, Schedule(20), tolerance=tolerance)
        for seeds in ([4, 5], [5])
    )
    torch.manual_seed(5)
    assert torch.equal(both[0].at(1).buffers["0.order"], torch.randperm(4))
    assert torch.equal(both[0].at(1).buffers["0.scale"], torch.rand(4).to(iris.train.inputs))
    torch.testing.assert_close(both[0].at(1).params["2.weight"], alone.at(0).params["2.weight"])


def test_a_twin_that_is_not_the_network_is_refused(iris):
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, inputs):
            hidden = self.layer(inputs)
            return self.head(2 * hidden if type(self.layer) is nn.Linear else hidden)

    with pytest.raises(TwinMismatchError, match="outputs"):
        fit_schemes(find_schemes(["bnn"]), Branching, iris.train, [0], Schedule(3))


def test_a_polish_in_single_precision_names_the_precision(iris, caplog):
    single = iris.train.to(dtype=torch.float32)
    with caplog.at_level("WARNING"):
        fit_schemes(find_schemes(["weight-decay"]), lambda: nn.Linear(4, 3), single, [0], Schedule(20), tolerance=1e-12)
    assert "in torch.float32 rounding keeps the norm up: give data in torch.float64" in caplog.text


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("make", "what"),
    [(lambda: to_bayesian(make_network()), "a Bayesian network"), (lambda: "a network", "str 'a network'")],
)
def test_builders_of_something_else_are_refused(iris, make, what):
    with pytest.raises(TypeError, match=f"must return a deterministic network, an nn.Module, got {what}"):
        fit_schemes([SCHEMES["none"]], make, iris.train, [0], Schedule(1))


def test_the_seconds_are_those_of_training_and_polish(iris):
    began = time.perf_counter()
    (fit,) = fit_schemes([SCHEMES["weight-decay"]], make_network, iris.train, [0], Schedule(20))
    assert 0 < fit.seconds < time.perf_counter() - began


def test_targets_that_are_all_the_same_are_warned_of(train, caplog):
    equal = replace(train, targets=torch.ones(len(train), 1, dtype=torch.float64), class_names=())
    noisy = Deterministic("gaussian", criterion=GaussianNoise(1.0))
    fit_schemes([noisy], lambda: nn.Linear(3, 1).double(), equal, [0], Schedule(1))
    assert "all 40 training targets are 1; nothing can be learned from them" in caplog.text


def test_recurrent_networks_are_each_where_its_own_training_ends(train):
    """What torch leaves in a recurrent layer after a batching rule that is missing does not keep it from a copy."""
    (both,) = fit_schemes([SCHEMES["weight-decay"]], Recurrent, train, [0, 1], Schedule(5), tolerance=None)
    for index in range(2):
        (alone,) = fit_schemes([SCHEMES["weight-decay"]], Recurrent, train, [index], Schedule(5), tolerance=None)
        for name, value in alone.at(0).params.items():
            torch.testing.assert_close(both.at(index).params[name], value, rtol=1e-8, atol=1e-10)
