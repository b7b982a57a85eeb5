"""Every damping of a sweep against a solve of its own, and its sensitivity against finite differences."""

import pytest
import torch
from torch import nn

from bayes_influence.curvature.damping import FisherDamping
from bayes_influence.influence.damping_sweep import damping_sweep
from bayes_influence.influence.influence import Influence
from bayes_influence.moments.convert import to_bayesian
from bayes_influence.objectives.expected_likelihoods import TiltedCategorical
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import GaussianKL
from bayes_influence.training.minimum import minimum_of

DELTAS = [1e-3, 0.1, 10.0]


@pytest.mark.parametrize("name", ["linear", "deep"])
def test_removals_are_those_of_single_solves(request, train, test, name):
    objective = request.getfixturevalue(name)
    sweep = damping_sweep(objective, train, test, DELTAS)
    for delta, removal in zip(DELTAS, sweep.removal, strict=True):
        expected = Influence(objective, train, damping=delta).on_loss(test).removal
        torch.testing.assert_close(removal, expected, rtol=1e-8, atol=1e-11)


def test_dampings_of_a_variational_network_are_in_the_fisher_metric(train, test):
    torch.manual_seed(3)
    network = to_bayesian(nn.Sequential(nn.Linear(3, 3)).double(), initial_sigma=0.2)
    objective = minimum_of(Objective(network, TiltedCategorical(), GaussianKL(len(train))), train)
    sweep = damping_sweep(objective, train, test, DELTAS)
    for delta, removal in zip(DELTAS, sweep.removal, strict=True):
        expected = Influence(objective, train, damping=FisherDamping(delta)).on_loss(test).removal
        torch.testing.assert_close(removal, expected, rtol=1e-7, atol=1e-11)


def test_sensitivity_is_the_derivative_in_log_delta(linear, train, test):
    below, at, above = damping_sweep(linear, train, test, [0.1 * 0.9999, 0.1, 0.1 * 1.0001]).removal
    sensitivity = damping_sweep(linear, train, test, [0.1]).sensitivity[0]
    torch.testing.assert_close(sensitivity, (above - below) / 2e-4, rtol=1e-5, atol=1e-9)
    assert (at * sensitivity <= 0).double().mean() > 0.8  # damping shrinks influence


def test_a_damping_that_leaves_the_matrix_indefinite_gives_no_number(deep, train, test):
    torch.manual_seed(5)
    elsewhere = deep.at({name: 2 * torch.randn_like(value) for name, value in deep.params.items()})
    sweep = damping_sweep(elsewhere, train, test, [1e-6, 1e3])
    assert sweep.eigenvalues[0] < 0
    assert sweep.removal[0].isnan().all()
    assert sweep.removal[1].isfinite().all()


def test_a_damping_that_leaves_the_matrix_singular_gives_no_number(linear, train, test):
    size = linear.flat.theta.numel()
    sweep = damping_sweep(linear, train, test, [0.5, 1.0], hessian=-0.5 * torch.eye(size, dtype=torch.float64))
    assert sweep.removal[0].isnan().all()
    assert sweep.removal[1].isfinite().all()


@pytest.mark.parametrize("name", ["linear", "deep"])
def test_examples_go_through_in_blocks(request, train, test, name, monkeypatch):
    objective = request.getfixturevalue(name)
    whole = damping_sweep(objective, train, test, DELTAS)
    monkeypatch.setattr("bayes_influence.influence.problem.BLOCK_BYTES", 7 * 31 * 8)
    pieces = damping_sweep(objective, train, test, DELTAS)
    torch.testing.assert_close(pieces.removal, whole.removal, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(pieces.sensitivity, whole.sensitivity, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("deltas", [[], [0.1, 0.0], [-1.0]])
def test_dampings_must_be_positive(linear, train, test, deltas):
    with pytest.raises(ValueError, match="needs positive deltas"):
        damping_sweep(linear, train, test, deltas)
