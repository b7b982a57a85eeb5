"""Influence from posterior samples against the closed forms of a Gaussian posterior."""

import pytest
import torch
from pyro.ops.stats import fit_generalized_pareto
from torch import nn

from bayes_influence.data.dataset import Dataset
from bayes_influence.influence import posterior_samples
from bayes_influence.influence.influence import Influence
from bayes_influence.influence.posterior_samples import (
    PosteriorSamples,
    effective_sample_size,
    losses_at_samples,
    pareto_shape,
)
from bayes_influence.objectives.likelihoods import GaussianNoise
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay

SAMPLES = 40_000
N = 12


class Conjugate:
    """Bayesian linear regression with unit noise and prior: everything in closed form."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.inputs = 0.5 * torch.randn(N, 2, generator=generator, dtype=torch.float64)
        self.targets = self.inputs @ torch.tensor([2.0, -1.0], dtype=torch.float64)
        self.targets += torch.randn(N, generator=generator, dtype=torch.float64)
        self.covariance, self.mean = self.posterior(torch.ones(N, dtype=torch.float64))
        factor = torch.linalg.cholesky(self.covariance)
        noise = torch.randn(SAMPLES // 2, 2, generator=generator, dtype=torch.float64)
        noise = torch.cat([noise, -noise])  # antithetic pairs have no error in odd moments
        self.samples = self.mean + noise @ factor.T
        self.direction = torch.tensor([[0.7, 0.3]], dtype=torch.float64)
        losses = 0.5 * (self.targets - self.samples @ self.inputs.T).square()
        ids = torch.arange(N)
        self.drawn = PosteriorSamples(losses, self.samples @ self.direction.T, ids, torch.tensor([0]))

    def posterior(self, weights):
        precision = (self.inputs * weights.unsqueeze(1)).T @ self.inputs + torch.eye(2, dtype=torch.float64)
        covariance = torch.linalg.inv(precision)
        return covariance, covariance @ self.inputs.T @ (weights * self.targets)

    def first_cumulants(self):
        """Cov(l_i, phi) and kappa_3(l_i, l_i, phi) = 2 Cov(r, phi) mean(r) var(r), by Stein's lemma; r the residual."""
        residual = self.targets - self.inputs @ self.mean
        spread = -(self.inputs @ self.covariance @ self.direction.T)[:, 0]
        variance = (self.inputs @ self.covariance * self.inputs).sum(dim=1)
        return residual * spread, 2 * spread * residual * variance


@pytest.fixture(scope="module")
def conjugate():
    return Conjugate()


def test_first_order_removal_is_the_covariance(conjugate):
    covariance, _ = conjugate.first_cumulants()
    scores = conjugate.drawn.scores()
    torch.testing.assert_close(scores.removal[0], covariance, rtol=0, atol=3 * 0.5 / SAMPLES**0.5)
    assert scores.curvature == "posterior covariance"
    torch.testing.assert_close(conjugate.drawn.removal(order=1), scores.removal)


def test_second_order_adds_half_the_third_cumulant(conjugate):
    _, third = conjugate.first_cumulants()
    added = conjugate.drawn.removal() - conjugate.drawn.removal(order=1)
    torch.testing.assert_close(added[0], 0.5 * third, rtol=0, atol=0.01)
    assert third.abs().max() > 0.03


def test_second_order_and_reweighting_come_closer_to_the_removal(conjugate):
    truth = []
    for example in range(N):
        weights = torch.ones(N, dtype=torch.float64)
        weights[example] = 0.0
        truth.append(conjugate.direction[0] @ (conjugate.posterior(weights)[1] - conjugate.mean))
    truth = torch.stack(truth)
    errors = [(estimate - truth).norm() for estimate in (conjugate.drawn.removal(1)[0], conjugate.drawn.removal(2)[0])]
    assert errors[1] < 0.6 * errors[0]
    torch.testing.assert_close(conjugate.drawn.reweighted_removal()[0], truth, rtol=0, atol=0.01)
    assert truth.abs().max() > 0.1
    assert torch.equal(conjugate.drawn.removal()[0].sign(), truth.sign())


