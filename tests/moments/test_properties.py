"""Identities that hold for all inputs: variances are never negative, and no variance is the deterministic network."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from bayes_influence.moments import Approximation, Moments, to_bayesian
from bayes_influence.moments.moments import MAX_POOLINGS, METHODS

OPERATIONS = {
    "relu": torch.relu,
    "leaky relu": nn.LeakyReLU(0.2),
    "gelu": nn.GELU(),
    "selu": nn.SELU(),
    "tanh": torch.tanh,
    "hardtanh": nn.Hardtanh(),
    "abs": torch.abs,
    "softmax": nn.Softmax(-1),
    "log softmax": nn.LogSoftmax(-1),
    "layer norm": nn.LayerNorm(4),
    "rms norm": nn.RMSNorm(4),
    "normalize": lambda x: nn.functional.normalize(x, dim=-1),
    "average pooling": nn.AvgPool1d(2, padding=1),
    "max pooling": nn.MaxPool1d(3, stride=1, padding=1),
    "adaptive max pooling": nn.AdaptiveMaxPool1d(2),
    "dropout": nn.Dropout(0.3),
    "square": lambda x: x * x,
    "difference": lambda x: x - 2 * x[..., :1],
}
means = st.lists(st.floats(-50, 50, width=32), min_size=4, max_size=4)
approximations = st.builds(Approximation, st.sampled_from(METHODS), st.sampled_from(MAX_POOLINGS))
variances = st.lists(st.floats(0, 100, width=32), min_size=4, max_size=4)


@pytest.mark.parametrize("name", OPERATIONS)
@settings(max_examples=60)
@given(mean=means, variance=variances, approximation=approximations)
def test_variances_stay_finite_and_not_negative(name, mean, variance, approximation):
    x = Moments(torch.tensor([mean]), torch.tensor([variance]), approximation)
    result = OPERATIONS[name](x)
    assert torch.isfinite(result.expectation).all()
    assert torch.isfinite(result.variance).all()
    assert (result.variance >= 0).all()


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - {"dropout"}))
@settings(max_examples=40)
@given(mean=means)
def test_without_variance_first_order_is_the_operation_itself(name, mean):
    x = Moments(torch.tensor([mean]), torch.zeros(1, 4))
    result = OPERATIONS[name](x)
    assert torch.equal(result.expectation, OPERATIONS[name](x.expectation))
    assert torch.equal(result.variance, torch.zeros_like(result.expectation))


NETWORKS = {
    "perceptron": lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.SELU(), nn.Linear(5, 3)),
    "convolutions": lambda: nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1),
        nn.BatchNorm2d(2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(2, 4, 2, groups=2),
        nn.GroupNorm(2, 4),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(4, 3),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=10)
@given(seed=st.integers(0, 10_000))
def test_without_variance_first_order_is_the_deterministic_network(name, seed):
    torch.manual_seed(seed)
    network = NETWORKS[name]().eval()
    twin = to_bayesian(network)
    certain = {key: value - (1e4 if key.endswith("_rho") else 0) for key, value in twin.named_parameters()}
    x = 3 * torch.randn(2, 1, 6, 6)
    out = functional_call(twin, certain, (x,))
    assert torch.equal(out.expectation, network(x))
    assert torch.equal(out.variance, torch.zeros_like(out.expectation))
