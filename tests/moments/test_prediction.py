import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev

from bayes_influence.data.arguments import Arguments
from bayes_influence.moments import (
    Moments,
    check_twin,
    diagonal_moments,
    linearized_moments,
    moment_check,
    prediction,
    sampled_moments,
    to_bayesian,
    to_deterministic,
)

DOUBLE = torch.float64


def small(initial_sigma=0.3, method="exact"):
    network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    return to_bayesian(network, method=method, initial_sigma=initial_sigma).eval()


@pytest.fixture
def x():
    return torch.randn(6, 4, dtype=DOUBLE)


def test_diagonal_moments_are_the_forward_pass(x):
    network = small()
    assert torch.equal(diagonal_moments(network, x).variance, network(x).variance)
    params = {name: 0.5 * p.detach() for name, p in network.named_parameters()}
    assert torch.equal(
        diagonal_moments(network, x, params).expectation, functional_call(network, params, (x,)).expectation
    )


def test_linearized_moments_are_the_dense_jacobian(x):
    network = small()
    mean_network = to_deterministic(network)
    params = {name: p.detach() for name, p in mean_network.named_parameters()}
    jacobian = jacrev(lambda p: functional_call(mean_network, p, (x,)))(params)
    sigma_squared = {name: (2 * p).exp() for name, p in network.named_parameters() if name.endswith("_rho")}
    expected = sum((jacobian[name].square() * sigma_squared[name + "_rho"]).flatten(2).sum(2) for name in params)
    result = linearized_moments(network, x)
    assert torch.equal(result.expectation, mean_network(x))
    assert torch.allclose(result.variance, expected)


def test_linearized_moments_do_not_depend_on_the_memory_they_may_use(x, monkeypatch):
    network = small()
    expected = linearized_moments(network, x)
    monkeypatch.setattr(prediction, "JACOBIAN_ENTRIES", 1)
    assert torch.allclose(linearized_moments(network, x).variance, expected.variance)


def test_a_linear_network_has_the_same_moments_in_all_modes():
    network = to_bayesian(nn.Linear(4, 3).double(), initial_sigma=0.7).eval()
    inputs = torch.randn(5, 4, dtype=DOUBLE)
    diagonal, linearized = diagonal_moments(network, inputs), linearized_moments(network, inputs)
    assert torch.allclose(diagonal.expectation, linearized.expectation)
    assert torch.allclose(diagonal.variance, linearized.variance)
    sampled = sampled_moments(network, inputs, n_samples=8_000)
    assert torch.allclose(
        sampled.expectation, diagonal.expectation, atol=5 * (diagonal.variance.max() / 8_000).sqrt().item()
    )
    assert torch.allclose(sampled.variance, diagonal.variance, rtol=5 * (2 / 8_000) ** 0.5)


def test_random_inputs_add_their_variance(x):
    network = small()
    noisy = Moments(x, torch.full_like(x, 0.04))
    mean_network = to_deterministic(network)
    by_input = torch.stack([jacrev(mean_network)(row) for row in x]).square().sum(2) * 0.04
    result = linearized_moments(network, noisy)
    assert torch.allclose(result.variance, linearized_moments(network, x).variance + by_input)


def test_all_modes_agree_for_small_variances(x):
    network = small(initial_sigma=0.02)
    sampled = sampled_moments(network, x, n_samples=4_000)
    for moments in (diagonal_moments(network, x), linearized_moments(network, x)):
        assert ((moments.expectation - sampled.expectation).abs() < 0.1 * sampled.variance.sqrt()).all()
    assert torch.allclose(linearized_moments(network, x).variance, sampled.variance, rtol=0.12)


def test_convolutions_share_weights_and_the_linearisation_keeps_their_covariance():
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 2)).double()
    twin = to_bayesian(network, initial_sigma=0.05).eval()
    images = torch.rand(8, 1, 6, 6, dtype=DOUBLE)
    sampled = sampled_moments(twin, images, n_samples=4_000).variance.sum()
    assert linearized_moments(twin, images).variance.sum().item() == pytest.approx(sampled.item(), rel=0.05)
    assert diagonal_moments(twin, images).variance.sum() < 0.9 * sampled


@pytest.mark.parametrize("moments", [diagonal_moments, linearized_moments, sampled_moments])
def test_a_network_in_training_mode_or_without_variances_is_refused(moments, x):
    with pytest.raises(ValueError, match="has no Bayesian layer"):
        moments(to_deterministic(small()), x)
    training = to_bayesian(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))).train()
    with pytest.raises(ValueError, match="'1' is in training mode"):
        moments(training, torch.zeros(2, 4))


def test_tokens_and_several_arguments_have_moments_in_all_modes():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.out = nn.Embedding(10, 4), nn.Linear(4, 2)

        def forward(self, ids, *, scale):
            return self.out(self.words(ids).mean(1) * scale)

    network = to_bayesian(Gated().double(), initial_sigma=0.02).eval()
    inputs = Arguments(torch.randint(10, (3, 5)), scale=torch.rand(3, 1, dtype=DOUBLE) + 1)
    linearized = linearized_moments(network, inputs)
    sampled = sampled_moments(network, inputs, n_samples=4_000)
    torch.testing.assert_close(linearized.variance, sampled.variance, rtol=0.12, atol=0)
    torch.testing.assert_close(diagonal_moments(network, inputs).expectation, linearized.expectation)
    check_twin(to_deterministic(network), network, inputs)
    assert moment_check(network, inputs, n_samples=50).layers[-1].path == "out"
