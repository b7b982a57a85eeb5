import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import nn
from torch.distributions import MultivariateNormal

from bayes_influence.data.batch import Batch
from bayes_influence.data.dataset import Dataset
from bayes_influence.moments.convert import to_bayesian
from bayes_influence.objectives.expected_likelihoods import ExpectedGaussian
from bayes_influence.objectives.likelihoods import GaussianNoise
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.parameters import RHO
from bayes_influence.objectives.regularisers import GaussianKL
from bayes_influence.training.elbo import sampled_negative_elbo
from bayes_influence.training.ensemble import train_ensemble
from bayes_influence.training.noise import LearnedNoise, with_noise_held
from bayes_influence.training.pyro_models import svi_step
from bayes_influence.training.schedules import Schedule

N, PRIOR_SCALE = 40, 0.8
GENERATOR = torch.Generator().manual_seed(0)
ORTHOGONAL = torch.linalg.qr(torch.randn(N, 3, dtype=torch.float64, generator=GENERATOR))[0] * N**0.5
WEIGHTS = torch.tensor([[0.7, -1.0, 0.4]], dtype=torch.float64)
NOISE = 0.3 * torch.randn(N, 1, dtype=torch.float64, generator=GENERATOR)
DATA = Dataset(ORTHOGONAL, ORTHOGONAL @ WEIGHTS.T + NOISE, torch.arange(N))


def objective():
    torch.manual_seed(0)
    network = LearnedNoise(to_bayesian(nn.Linear(3, 1, bias=False).double()), initial=1.0)
    return Objective(network, ExpectedGaussian(None), GaussianKL(N, PRIOR_SCALE))


def evidence(scale):
    """log N(y; 0, s^2 I + t^2 X X^T): with orthogonal columns the mean-field posterior is the exact one."""
    covariance = scale**2 * torch.eye(N, dtype=torch.float64) + PRIOR_SCALE**2 * ORTHOGONAL @ ORTHOGONAL.T
    return float(MultivariateNormal(torch.zeros(N, dtype=torch.float64), covariance).log_prob(DATA.targets[:, 0]))


@pytest.fixture(scope="module")
def trained():
    start = objective()
    stacked = {name: value.unsqueeze(0) for name, value in start.params.items()}
    ensemble = train_ensemble(start, stacked, DATA.batch(), Schedule(3000, 0.05))
    return start.at({name: value[0] for name, value in ensemble.params.items()})


def test_a_linear_regression_learns_the_noise_of_largest_evidence_and_the_posterior_that_belongs_to_it(trained):
    best = minimize_scalar(
        lambda scale: -evidence(scale), bounds=(0.05, 2.0), method="bounded", options={"xatol": 1e-10}
    )
    scale = float(trained.params["log_scale"].exp())
    assert scale == pytest.approx(best.x, rel=1e-5)
    assert N * float(trained.value(trained.params, DATA.batch())) == pytest.approx(best.fun, abs=1e-6)
    precision = ORTHOGONAL.T @ ORTHOGONAL / scale**2 + torch.eye(3) / PRIOR_SCALE**2
    mean = torch.linalg.solve(precision, ORTHOGONAL.T @ DATA.targets / scale**2)
    torch.testing.assert_close(trained.params["network.weight"], mean.T, atol=1e-5, rtol=0)
    deviations = precision.diagonal().rsqrt()
    torch.testing.assert_close(trained.params["network.weight" + RHO].exp()[0], deviations, rtol=1e-4, atol=0)


def test_the_sampled_elbo_is_the_objective(trained):
    sampled = sampled_negative_elbo(trained, DATA, 2000)
    exact = N * float(trained.value(trained.params, DATA.batch()))
    assert abs(sampled.value - exact) < 4 * sampled.standard_error
    assert sampled.standard_error < 0.05


def test_pyro_estimates_the_same_objective_and_differentiates_the_noise(trained):
    step = svi_step(trained, N)
    leaves = {name: value.clone().requires_grad_() for name, value in trained.params.items()}
    values = torch.stack([step(leaves, {}, DATA.batch(), None, 1.0)[0] for _ in range(200)])
    (slope,) = torch.autograd.grad(values.mean(), leaves["log_scale"])
    exact = float(trained.value(trained.params, DATA.batch()))
    values = values.detach()
    assert abs(float(values.mean()) - exact) < 4 * float(values.std()) / 200**0.5
    assert abs(float(slope)) < 0.1


def test_every_output_has_its_own_noise():
    network = LearnedNoise(nn.Linear(3, 2).double(), 2)
    with torch.no_grad():
        network.log_scale.copy_(torch.tensor([-1.0, 0.5]))
    outputs, targets = network(ORTHOGONAL), torch.randn(N, 2, dtype=torch.float64)
    expected = -torch.distributions.Normal(outputs[:, :2], network.scale).log_prob(targets).sum(1)
    torch.testing.assert_close(GaussianNoise(None)(outputs, targets), expected)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"n_targets >= 1 and a positive initial noise, got 1 and 0\.0"):
        LearnedNoise(nn.Linear(3, 1), initial=0.0)
    with pytest.raises(ValueError, match="the network has 2 outputs, but noise is learned for n_targets=1"):
        LearnedNoise(nn.Linear(3, 2))(torch.zeros(4, 3))
    flat = Batch(ORTHOGONAL, DATA.targets[:, 0])
    with pytest.raises(ValueError, match=r"shape of the predicted means \(40, 1\), got \(40,\)"):
        objective().losses(objective().params, flat)


def test_with_the_noise_held_it_is_the_same_objective_of_everything_else():
    inner = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    learning = LearnedNoise(to_bayesian(inner), n_targets=2)
    with torch.no_grad():
        learning.log_scale.copy_(torch.tensor([-0.5, 0.7]))
    data = Dataset(ORTHOGONAL, torch.cat([DATA.targets, -DATA.targets], dim=1), torch.arange(N))
    whole = Objective(learning, ExpectedGaussian(None), GaussianKL(N, PRIOR_SCALE), parameters="last-layer")
    held = with_noise_held(whole)
    assert held.names == tuple(name.removeprefix("network.") for name in whole.names)
    moved = {name: value + 0.1 for name, value in held.params.items()}
    again = {f"network.{name}": value for name, value in moved.items()} | {"log_scale": whole.params["log_scale"]}
    torch.testing.assert_close(held.value(moved, data.batch()), whole.value(again, data.batch()))
    assert with_noise_held(held) is held
    with pytest.raises(ValueError, match="influence is taken in the noise as well"):
        with_noise_held(whole.taking("all"))
