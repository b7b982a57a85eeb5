import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.func import functional_call, jacrev

from bayes_influence.curvature.damping import FisherDamping
from bayes_influence.data.dataset import Dataset
from bayes_influence.influence.influence import Influence
from bayes_influence.objectives.members import member
from bayes_influence.objectives.reweighting import Removals
from bayes_influence.retraining import proximal
from bayes_influence.retraining.minimum import newton_refits
from bayes_influence.retraining.problem import refit_problem
from bayes_influence.retraining.protocols import LinearResponse, Proximal, ProximalBregman
from bayes_influence.retraining.proximal import linear_response, proximal_problem, proximal_refits
from bayes_influence.retraining.refits import control_drift
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.schemes import SCHEMES
from tests.retraining.conftest import DECAY, tanh_network


def _problem(fits, train, metric, bregman):
    objective, whole = refit_problem(fits.objective, fits.params, train)
    return proximal_problem(objective, whole, torch.full_like(whole.start, metric), bregman=bregman)


def _flat(fits, refits):
    return fits.objective.layout.flatten(refits.params)


@pytest.mark.parametrize("bregman", [False, True])
def test_the_value_is_the_formula(network, train, bregman):
    problem = _problem(network, train, 0.3, bregman)
    generator = torch.Generator().manual_seed(0)
    step = 0.1 * torch.randn(problem.start[0].shape, generator=generator, dtype=torch.float64)
    theta = torch.stack([problem.start[0], problem.start[0] + step])
    which = torch.tensor([0, 0])
    problem.weights[0, 3] = 0.0
    _, (before, after) = problem.gradients(theta, which)
    objective, layout = network.at(0), network.objective.layout
    moved = layout.unflatten(theta[1])
    data = train.batch()
    logits, held = (objective.outputs(params, data.inputs) for params in (moved, objective.params))
    own = [float(objective.losses(params, data)[3]) for params in (moved, objective.params)]
    if bregman:
        p, q = held.softmax(-1), logits.softmax(-1)
        divergence = (p * (p.log() - q.log())).sum(-1).mean()
        expected = divergence - (own[0] - own[1]) / 40 + (DECAY + 0.3) / 2 * step.square().sum()
    else:
        weights = torch.ones(40, dtype=torch.float64)
        weights[3] = 0
        values = [objective.value(params, data, weights) for params in (moved, objective.params)]
        expected = values[0] - values[1] + 0.15 * step.square().sum()
    torch.testing.assert_close(after - before, expected)


def test_the_hessian_of_the_bregman_objective_at_the_fit_is_the_gauss_newton_matrix(unfinished, network, train):
    for fits, decay in ((unfinished, 0.0), (network, DECAY)):
        problem = _problem(fits, train, 0.2, bregman=True)
        layout, net = fits.objective.layout, fits.objective.network
        for seed in range(2):
            jacobian = jacrev(
                lambda theta, layout=layout, net=net: functional_call(net, layout.unflatten(theta), (train.inputs,))
            )(problem.start[seed])
            p = fits.at(seed).outputs(fits.at(seed).params, train.inputs).softmax(-1)
            curvature = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
            expected = torch.einsum("ncp,ncd,ndq->pq", jacobian, curvature, jacobian) / 40
            expected += (decay + 0.2) * torch.eye(len(expected), dtype=torch.float64)
            found = problem.hessians(problem.start[seed : seed + 1], torch.tensor([seed]))[0]
            torch.testing.assert_close(found, expected)


def test_without_a_pull_the_pbrf_of_a_convex_problem_is_leave_one_out(regression, train, removed):
    exact = newton_refits(regression, train, removed)
    pbrf = proximal_refits(regression, train, removed, 0.0, bregman=True, tolerance=1e-11)
    torch.testing.assert_close(_flat(regression, pbrf), _flat(regression, exact), rtol=0, atol=1e-8)


def test_pbrf_and_influence_agree_as_the_damping_grows(regression, train, removed):
    """The response is of order 1/delta and what its linearisation neglects of order 1/delta^2."""
    deltas = np.array([10.0, 30.0, 100.0, 300.0, 1000.0])
    relative = []
    for delta in deltas:
        pbrf = _flat(regression, proximal_refits(regression, train, removed, delta, bregman=True, tolerance=1e-14))
        linear = _flat(regression, linear_response(regression, train, removed, delta))
        effects = pbrf[:, 1:] - pbrf[:, :1]
        relative.append(float((linear - pbrf)[:, 1:].norm() / effects.norm()))
    slope = np.polyfit(np.log(1 / deltas), np.log(relative), 1)[0]
    assert slope == pytest.approx(1.0, abs=0.05)
    # What is neglected first is the removed example's own curvature, |H_i| / (n delta) with |H_i| <= |x|^2 / 2.
    largest = 1 + float(train.inputs.square().sum(1).max())
    assert all(one < largest / 2 / 40 / delta for one, delta in zip(relative, deltas, strict=True))


def test_the_linear_response_is_damped_influence(regression, train, removed):
    response = linear_response(regression, train, removed, 0.01)
    for seed in range(2):
        steps = _flat(regression, response)[seed, 1:] - _flat(regression, response)[seed, 0]
        # For outputs linear in the parameters the Gauss-Newton matrix is the Hessian.
        influence = Influence(regression.at(seed), train, damping=0.01)
        torch.testing.assert_close(steps, influence.on_parameters(removed[seed]), rtol=1e-9, atol=1e-14)


