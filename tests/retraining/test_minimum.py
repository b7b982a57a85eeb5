from dataclasses import replace

import numpy as np
import pytest
import scipy.optimize
import torch

from bayes_influence.influence.influence import Influence
from bayes_influence.objectives.derivatives import gradient
from bayes_influence.objectives.members import member
from bayes_influence.objectives.reweighting import Removals
from bayes_influence.retraining.minimum import Minimum
from bayes_influence.retraining.refits import loss_changes, losses_after
from bayes_influence.training.deterministic import DeepEnsemble, Deterministic
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.schedules import Schedule
from tests.fitted import DECAY, softmax_regression, tanh_network
from tests.references import softmax_regression_minimum


def _reference(train, weights):
    return softmax_regression_minimum(train.inputs, train.targets, weights, DECAY, 3)


def test_softmax_regression_is_refitted_as_by_a_newton_of_its_own(regression, train, removed):
    refits = Minimum().refit(regression, train, removed)
    assert refits.converged.all()
    assert float(refits.gradient_norms.max()) <= 1e-10
    for seed in range(2):
        for index in range(4):
            weights = np.ones(40)
            if index:
                weights[int(removed[seed, index - 1])] = 0
            weight, bias = _reference(train, weights)
            np.testing.assert_allclose(refits.params["0.weight"][seed, index], weight, atol=1e-8)
            np.testing.assert_allclose(refits.params["0.bias"][seed, index], bias, atol=1e-8)


@pytest.mark.parametrize("convention", ["fixed", "renormalised"])
def test_groups_are_refitted_under_both_conventions(regression, train, convention):
    groups = [torch.arange(0, 12), torch.tensor([1, 5, 9])]
    refits = Minimum().refit(regression, train, Removals.of_groups(groups, 2, convention))
    assert refits.converged.all()
    for index, group in enumerate(groups, start=1):
        weights = np.full(40, 40 / (40 - len(group)) if convention == "renormalised" else 1.0)
        weights[group] = 0
        weight, bias = _reference(train, weights)
        for seed in range(2):
            np.testing.assert_allclose(refits.params["0.weight"][seed, index], weight, atol=1e-8)
            np.testing.assert_allclose(refits.params["0.bias"][seed, index], bias, atol=1e-8)


def test_renormalised_refits_are_trainings_on_the_remaining_examples(regression, train):
    group = torch.arange(0, 12)
    refits = Minimum().refit(regression, train, Removals.of_groups([group], 2, "renormalised"))
    rest = train.without(group)
    weight, bias = softmax_regression_minimum(rest.inputs, rest.targets, np.ones(28), DECAY, 3)
    np.testing.assert_allclose(refits.params["0.weight"][0, 1], weight, atol=1e-8)
    np.testing.assert_allclose(refits.params["0.bias"][0, 1], bias, atol=1e-8)


def test_the_control_of_a_polished_fit_moves_nothing(regression, train, removed):
    refits = Minimum().refit(regression, train, removed)
    for name, value in regression.params.items():
        torch.testing.assert_close(refits.params[name][:, 0], value, rtol=0, atol=1e-10)


def test_the_effect_has_the_sign_and_size_of_the_removal_effect(regression, train, test, removed):
    changes = loss_changes(Minimum().refit(regression, train, removed), test)
    for seed in range(2):
        predicted = Influence(regression.at(seed), train).on_loss(test).removal[:, train.positions(removed[seed])].T
        assert torch.corrcoef(torch.stack([predicted.flatten(), changes[seed].flatten()]))[0, 1] > 0.99
        assert (predicted * changes[seed]).sum() > 0


def test_removing_an_example_raises_its_own_loss(regression, train, removed):
    own = loss_changes(Minimum().refit(regression, train, removed), train)
    for seed in range(2):
        assert all(own[seed, index, removed[seed, index]] > 0 for index in range(3))


