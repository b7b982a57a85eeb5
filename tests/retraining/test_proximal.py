import logging
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.func import functional_call, jacrev

from bayes_influence.curvature import cost
from bayes_influence.curvature.cost import TooLargeError
from bayes_influence.curvature.damping import FisherDamping
from bayes_influence.data.arguments import Arguments
from bayes_influence.data.dataset import Dataset
from bayes_influence.influence.influence import Influence
from bayes_influence.objectives.members import member
from bayes_influence.objectives.next_token import NextToken
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.reduction import reduce
from bayes_influence.objectives.regularisers import WeightDecay
from bayes_influence.objectives.reweighting import Removals
from bayes_influence.retraining import linear_response
from bayes_influence.retraining.linear_response import LinearResponse
from bayes_influence.retraining.minimum import Minimum
from bayes_influence.retraining.proximal import (
    ANCHOR,
    METRIC,
    OWN,
    Anchored,
    Proximal,
    ProximalBregman,
    ProximalObjective,
    held_problem,
)
from bayes_influence.retraining.refits import control_drift
from bayes_influence.training import minimum
from bayes_influence.training.fits import fit_schemes
from bayes_influence.training.schedules import Schedule
from bayes_influence.training.schemes import SCHEMES, find_schemes
from bayes_influence.training.stacked import StackedProblem
from tests.fitted import DECAY, tanh_network
from tests.tiny_transformers import LENGTH, VOCABULARY, TinyGPT

SHORT = Schedule(60, 0.02)


def _problem(fits, train, metric, bregman):
    reduction = reduce(fits, train)
    whole = StackedProblem.of(reduction)
    return held_problem(reduction.problem.objective, whole, torch.full_like(whole.start, metric), bregman=bregman)


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


@pytest.mark.parametrize("bregman", [False, True])
def test_the_regulariser_counts_by_the_weight_that_is_given_and_by_its_own_where_none_is(network, train, bregman):
    reduction = reduce(network, train)
    objective, whole = reduction.problem.objective, StackedProblem.of(reduction)
    hat, theta = whole.start[0], whole.start[0] + 0.1
    parts = {OWN: objective.layout.unflatten(theta)}
    parts |= {ANCHOR: objective.layout.unflatten(hat), METRIC: objective.layout.unflatten(torch.zeros_like(hat))}
    state = {prefix + name: value for prefix, part in parts.items() for name, value in part.items()}
    anchored = ProximalObjective(
        Anchored(objective.network), objective.likelihood, objective.regulariser, 2.0, params=state, bregman=bregman
    )
    value = partial(anchored.value, state, train.batch())
    # What weight decay adds, and with Bregman divergences that without its value and slope at the anchor.
    added = DECAY / 2 * theta.square().sum() - (DECAY * hat @ (theta - hat) if bregman else 0.0)
    for weight in (0.0, 1.0, 3.0):
        torch.testing.assert_close(value() - value(regulariser_weight=weight), (2 - weight) * added)


class Scaled(torch.nn.Module):
    """A linear layer of inputs times a number that is a buffer, or written down."""

    def __init__(self, scale):
        super().__init__()
        self.linear = torch.nn.Linear(3, 3)
        if isinstance(scale, torch.Tensor):
            self.register_buffer("scale", scale)
        else:
            self.scale = scale

    def forward(self, inputs):
        return self.linear(inputs * self.scale)


@pytest.mark.parametrize("protocol", [Proximal(0.1), ProximalBregman(0.1), LinearResponse(0.1)])
def test_buffers_stay_what_they_are(train, removed, protocol):
    ends = []
    for scale in (torch.tensor(2.0, dtype=torch.float64), 2.0):
        scheme = SCHEMES["weight-decay"]
        (fits,) = fit_schemes([scheme], lambda scale=scale: Scaled(scale), train, [0, 1], SHORT, parameters="all")
        ends.append(_flat(fits, protocol.refit(fits, train, removed)))
    torch.testing.assert_close(*ends)


class ScaledAfter(Scaled):
    """The outputs times the number: no last layer stands for this network."""

    def forward(self, inputs):
        return self.linear(inputs) * self.scale


