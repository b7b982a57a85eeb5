"""IVON against the published loop written out, and against posteriors that are known in closed form."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from bayes_influence.data.dataset import Dataset
from bayes_influence.moments.convert import to_bayesian
from bayes_influence.objectives.expected_likelihoods import ExpectedGaussian
from bayes_influence.objectives.likelihoods import GaussianNoise
from bayes_influence.objectives.members import stack_members
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import RHO
from bayes_influence.objectives.regularisers import GaussianKL, WeightDecay
from bayes_influence.training.ivon import IVON
from bayes_influence.training.minibatch import train_minibatches
from bayes_influence.training.minibatch_schedule import MinibatchSchedule
from bayes_influence.training.noise import LearnedNoise
from bayes_influence.training.optimisers import Adam
from bayes_influence.training.pyro_models import svi_step

N, NOISE = 30, 0.5
GENERATOR = torch.Generator().manual_seed(0)
MIXED = torch.tensor([[1.0, 0.6, 0.0], [0.0, 0.8, 0.5], [0.0, 0.0, 2.0]], dtype=torch.float64)
INPUTS = torch.randn(N, 3, dtype=torch.float64, generator=GENERATOR) @ MIXED
TARGETS = INPUTS @ torch.tensor([[0.7], [-1.0], [0.4]], dtype=torch.float64)
TARGETS = TARGETS + NOISE * torch.randn(N, 1, dtype=torch.float64, generator=GENERATOR)
DATA = Dataset(INPUTS, TARGETS, torch.arange(N))


def regression(prior=0.8, weight=1.0, *, bias=False):
    torch.manual_seed(0)
    twin = to_bayesian(nn.Linear(3, 1, bias=bias).double(), initial_sigma=0.3)
    return Objective(twin, ExpectedGaussian(NOISE), GaussianKL(N, prior), weight)


def trained(objective, schedule, **options):
    return train_minibatches(objective, stack_members([objective.params]), DATA, schedule, [0], **options).at(0)


def optimum(prior, weight):
    """Of n data + w KL among independent Gaussians: the exact mean, and 1/precision_ii (not the covariance's ii)."""
    precision = INPUTS.T @ INPUTS / NOISE**2 / weight + torch.eye(3) / prior**2
    return torch.linalg.solve(precision, INPUTS.T @ TARGETS / NOISE**2 / weight).T, precision.diagonal().rsqrt()


@pytest.mark.parametrize(("prior", "weight"), [(0.8, 1.0), (0.1, 1.0), (0.8, 4.0)])
def test_it_rests_at_the_mean_field_posterior_of_a_linear_regression(prior, weight):
    schedule = MinibatchSchedule(250, N, 0.02, optimiser=IVON())
    ended = trained(regression(prior, weight), schedule)
    mean, deviation = optimum(prior, weight)
    assert (torch.linalg.inv(INPUTS.T @ INPUTS / NOISE**2).diagonal().sqrt() > 1.05 * optimum(prior, 1.0)[1]).any()
    torch.testing.assert_close(ended.params["weight"], mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(ended.params["weight" + RHO].exp()[0], deviation, rtol=1e-6, atol=0)


def test_sampled_weights_lead_to_the_evidence_bound_of_propagated_ones_sooner_than_by_adam():
    objective = regression()
    drawn = svi_step(objective, N)
    best, ours, adams = (
        trained(objective, MinibatchSchedule(200, N, rate, optimiser=optimiser, decay="cosine"), step=step)
        for optimiser, rate, step in ((IVON(), 0.02, None), (IVON(), 0.02, drawn), (Adam(), 0.1, drawn))
    )
    bounds = [N * float(one.value(one.params, DATA.batch())) for one in (best, ours, adams)]
    assert bounds[0] < bounds[1] < bounds[0] + 0.1
    assert bounds[1] < bounds[2] < bounds[0] + 0.3


def losses(weights, targets=TARGETS):
    return GaussianNoise(NOISE)(INPUTS @ weights.unsqueeze(1), targets).mean()


def written_out(mean, sigma, noise, rates, prior, weight, settings):
    """Algorithm 1 of Shen et al. 2024 in its own variables: m, h, g, with lambda = n/w and delta = 1/(lambda s^2)."""
    samples = N / weight
    delta = 1 / (samples * prior**2)
    h, average, mean = 1 / (samples * sigma**2) - delta, torch.zeros_like(mean), mean.clone()
    for step, (draw, rate) in enumerate(zip(noise, rates, strict=True), start=1):
        beta2 = 1 - settings.hessian_scale * rate
        sigma = (samples * (h + delta)).rsqrt()
        theta = (mean + sigma * draw).requires_grad_()
        (gradient,) = torch.autograd.grad(losses(theta), theta)
        found = gradient * (theta.detach() - mean) / sigma**2
        average = settings.decay * average + (1 - settings.decay) * gradient
        correction = (1 - beta2) ** 2 * (h - found).square() / (2 * (h + delta))
        h = beta2 * h + (1 - beta2) * found + correction
        debiased = average / (1 - settings.decay**step)
        mean = mean - settings.mean_scale * rate * (debiased + delta * mean) / (h + delta)
    return mean, (samples * (h + delta)).rsqrt()


def test_members_take_the_published_steps_with_the_same_draws():
    settings, prior, weight = IVON(decay=0.8, mean_scale=3.0, hessian_scale=10.0), 0.6, 0.5
    objective = regression(prior, weight)
    steps = settings.on(objective, objective.names)
    noise = torch.randn(6, 2, 3, dtype=torch.float64, generator=GENERATOR)
    rates = torch.tensor([[0.03, 0.01]] * 3 + [[0.02, 0.005]] * 3, dtype=torch.float64)
    start = torch.tensor([[0.3, -0.2, 1.0, -1.5, -2.0, -1.0], [1.0, 0.0, 0.5, -1.0, -0.5, -3.0]], dtype=torch.float64)
    flat = start.clone()
    state = steps.start(flat)
    for draws, step_rates in zip(noise, rates, strict=True):
        gradients = []
        for row, draw in zip(flat, draws, strict=True):
            leaf = row.clone().requires_grad_()
            mean, rho = leaf.split(3)
            divergence = objective.regulariser({"weight": mean, "weight" + RHO: rho})
            value = losses(mean + rho.exp() * draw) + weight * divergence
            gradients.append(torch.autograd.grad(value, leaf)[0])
        steps.step(flat, torch.stack(gradients), step_rates, state)
    for index in range(2):
        mean, sigma = start[index, :3], start[index, 3:].exp()
        mean, sigma = written_out(mean, sigma, noise[:, index], rates[:, index].tolist(), prior, weight, settings)
        torch.testing.assert_close(flat[index, :3], mean, rtol=1e-10, atol=0)
        torch.testing.assert_close(flat[index, 3:].exp(), sigma, rtol=1e-10, atol=0)


def test_a_prior_of_its_own_for_each_parameter():
    objective = regression({"weight": 0.5, "bias": 2.0}, bias=True)
    torch.testing.assert_close(
        IVON().on(objective, objective.names).prior, torch.tensor([1 / (N * 0.25)] * 3 + [1 / (N * 4.0)]).double()
    )


def test_precisions_stay_positive_whatever_the_gradient():
    objective = regression()
    steps = IVON().on(objective, objective.names)
    flat = torch.zeros(1, 6, dtype=torch.float64)
    for slope in (-1e6, -2.0, 1e6):
        steps.step(flat, torch.full_like(flat, slope), torch.tensor([0.1]).double(), steps.start(flat))
        assert flat[:, 3:].isfinite().all()
    wider = torch.zeros(1, 6, dtype=torch.float64)
    least = torch.full_like(wider, -1 / N)  # x = -1, where 1 + x + x^2/2 is smallest
    steps.step(wider, least, torch.tensor([0.2]).double(), steps.start(wider))
    torch.testing.assert_close(wider[:, 3:].exp(), torch.full((1, 3), 2.0**0.5).double())


def test_what_is_not_trained_stays_and_what_has_no_variance_is_adams():
    torch.manual_seed(0)
    twin = to_bayesian(nn.Linear(3, 1, bias=False).double(), initial_sigma=0.3)
    objective = Objective(LearnedNoise(twin, initial=1.0), ExpectedGaussian(None), GaussianKL(N))
    names = ("network.weight", "log_scale")
    schedule = MinibatchSchedule(5, N, 0.01, optimiser=IVON())
    ended = trained(objective, schedule, names=names)
    assert torch.equal(ended.params["network.weight" + RHO], objective.params["network.weight" + RHO])
    assert not torch.equal(ended.params["network.weight"], objective.params["network.weight"])
    alone = ("log_scale",)
    ours, adams = (trained(objective, replace(schedule, optimiser=one), names=alone).params for one in (IVON(), Adam()))
    assert not torch.equal(ours["log_scale"], objective.params["log_scale"])
    for name, value in adams.items():
        assert torch.equal(ours[name], value)


def test_it_needs_a_prior():
    objective = regression()
    with pytest.raises(TypeError, match="IVON needs a GaussianKL as the regulariser, got WeightDecay; take Adam"):
        IVON().on(Objective(objective.network, ExpectedGaussian(NOISE), WeightDecay(0.1)), objective.names)
    with pytest.raises(ValueError, match=r"a KL of positive weight, got regulariser_weight=0.0: it has no prior then"):
        IVON().on(replace(objective, regulariser_weight=0.0), objective.names)


@pytest.mark.parametrize("settings", [{"decay": 1.0}, {"decay": -0.1}, {"mean_scale": 0.0}, {"hessian_scale": -1.0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=r"IVON needs a decay in \[0, 1\) and positive scales of the learning rate"):
        IVON(**settings)