def test_groups_sum_their_losses(conjugate):
    weights = torch.ones(N, dtype=torch.float64)
    weights[:2] = 0.0
    truth = conjugate.direction[0] @ (conjugate.posterior(weights)[1] - conjugate.mean)
    ids = torch.tensor([0, 1])
    first, second = conjugate.drawn.group_removal(ids, 1)[0], conjugate.drawn.group_removal(ids, 2)[0]
    torch.testing.assert_close(first, conjugate.drawn.removal(1)[0, :2].sum())
    assert abs(second - truth) < abs(first - truth)


def test_a_narrow_posterior_gives_the_influence_function(conjugate):
    """With the likelihood to the power beta, covariances tend to -grad phi'(H + gamma I / (n beta))^-1 g_i / n."""
    data = Dataset(conjugate.inputs, conjugate.targets.unsqueeze(1), torch.arange(N))
    network = nn.Linear(2, 1, bias=False).double()
    objective = Objective(network, GaussianNoise(), WeightDecay(1 / N))
    objective = objective.at({"weight": conjugate.mean.unsqueeze(0)})
    influence = Influence(objective, data, damping=0.0)
    expected = influence.on_measurement(lambda params: (params["weight"] * conjugate.direction).sum()).removal[0]
    torch.testing.assert_close(expected, conjugate.first_cumulants()[0])


def test_losses_are_evaluated_at_every_sample(conjugate):
    data = Dataset(conjugate.inputs, conjugate.targets.unsqueeze(1), torch.arange(N))
    objective = Objective(nn.Linear(2, 1, bias=False).double(), GaussianNoise())
    losses = losses_at_samples(objective, {"weight": conjugate.samples[:100].unsqueeze(1)}, data)
    constant = 0.5 * torch.log(torch.tensor(2 * torch.pi))
    torch.testing.assert_close(losses, conjugate.drawn.train_losses[:100] + constant)
    with pytest.raises(ValueError, match=r"must name the network's parameters \['weight'\], got \['bias'\]"):
        losses_at_samples(objective, {"bias": conjugate.samples}, data)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_effective_sample_size_of_an_autoregression(rho):
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(20_000, 8, generator=generator, dtype=torch.float64)
    chain = [noise[0]]
    for step in noise[1:]:
        chain.append(rho * chain[-1] + (1 - rho**2) ** 0.5 * step)
    size = effective_sample_size(torch.stack(chain)).mean()
    assert float(size) == pytest.approx(20_000 * (1 - rho) / (1 + rho), rel=0.1)


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9])
def test_pareto_shapes_are_recovered(shape):
    generator = torch.Generator().manual_seed(2)
    uniform = torch.rand(2000, 4, generator=generator, dtype=torch.float64)
    excesses = (((1 - uniform) ** -shape - 1) / shape).sort(dim=0).values
    torch.testing.assert_close(
        pareto_shape(excesses).mean(), torch.tensor(shape, dtype=torch.float64), rtol=0, atol=0.05
    )


@pytest.mark.parametrize("count", [5, 41, 200, 202])
def test_pareto_shapes_are_those_of_pyro(count):
    excesses = torch.rand(count, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64).pow(-0.7) - 1
    expected = [fit_generalized_pareto(column)[0] for column in excesses.T]
    torch.testing.assert_close(pareto_shape(excesses.sort(dim=0).values), torch.tensor(expected, dtype=torch.float64))


def test_importance_diagnostics_point_at_influential_examples():
    """Weights exp(l), l = c z^2 / 2 with z normal, have a Pareto tail of shape c; the sample size falls with it."""
    generator = torch.Generator().manual_seed(3)
    z = torch.randn(20_000, 1, generator=generator, dtype=torch.float64)
    strengths = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    drawn = PosteriorSamples(0.5 * strengths * z.square(), z, torch.arange(3), torch.tensor([0]))
    assert drawn.tail_shape()[0] < 0.3
    assert drawn.tail_shape()[2] > 0.7
    sizes = drawn.importance_sample_size()
    assert float(sizes[0]) == pytest.approx(20_000 * (1 - 2 * 0.1) ** 0.5 / (1 - 0.1), rel=0.05)
    assert sizes[0] > sizes[1] > sizes[2]
    assert float(drawn.effective_sample_size()[0]) == pytest.approx(20_000, rel=0.1)