@pytest.mark.parametrize("protocol", [Proximal(0.1), LinearResponse(0.1)])
def test_buffers_in_which_networks_differ_are_each_ones_own(train, removed, protocol):
    """Weight decay leaves one minimum, whatever the networks started from."""
    scheme = SCHEMES["weight-decay"]

    def fitted(make_scale, seeds):
        return fit_schemes([scheme], lambda: ScaledAfter(make_scale()), train, seeds, SHORT, parameters="all")[0]

    fits = fitted(lambda: 1 + torch.rand((), dtype=torch.float64), [0, 1])
    ends, scales = _flat(fits, protocol.refit(fits, train, removed)), fits.buffers["scale"].tolist()
    assert len(set(scales)) == 2
    for seed, scale in enumerate(scales):
        alone = fitted(lambda scale=scale: scale, [seed])
        end = _flat(alone, protocol.refit(alone, train, removed[seed : seed + 1]))
        torch.testing.assert_close(ends[seed : seed + 1], end, rtol=0, atol=1e-7)


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
    exact = Minimum().refit(regression, train, removed)
    pbrf = ProximalBregman(0.0, tolerance=1e-11).refit(regression, train, removed)
    torch.testing.assert_close(_flat(regression, pbrf), _flat(regression, exact), rtol=0, atol=1e-8)


def test_pbrf_and_influence_agree_as_the_damping_grows(regression, train, removed):
    """The response is of order 1/delta and what its linearisation neglects of order 1/delta^2."""
    deltas = np.array([10.0, 30.0, 100.0, 300.0, 1000.0])
    relative = []
    for delta in deltas:
        pbrf = _flat(regression, ProximalBregman(delta, tolerance=1e-14).refit(regression, train, removed))
        linear = _flat(regression, LinearResponse(delta).refit(regression, train, removed))
        effects = pbrf[:, 1:] - pbrf[:, :1]
        relative.append(float((linear - pbrf)[:, 1:].norm() / effects.norm()))
    slope = np.polyfit(np.log(1 / deltas), np.log(relative), 1)[0]
    assert slope == pytest.approx(1.0, abs=0.05)
    # What is neglected first is the removed example's own curvature, |H_i| / (n delta) with |H_i| <= |x|^2 / 2.
    largest = 1 + float(train.inputs.square().sum(1).max())
    assert all(one < largest / 2 / 40 / delta for one, delta in zip(relative, deltas, strict=True))


def test_a_linear_response_whose_hessian_does_not_fit_is_refused(regression, train, removed, monkeypatch):
    monkeypatch.setattr(cost, "available_bytes", lambda device: 10**9)
    monkeypatch.setattr(linear_response, "RESPONSE_COPIES", 10**6)
    with pytest.raises(
        TooLargeError, match=r"the linear response in 12 parameters, by a dense Hessian holds .* 1 GB are"
    ):
        LinearResponse(1.0).refit(regression, train, removed)


def test_the_linear_response_is_damped_influence(regression, train, removed):
    response = LinearResponse(0.01).refit(regression, train, removed)
    for seed in range(2):
        steps = _flat(regression, response)[seed, 1:] - _flat(regression, response)[seed, 0]
        # For outputs linear in the parameters the Gauss-Newton matrix is the Hessian.
        influence = Influence(regression.at(seed), train, damping=0.01)
        torch.testing.assert_close(steps, influence.on_parameters(removed[seed]), rtol=1e-9, atol=1e-14)


def test_a_linear_response_says_how_far_from_the_pbrfs_minimum_its_one_step_ends(regression, train, removed):
    """(1/n) sum_j (p_j - p̂_j) x_j' - (1/n) (p_i - y_i) x_i' + (lambda + delta) (theta - hat)."""
    response = LinearResponse(0.1).refit(regression, train, removed)
    assert response.converged.all()  # it is solved, not minimised
    torch.testing.assert_close(response.gradient_norms[:, 0], torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)
    x = torch.cat([train.inputs, torch.ones(40, 1, dtype=torch.float64)], dim=1)
    one_hot = torch.eye(3, dtype=torch.float64)[train.targets]
    theta = torch.cat([response.params["0.weight"], response.params["0.bias"].unsqueeze(-1)], dim=-1)
    for seed in range(2):
        for refit, index in enumerate(removed[seed].tolist(), 1):
            here, hat = ((x @ theta[seed, at].T).softmax(-1) for at in (refit, 0))
            own = torch.outer(here[index] - one_hot[index], x[index])
            gradient = ((here - hat).T @ x - own) / 40 + (DECAY + 0.1) * (theta[seed, refit] - theta[seed, 0])
            torch.testing.assert_close(response.gradient_norms[seed, refit], gradient.norm())