def test_a_network_that_did_not_converge_stands_still_under_the_pbrf_only(unfinished, train, test, removed, caplog):
    fitted = unfinished.objective.layout.flatten(unfinished.params)
    pbrf = ProximalBregman(0.01).refit(unfinished, train, removed)
    assert pbrf.converged.all()
    torch.testing.assert_close(_flat(unfinished, pbrf)[:, 0], fitted, rtol=0, atol=1e-10)
    held = Proximal(0.01).refit(unfinished, train, removed)
    assert held.converged.all()
    assert ((_flat(unfinished, held)[:, 0] - fitted).norm(dim=1) > 0.1).all()
    with caplog.at_level(logging.WARNING):
        assert control_drift(unfinished, held, test).exceeds_effects.any()
    assert "none: retraining with nothing removed moves the loss by up to" in caplog.text
    assert not control_drift(unfinished, pbrf, test).exceeds_effects.any()


def test_the_pull_holds_back_in_proportion_to_the_damping(unfinished, train, removed):
    fitted = unfinished.objective.layout.flatten(unfinished.params)
    far, near = (
        (_flat(unfinished, Proximal(delta).refit(unfinished, train, removed))[:, 0] - fitted).norm()
        for delta in (0.01, 1)
    )
    assert near < far / 10


def test_influence_predicts_the_pbrf_of_an_unfinished_network(unfinished, train, removed):
    cosines = []
    for delta in (0.1, 1.0):
        pbrf = ProximalBregman(delta).refit(unfinished, train, removed)
        linear = LinearResponse(delta).refit(unfinished, train, removed)
        steps = [_flat(unfinished, refits)[:, 1:] - _flat(unfinished, refits)[:, :1] for refits in (pbrf, linear)]
        cosines.append(float((steps[0] * steps[1]).sum() / (steps[0].norm() * steps[1].norm())))
    assert 0.9 < cosines[0] < cosines[1]
    assert cosines[1] > 0.99


@pytest.mark.parametrize("convention", ["fixed", "renormalised"])
def test_groups_under_both_conventions_are_exact_where_nothing_is_linearised(regression, train, convention):
    groups = Removals.of_groups([torch.arange(8)], 2, convention)
    exact = newton_refits(regression, train, groups)
    pbrf = proximal_refits(regression, train, groups, 0.0, bregman=True, tolerance=1e-11)
    torch.testing.assert_close(_flat(regression, pbrf), _flat(regression, exact), rtol=0, atol=1e-8)


@pytest.mark.parametrize("selection", ["all", "last-layer", "last-layer-means"])
def test_variational_networks_are_held_in_the_fisher_metric(train, removed, selection):
    scheme = SCHEMES["bnn"]
    (fits,) = fit_schemes(
        [scheme], tanh_network, train, [0, 1], Schedule(60, 0.02), parameters=selection, tolerance=None
    )
    pbrf = ProximalBregman(FisherDamping(0.01), tolerance=1e-7).refit(fits, train, removed)
    assert pbrf.converged.all()
    names = fits.objective.names
    for name, value in pbrf.params.items():
        torch.testing.assert_close(value[:, 0], fits.params[name], rtol=0, atol=1e-8)
        assert torch.equal(value[:, 1], fits.params[name]) == (name not in names)


def test_large_problems_are_minimised_without_hessians(network, train, removed, monkeypatch):
    dense = ProximalBregman(0.05).refit(network, train, removed)
    monkeypatch.setattr(proximal, "DENSE_SIZE", 0)
    sparse = ProximalBregman(0.05, tolerance=1e-7).refit(network, train, removed)
    assert sparse.converged.all()
    assert float(sparse.gradient_norms.max()) <= 1e-7
    torch.testing.assert_close(_flat(network, sparse), _flat(network, dense), rtol=0, atol=1e-5)


def test_refits_that_do_not_converge_are_marked(network, train, removed):
    refits = Proximal(0.05, tolerance=0.0).refit(network, train, removed)
    assert not refits.converged.all()


def test_a_negative_damping_is_refused(network, train, removed):
    with pytest.raises(ValueError, match="damping"):
        ProximalBregman(-0.1).refit(network, train, removed)


def test_the_fit_is_left_alone(network, train, removed):
    before = {name: value.clone() for name, value in network.params.items()}
    module = {name: value.detach().clone() for name, value in network.objective.network.named_parameters()}
    ProximalBregman(0.05).refit(network, train, removed)
    assert all(torch.equal(before[name], value) for name, value in network.params.items())
    assert all(torch.equal(module[name], value) for name, value in network.objective.network.named_parameters())
    assert set(member(network.params, 0)) == set(module)


@pytest.mark.parametrize("bregman", [False, True])
def test_a_weight_counts_as_often_as_it_says(network, train, bregman):
    fits = replace(network, objective=replace(network.objective, regulariser_weight=0.0))
    rows = torch.arange(40).repeat_interleave(torch.arange(40) % 3)
    weighted = replace(train, weights=(torch.arange(40) % 3).double())
    repeated = Dataset(train.inputs[rows], train.targets[rows], torch.arange(len(rows)))
    changes = []
    for data in (weighted, repeated):
        problem = _problem(fits, data, 0.0, bregman)
        theta = torch.stack([problem.start[0], problem.start[0] + 0.1])
        _, (before, after) = problem.gradients(theta, torch.tensor([0, 0]))
        changes.append(len(data) * (after - before))
    torch.testing.assert_close(changes[0], changes[1])
