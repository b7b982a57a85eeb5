"""Laplace's approximation against laplace-torch (a stored fixture), dense references and a conjugate posterior."""

import json
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import nn

import bayes_influence as bi
from bayes_influence.curvature import cost
from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.derivatives import per_example_jacobians
from bayes_influence.objectives.posteriors import linearized_outputs
from bayes_influence.training.laplace import laplace

FIXTURE = json.loads((Path(__file__).parents[1] / "fixtures" / "laplace_torch.json").read_text())
DOUBLE = torch.float64
COVARIANCES = ["diagonal", "kronecker", "full"]


def tensor(name):
    return torch.tensor(FIXTURE[name], dtype=DOUBLE)


@pytest.fixture(scope="module")
def train():
    return Dataset(tensor("inputs"), torch.tensor(FIXTURE["targets"]), torch.arange(30))


@pytest.fixture(scope="module")
def objective():
    network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    params = {name: torch.tensor(value, dtype=DOUBLE) for name, value in FIXTURE["params"].items()}
    decay = bi.WeightDecay(FIXTURE["prior_precision"] / 30)
    return bi.Objective(network, bi.CrossEntropy(), decay, params=params)


def gauss_newton(objective, train):
    """sum_i J_i' (diag p_i - p_i p_i') J_i, dense, from the closed form of the softmax."""
    jacobians = per_example_jacobians(objective, train.inputs)
    p = torch.softmax(objective.outputs(objective.params, train.inputs), dim=-1)
    middle = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    return torch.einsum("ncp,ncd,ndq->pq", jacobians, middle, jacobians)


@pytest.mark.parametrize("parameters", ["last-layer", "all"])
@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_evidence_and_variances_are_those_of_laplace_torch(objective, train, parameters, covariance):
    theirs = FIXTURE["found"][f"{parameters} {covariance}"]
    posterior = laplace(objective, train, covariance=covariance, parameters=parameters)
    assert posterior.prior_precision == pytest.approx(FIXTURE["prior_precision"])
    assert posterior.log_marginal_likelihood() == pytest.approx(theirs["evidence"], rel=1e-10)
    found = linearized_outputs(objective, posterior, tensor("test")).moments
    torch.testing.assert_close(found.variance, torch.tensor(theirs["variances"], dtype=DOUBLE))
    best = laplace(
        objective, train, covariance=covariance, parameters=parameters, prior_precision="marginal-likelihood"
    )
    assert best.prior_precision == pytest.approx(theirs["best_prior_precision"], rel=1e-6)
    assert best.log_marginal_likelihood() == pytest.approx(theirs["best_evidence"], rel=1e-10)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_covariance_is_the_inverse_of_what_each_structure_keeps(objective, train, covariance):
    posterior = laplace(objective, train, covariance=covariance, parameters="all")
    exact = gauss_newton(objective, train) + FIXTURE["prior_precision"] * torch.eye(43, dtype=DOUBLE)
    precision = torch.linalg.inv(posterior.covariance())
    if covariance == "full":
        torch.testing.assert_close(precision, exact)
    elif covariance == "diagonal":
        torch.testing.assert_close(precision, torch.diag(exact.diagonal()))
    else:
        # A change of basis within layers keeps the trace, and there is nothing between them.
        torch.testing.assert_close(precision.trace(), exact.trace())
        assert precision[:25, 25:].abs().max() < 1e-10 < exact[:25, 25:].abs().max()
    torch.testing.assert_close(posterior.variance, posterior.covariance().diagonal())
    rows = torch.randn(2, 3, 43, dtype=DOUBLE)
    expected = torch.einsum("abp,pq,acq->abc", rows, posterior.covariance(), rows)
    torch.testing.assert_close(posterior.output_covariance(rows), expected)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_draws_have_its_mean_and_covariance(objective, train, covariance):
    posterior = laplace(objective, train, covariance=covariance)
    draws = posterior.layout.flatten(posterior.sample(100_000, torch.Generator().manual_seed(0)))
    torch.testing.assert_close(draws.mean(0), posterior.mean, atol=0.02, rtol=0)
    torch.testing.assert_close(torch.cov(draws.T), posterior.covariance(), atol=0.02, rtol=0)


def test_a_linear_regression_is_conjugate():
    inputs = torch.randn(20, 3, dtype=DOUBLE)
    targets = inputs.sum(1, keepdim=True) + torch.randn(20, 1, dtype=DOUBLE)
    data = Dataset(inputs, targets, torch.arange(20))
    start = bi.Objective(nn.Linear(3, 1, bias=False).double(), bi.GaussianNoise(1.0), bi.WeightDecay(0.1))
    posterior = laplace(bi.minimum_of(start, data), data)
    precision = inputs.T @ inputs + 2.0 * torch.eye(3, dtype=DOUBLE)
    torch.testing.assert_close(posterior.covariance(), torch.linalg.inv(precision))
    torch.testing.assert_close(posterior.mean, torch.linalg.solve(precision, inputs.T @ targets)[:, 0])
    marginal = torch.distributions.MultivariateNormal(
        torch.zeros(20, dtype=DOUBLE), torch.eye(20, dtype=DOUBLE) + inputs @ inputs.T / 2.0
    )
    expected = float(marginal.log_prob(targets[:, 0]))
    assert posterior.log_marginal_likelihood() == pytest.approx(expected)