def test_a_network_that_did_not_converge_stands_still_under_the_pbrf_only(unfinished, train, test, removed, caplog):
    fitted = unfinished.objective.layout.flatten(unfinished.params)
    pbrf = ProximalBregman(0.01).refit(unfinished, train, removed)
    assert pbrf.converged.all()
    torch.testing.assert_close(_flat(unfinished, pbrf)[:, 0], fitted, rtol=0, atol=1e-10)
    held = Proximal(0.01).refit(unfinished, train, removed)
    assert held.converged.all()
    assert ((_flat(unfinished, held)[:, 0] - fitted).norm(dim=1) > 0.1).all()
    with caplog.at_level(logging.WARNING):
        assert control_drift(held, test).exceeds_effects.any()
    assert "none, seed 0: retraining with nothing removed moves the loss by up to" in caplog.text
    assert not control_drift(pbrf, test).exceeds_effects.any()


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
    exact = Minimum().refit(regression, train, groups)
    pbrf = ProximalBregman(0.0, tolerance=1e-11).refit(regression, train, groups)
    torch.testing.assert_close(_flat(regression, pbrf), _flat(regression, exact), rtol=0, atol=1e-8)


@pytest.mark.parametrize("structure", ["diagonal", "covariance"])
@pytest.mark.parametrize("selection", ["all", "last-layer", "last-layer-means"])
def test_variational_networks_are_held_in_the_fisher_metric(train, removed, selection, structure):
    (scheme,) = find_schemes(["bnn"], {"structure": structure})
    (fits,) = fit_schemes(
        [scheme], tanh_network, train, [0, 1], Schedule(60, 0.02), parameters=selection, tolerance=None
    )
    pbrf = ProximalBregman(FisherDamping(0.01), tolerance=1e-7).refit(fits, train, removed)
    assert pbrf.converged.all()
    assert set(pbrf.params) == set(fits.objective.names)
    for name, value in pbrf.params.items():
        torch.testing.assert_close(value[:, 0], fits.params[name], rtol=0, atol=1e-8)
        assert not torch.equal(value[:, 1], fits.params[name])


def test_large_problems_are_minimised_without_hessians(network, train, removed, monkeypatch):
    dense = ProximalBregman(0.05).refit(network, train, removed)
    monkeypatch.setattr(minimum, "DENSE_SIZE", 0)
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


@pytest.mark.parametrize("protocol", [Proximal, ProximalBregman])
def test_networks_that_are_called_by_name_and_return_a_record_are_held_too(protocol):
    tokens = torch.randint(VOCABULARY, (14, LENGTH))
    texts = Dataset(Arguments(input_ids=tokens), tokens, torch.arange(14))
    gpt = TinyGPT().double()
    named = [name for name, _ in gpt.named_parameters() if name.startswith("block.")]
    objective = Objective(gpt, NextToken("mean"), WeightDecay(0.01), parameters=named)
    groups = Removals.of_groups([texts.ids[:3], texts.ids[5:6]], 1)
    refits = protocol(1e3, tolerance=1e-9).refit(objective, texts, groups)
    assert refits.converged.all()
    influence = Influence(objective, texts, curvature="ggn", damping=1e3)
    steps = influence.on_parameters([0, 1, 2]).sum(0), influence.on_parameters([5])[0]
    flat = objective.layout.flatten(refits.params)[0]
    torch.testing.assert_close(flat[1:] - flat[:1], torch.stack(steps), rtol=0.01, atol=1e-8)