def test_last_layer_refits_keep_the_features(train, test, removed):
    scheme = Deterministic("l2", weight_decay=DECAY)
    (fits,) = fit_schemes([scheme], tanh_network, train, [0, 1], Schedule(200, 0.02))
    refits = Minimum().refit(fits, train, removed)
    losses = losses_after(refits, test)
    for seed in range(2):
        for index in range(4):
            whole = member(fits.params, seed) | {name: value[seed, index] for name, value in refits.params.items()}
            expected = fits.objective.losses(whole, test.batch())
            torch.testing.assert_close(losses[seed, index], expected)


def test_refits_of_a_smooth_network_in_all_parameters_are_minima(network, train, removed):
    refits = Minimum().refit(network, train, removed)
    assert refits.converged.all()
    for index in range(4):
        weights = torch.ones(40, dtype=torch.float64)
        if index:
            weights[removed[0, index - 1]] = 0
        there = network.objective.at({name: value[0, index] for name, value in refits.params.items()})
        assert float(gradient(there, train.batch(), weights).norm()) <= 1e-10
        start = network.objective.layout.flatten(member(network.params, 0))
        found = scipy.optimize.minimize(
            lambda theta, there=there, weights=weights: float(
                there.flat.value(torch.from_numpy(theta), train.batch(), weights)
            ),
            start.numpy(),
            jac=lambda theta, there=there, weights=weights: gradient(
                there.at(there.layout.unflatten(torch.from_numpy(theta))), train.batch(), weights
            ).numpy(),
            method="BFGS",
            options={"gtol": 1e-9},
        )
        np.testing.assert_allclose(there.layout.flatten(there.params), found.x, atol=1e-5)


def test_refits_that_do_not_converge_are_marked(unfinished, train, removed):
    refits = Minimum(1e-300).refit(unfinished, train, removed)
    assert not refits.converged.any()
    assert (refits.gradient_norms > 0).all()


def test_an_unknown_id_is_refused(regression, train):
    with pytest.raises(ValueError, match=r"no example has id \[40\]"):
        Minimum().refit(regression, train, torch.tensor([[40], [0]]))


def test_removals_for_another_number_of_seeds_are_refused(regression, train):
    with pytest.raises(ValueError, match="removals for 1 networks, but 2 are refitted"):
        Minimum().refit(regression, train, torch.tensor([[3]]))


def test_warm_and_cold_and_newton_agree(train, removed):
    (cold,) = fit_schemes(
        [Deterministic("l2", weight_decay=DECAY)], softmax_regression, train.without(3), [5], Schedule(300, 0.05)
    )
    (warm,) = fit_schemes(
        [Deterministic("l2", weight_decay=DECAY)], softmax_regression, train, [0], Schedule(300, 0.05)
    )
    refits = Minimum().refit(warm, train, Removals.one_at_a_time(torch.tensor([[3]]), "renormalised"))
    for name, value in refits.params.items():
        torch.testing.assert_close(value[0, 1], cold.params[name][0], rtol=0, atol=1e-8)


def test_refits_of_a_deep_ensemble_are_minima_of_its_own_objective(train):
    scheme = DeepEnsemble("pair", weight_decay=DECAY, size=2)
    (fits,) = fit_schemes([scheme], tanh_network, train, [0, 1], Schedule(60, 0.05))
    groups = Removals((tuple(map(torch.tensor, ([3], [5, 7]))), tuple(map(torch.tensor, ([9, 2], [4])))))
    refits = Minimum(1e-9).refit(fits, train, replace(groups, convention="renormalised"))
    assert refits.converged.all()
    assert (refits.gradient_norms <= 1e-9).all()
    weights = replace(groups, convention="renormalised").data_weights(train)
    for index in range(2):
        for refit in range(3):
            one = refits.at(index, refit)
            slope = gradient(one, train.batch(), weights[index, refit])
            torch.testing.assert_close(slope.norm(), refits.gradient_norms[index, refit], rtol=1e-3, atol=1e-13)
            assert torch.equal(one.params["members.1.0.weight"], fits.params["members.1.0.weight"][index])
    for name in fits.objective.names:
        torch.testing.assert_close(refits.params[name][:, 0], fits.params[name], rtol=0, atol=1e-6)
        assert not torch.allclose(refits.params[name][:, 1], fits.params[name], atol=1e-4)
