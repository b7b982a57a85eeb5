"""Outputs under a Gaussian posterior beside a network: linearised against the dense formula, drawn against it."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

import bayes_influence as bi
from bayes_influence.moments import to_bayesian
from bayes_influence.objectives import posteriors
from bayes_influence.objectives.parameters import Flattening
from bayes_influence.objectives.posteriors import GaussianOutputs, WeightPosterior, drawn_outputs, linearized_outputs
from bayes_influence.objectives.prediction import predict, predict_classes
from bayes_influence.training.averaging import SwagPosterior
from tests.fitted import Recurrent

DOUBLE = torch.float64


@dataclass(frozen=True, eq=False)
class Dense(WeightPosterior):
    """N(mean, root root')."""

    layout: Flattening
    mean: torch.Tensor
    root: torch.Tensor

    @property
    def variance(self):
        return self.covariance().diagonal()

    def covariance(self):
        return self.root @ self.root.T

    def deviations_drawn(self, n_samples, generator):
        return torch.randn(n_samples, len(self.root), generator=generator, dtype=DOUBLE) @ self.root.T

    def output_covariance(self, jacobian):
        return (jacobian @ self.root) @ (jacobian @ self.root).mT


@pytest.fixture
def objective():
    network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    return bi.Objective(network, bi.CrossEntropy())


@pytest.fixture
def x():
    return torch.randn(7, 4, dtype=DOUBLE)


def of_last_layer(objective, scale=0.3):
    layout = objective.taking(["2.weight", "2.bias"]).layout
    return Dense(layout, layout.flatten(objective.params), scale * torch.randn(18, 18, dtype=DOUBLE))


@pytest.mark.parametrize("entries", [posteriors.JACOBIAN_ENTRIES, 1])
def test_linearised_outputs_of_a_last_layer_in_closed_form(objective, x, entries, monkeypatch):
    monkeypatch.setattr(posteriors, "JACOBIAN_ENTRIES", entries)
    posterior = of_last_layer(objective)
    found = linearized_outputs(objective, posterior, x)
    torch.testing.assert_close(found.mean, objective.network(x).detach())
    features = torch.tanh(objective.network[0](x))
    blocks = torch.cat([torch.kron(torch.eye(3, dtype=DOUBLE), row.unsqueeze(0)).unsqueeze(0) for row in features])
    jacobian = torch.cat([blocks, torch.eye(3, dtype=DOUBLE).expand(7, 3, 3)], dim=2)
    expected = torch.einsum("ncp,pq,ndq->ncd", jacobian, posterior.covariance(), jacobian)
    torch.testing.assert_close(found.covariance, expected)
    torch.testing.assert_close(found.moments.variance, expected.diagonal(dim1=1, dim2=2))
    draws = found.draws(2**13)
    torch.testing.assert_close(draws.mean(0), found.mean, rtol=0, atol=0.02)
    centred = draws - draws.mean(0)
    torch.testing.assert_close(torch.einsum("snc,snd->ncd", centred, centred) / 2**13, expected, rtol=0.02, atol=0.02)


def test_drawn_outputs_have_the_linear_moments_and_follow_the_generator(objective, x):
    posterior = of_last_layer(objective)
    draws = torch.cat(list(drawn_outputs(objective, posterior, x, 20_000, None)))
    expected = linearized_outputs(objective, posterior, x).moments
    torch.testing.assert_close(draws.var(0), expected.variance, rtol=0.05, atol=0)
    torch.testing.assert_close(draws.mean(0), expected.expectation.detach(), rtol=0, atol=0.1)
    again = torch.cat(list(drawn_outputs(objective, posterior, x, 20_000, torch.Generator().manual_seed(0))))
    assert torch.equal(draws, again)


def test_outputs_of_a_recurrent_network_are_drawn_one_by_one():
    objective = bi.Objective(Recurrent().double(), bi.CrossEntropy())
    layout, x = objective.taking("all").layout, torch.randn(4, 3, dtype=DOUBLE)
    posterior = Dense(layout, layout.flatten(objective.params), 0.1 * torch.randn(2 * [layout.total], dtype=DOUBLE))
    (drawn,) = drawn_outputs(objective, posterior, x, 3, torch.Generator().manual_seed(1))
    weights = posterior.sample(3, torch.Generator().manual_seed(1))
    for row, outputs in enumerate(drawn):
        network = Recurrent().double()
        network.load_state_dict({name: value[row] for name, value in weights.items()})
        torch.testing.assert_close(outputs, network(x))


def test_the_mean_is_the_posteriors_and_not_where_the_objective_stands(objective, x):
    posterior = of_last_layer(objective)
    moved = objective.at({name: value + 1.0 if name[0] == "2" else value for name, value in objective.params.items()})
    found, expected = (linearized_outputs(at, posterior, x) for at in (moved, objective))
    torch.testing.assert_close(found.mean, expected.mean)
    torch.testing.assert_close(found.covariance, expected.covariance)


@pytest.mark.parametrize("mode", ["linearized", "sampled"])
def test_predictions_under_a_posterior(objective, x, mode):
    posterior = of_last_layer(objective)
    found = predict(objective, x, mode=mode, n_samples=20_000, posterior=posterior)
    alone = predict_classes(objective, x)
    assert (found.epistemic > 0).all()
    assert (alone.epistemic == 0).all()
    linearized = linearized_outputs(objective, posterior, x)
    averaged = torch.softmax(linearized.draws(2**14), -1).mean(0)
    torch.testing.assert_close(found.probabilities, averaged, rtol=0, atol=0.02)
    exact = mode == "linearized"
    torch.testing.assert_close(found.logits.variance, linearized.moments.variance, rtol=1e-6 if exact else 0.05, atol=0)


def test_what_all_logits_have_in_common_does_not_flatten_the_prediction(objective, x):
    layout = objective.taking(["2.bias"]).layout
    shift = Dense(layout, layout.flatten(objective.params), 5.0 * torch.ones(3, 3, dtype=DOUBLE))
    found = predict(objective, x, posterior=shift)
    torch.testing.assert_close(found.probabilities, predict(objective, x).probabilities)
    assert (found.epistemic < 1e-12).all()
    assert (found.logits.variance > 70).all()


def test_real_predictions_have_the_posteriors_variance(x):
    objective = bi.Objective(nn.Linear(4, 2).double(), bi.GaussianNoise(0.5))
    layout = objective.layout
    posterior = Dense(layout, layout.flatten(objective.params), 0.2 * torch.eye(10, dtype=DOUBLE))
    found = predict(objective, x, posterior=posterior)
    expected = 0.04 * (x.square().sum(1, keepdim=True) + 1).expand(7, 2)
    torch.testing.assert_close(found.epistemic, expected)
    torch.testing.assert_close(found.noise, torch.full_like(expected, 0.25))
    drawn = predict(objective, x, mode="sampled", n_samples=20_000, posterior=posterior)
    torch.testing.assert_close(drawn.epistemic, expected, rtol=0.05, atol=0)


def test_swags_low_rank_part_reaches_the_outputs(objective, x):
    layout = objective.layout
    size = layout.total
    posterior = SwagPosterior(
        layout, layout.flatten(objective.params), torch.rand(size, dtype=DOUBLE), torch.randn(3, size, dtype=DOUBLE)
    )
    jacobian = torch.func.jacrev(lambda theta: objective.outputs(layout.unflatten(theta), x))(posterior.mean)
    expected = torch.einsum("ncp,pq,ndq->ncd", jacobian, posterior.covariance(), jacobian)
    torch.testing.assert_close(linearized_outputs(objective, posterior, x).covariance, expected)


def test_what_a_posterior_is_not_for_is_refused(objective, x):
    posterior = of_last_layer(objective)
    twin = bi.Objective(bi.to_bayesian(objective.network), bi.TiltedCategorical())
    with pytest.raises(TypeError, match="this one is Bayesian and carries its own; leave the posterior out"):
        predict(twin, x, posterior=posterior)
    other = bi.Objective(nn.Linear(4, 3).double(), bi.CrossEntropy())
    with pytest.raises(
        ValueError, match=r"of other parameters than the network's \['bias', 'weight'\], got \['2.weight'"
    ):
        linearized_outputs(other, posterior, x)
    with pytest.raises(ValueError, match="no moments that are propagated through it; take mode 'linearized'"):
        predict(objective, x, mode="diagonal", posterior=posterior)
    with pytest.raises(ValueError, match="n_samples must be at least 2 to have a variance, got 1"):
        list(drawn_outputs(objective, posterior, x, 1, None))
    assert sum(map(len, drawn_outputs(objective, posterior, x, 2, None))) == 2


def test_outputs_of_moments_have_the_covariance_that_these_carry():
    """Of a linear network whose hidden h are independent: W Cov(h) W', and the variances that moments have."""
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    twin = to_bayesian(network, structure="covariance", initial_sigma=0.4).eval()
    x = torch.randn(5, 3, dtype=torch.float64)
    with torch.no_grad():
        hidden, outputs = twin[0](x), twin(x)
    found = GaussianOutputs.of_moments(outputs)
    weight = network[1].weight.detach()
    expected = torch.einsum("cj,bj,dj->bcd", weight, hidden.variance, weight)
    expected.diagonal(dim1=1, dim2=2).copy_(outputs.variance)
    torch.testing.assert_close(found.covariance, expected)
    torch.testing.assert_close(found.moments.variance, outputs.variance)
    alone = GaussianOutputs.of_moments(hidden)
    torch.testing.assert_close(alone.covariance, torch.diag_embed(hidden.variance))