def test_where_the_data_leave_no_doubt_the_most_evidence_is_at_one_over_the_mean_square():
    inputs = 100 * torch.randn(20, 3, dtype=DOUBLE)
    data = Dataset(inputs, inputs.sum(1, keepdim=True), torch.arange(20))
    start = bi.Objective(nn.Linear(3, 1, bias=False).double(), bi.GaussianNoise(1.0), bi.WeightDecay(0.1))
    posterior = laplace(bi.minimum_of(start, data), data, prior_precision="marginal-likelihood")
    assert posterior.prior_precision == pytest.approx(3 / float(posterior.mean.square().sum()), rel=1e-2)


def test_the_most_evidence_is_a_maximum_and_the_factored_one_is_nearer_to_the_full_than_the_diagonal(objective, train):
    best = {c: laplace(objective, train, covariance=c, prior_precision="marginal-likelihood") for c in COVARIANCES}
    for posterior in best.values():
        top = posterior.log_marginal_likelihood()
        for factor in (0.97, 1.03):
            other = posterior.log_marginal_likelihood(factor * posterior.prior_precision)
            assert other < top
            moved = posterior.with_prior_precision(factor * posterior.prior_precision)
            assert moved.log_marginal_likelihood() == pytest.approx(other)
    diagonal, factored, full = (best[c].log_marginal_likelihood() for c in COVARIANCES)
    assert abs(factored - full) < abs(diagonal - full)


def test_sample_weights_and_the_regularisers_weight_are_inside(objective, train):
    twice = Dataset(train.inputs, train.targets, train.ids, weights=torch.full((30,), 2.0, dtype=DOUBLE))
    one, other = (laplace(objective, data, covariance="full") for data in (train, twice))
    torch.testing.assert_close(
        torch.linalg.inv(other.with_prior_precision(0.2).covariance()),
        2 * torch.linalg.inv(one.with_prior_precision(0.1).covariance()),
    )
    assert other.log_likelihood == pytest.approx(2 * one.log_likelihood)


def test_what_cannot_be_is_refused(objective, train, as_installed):
    plain = bi.Objective(objective.network, bi.CrossEntropy())
    with pytest.raises(ValueError, match="no weight decay that the prior precision could be taken from"):
        laplace(plain, train)
    with pytest.raises(ValueError, match="the prior precision must be positive, got 0"):
        laplace(plain, train, prior_precision=0)
    with pytest.raises(ValueError, match="the prior precision must be positive, got -1"):
        laplace(objective, train).with_prior_precision(-1.0)
    with pytest.raises(
        ValueError, match="must be a number or one of weight-decay, marginal-likelihood, got 'evidence'"
    ):
        laplace(objective, train, prior_precision="evidence")
    with pytest.raises(ValueError, match="covariance must be one of diagonal, kronecker, full, got 'dense'"):
        laplace(objective, train, covariance="dense")
    twin = bi.Objective(bi.to_bayesian(objective.network), bi.TiltedCategorical())
    with pytest.raises(TypeError, match="this one is Bayesian and has a posterior"):
        laplace(twin, train)
    zero = objective.at({name: torch.zeros_like(value) for name, value in objective.params.items()})
    with pytest.raises(ValueError, match="all parameters are 0; give one"):
        laplace(zero, train, prior_precision="marginal-likelihood")
    flat = bi.Objective(objective.network, lambda outputs, targets: 0 * outputs.sum(1))
    with pytest.raises(ValueError, match="the losses have no curvature in these parameters"):
        laplace(flat, train, prior_precision="marginal-likelihood")
    concave = bi.Objective(objective.network, lambda outputs, targets: -outputs.square().sum(1))
    saddle = bi.Objective(objective.network, lambda outputs, _: outputs[:, 0].square() - outputs[:, 1].square())
    for bent, covariance in product((concave, saddle), ("full", "diagonal")):
        with pytest.raises(ValueError, match="losses that are convex in the outputs, but the curvature falls to -"):
            laplace(bent, train, covariance=covariance, prior_precision=1.0)


def test_layers_without_kronecker_factors_are_refused_by_name(train):
    network = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 3)).double()
    objective = bi.Objective(network, bi.CrossEntropy(), bi.WeightDecay(0.1))
    with pytest.raises(ValueError, match=r"'1\.weight' belongs to LayerNorm"):
        laplace(objective, train, covariance="kronecker", parameters="all")
    assert laplace(objective, train, covariance="diagonal", parameters="all").variance.shape == (53,)


def test_a_matrix_that_does_not_fit_is_refused_before_it_is_made(objective, train, monkeypatch):
    monkeypatch.setattr(cost, "SMALL_BYTES", 0)
    monkeypatch.setattr(cost, "available_bytes", lambda device: 10_000)
    with pytest.raises(bi.TooLargeError, match=r"GaussNewtonOperator of 43 x 43 .*; take covariance='kronecker' or"):
        laplace(objective, train, parameters="all")


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_data_in_single_precision_are_taken_in_that_of_the_network(objective, train, covariance):
    single = train.to(dtype=torch.float32)
    found = laplace(objective, single, covariance=covariance).log_marginal_likelihood()
    assert found == pytest.approx(
        laplace(objective, single.to(dtype=DOUBLE), covariance=covariance).log_marginal_likelihood()
    )