def _samples(train, **options):
    tests = torch.zeros(len(train), 1, dtype=torch.float64)
    return PosteriorSamples(train, tests, torch.arange(train.shape[1]), torch.tensor([0]), **options)


def test_bad_samples_are_refused():
    good = torch.zeros(6, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="at least 4 samples, got 3"):
        _samples(good[:3])
    with pytest.raises(ValueError, match="beta must be positive, got 0"):
        _samples(good, beta=0.0)
    with pytest.raises(ValueError, match="train_losses are not finite at 1 of 6 samples"):
        _samples(torch.where(torch.arange(6).unsqueeze(1) == 2, torch.nan, good))
    with pytest.raises(ValueError, match="order must be 1 or 2, got 3"):
        _samples(good).removal(3)
    with pytest.raises(ValueError, match="a tail needs at least 25 samples, got 6"):
        _samples(good).tail_shape()
    with pytest.raises(ValueError, match=r"the group \[9\] must name training examples"):
        _samples(good).group_removal(torch.tensor([9]))


def test_groups_are_named_by_whole_numbers_each_once(as_installed):
    samples = _samples(torch.zeros(6, 2, dtype=torch.float64))
    with pytest.raises(TypeError, match="ids must be whole numbers, got booleans"):
        samples.group_removal(torch.tensor([True, False]))
    with pytest.raises(ValueError, match="a group names each example once, but an id occurs twice"):
        samples.group_removal([1, 1])
    with pytest.raises(ValueError, match=r"the group \[\] must name training examples"):
        samples.group_removal([])


@pytest.mark.parametrize("beta", [0.25, 3.0])
def test_beta_is_the_power_of_the_likelihood(beta):
    """The first cumulant enters times beta, the second times beta^2 / 2, weights have it in the exponent."""
    generator = torch.Generator().manual_seed(4)
    losses, measured = torch.rand(2, 9, 3, generator=generator, dtype=torch.float64)
    drawn = PosteriorSamples(losses, measured[:, :1], torch.arange(3), torch.tensor([0]), beta)
    covariance = torch.stack([torch.cov(torch.stack([column, measured[:, 0]]))[0, 1] for column in losses.T])
    torch.testing.assert_close(drawn.removal(order=1)[0], beta * covariance)
    torch.testing.assert_close(drawn.scores().values[0], -3 * beta * covariance)
    centred, apart = losses - losses.mean(dim=0), measured[:, :1] - measured[:, :1].mean(dim=0)
    third = 9 * (centred.square() * apart).sum(dim=0) / (8 * 7)
    torch.testing.assert_close(drawn.removal(order=2)[0], beta * covariance + 0.5 * beta**2 * third)
    weights = (beta * losses).exp() / (beta * losses).exp().sum(dim=0)
    torch.testing.assert_close(
        drawn.reweighted_removal()[0], (weights * measured[:, :1]).sum(dim=0) - measured[:, 0].mean()
    )
    torch.testing.assert_close(drawn.importance_sample_size(), 1 / weights.square().sum(dim=0))
    together = PosteriorSamples(
        losses.sum(1, keepdim=True), drawn.measurements, torch.tensor([0]), drawn.test_ids, beta
    )
    torch.testing.assert_close(drawn.group_removal([0, 1, 2]), together.removal()[:, 0])


@pytest.mark.parametrize(("samples", "tail"), [(100, 20), (225, 45), (400, 60), (901, 90)])
def test_a_tail_is_a_fifth_of_the_samples_or_three_times_their_root(samples, tail, monkeypatch):
    """Whichever is less: 20 of 100, 45 of 225, then 60 of 400."""
    seen = []
    monkeypatch.setattr(posterior_samples, "pareto_shape", lambda excess: seen.append(excess) or torch.zeros(2))
    losses = torch.randn(samples, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = PosteriorSamples(losses, losses, torch.arange(2), torch.arange(2), 1.0)
    drawn.tail_shape()
    weights = (losses - losses.max(0).values).exp().sort(0).values
    torch.testing.assert_close(seen[0], weights[-tail:] - weights[-tail - 1])
