"""Twins under torch.compile."""

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_compiles():
    # In a process of its own: the annotation checks of the test run cannot be compiled.
    program = """
import torch
from torch import nn
from bayes_influence.moments import to_bayesian
network = nn.Sequential(nn.Linear(4, 5), nn.SELU(), nn.Linear(5, 3), nn.ReLU(inplace=True), nn.Linear(3, 2))
for method in ("first-order", "exact", "gauss-hermite"):
    twin, x = to_bayesian(network, method=method), torch.randn(3, 4)
    compiled = torch.compile(twin, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x).variance, twin(x).variance)
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.slow
def test_factors_and_covariances_compile_to_the_same_moments_and_gradients():
    program = """
import torch
from torch import nn
from bayes_influence.moments import to_bayesian

class Skip(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.other, self.norm, self.head = nn.Linear(5, 5), nn.Linear(5, 5), nn.LayerNorm(5), nn.Linear(5, 3)

    def forward(self, x):
        h = self.one(x)
        return torch.softmax(self.head(self.norm(h + self.other(torch.tanh(h)))), -1)

torch.manual_seed(0)
pooled = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 5), nn.ReLU())
network, x = nn.Sequential(pooled, Skip()), torch.randn(6, 1, 6, 6)
twin = to_bayesian(network, method="exact", structure="calibrated-covariance").eval()
for name, value in twin.named_buffers():
    value.copy_(1 + torch.rand(value.shape))

def loss(moments):
    return moments.variance.sum() + moments.expectation.square().sum()

def gradients(moments):
    return torch.autograd.grad(loss(moments), list(twin.parameters()), allow_unused=True, materialize_grads=True)

expected, found = twin(x), torch.compile(twin, backend="aot_eager")(x)
torch.testing.assert_close(found.expectation, expected.expectation)
torch.testing.assert_close(found.variance, expected.variance)
torch.testing.assert_close(found.covariance.columns, expected.covariance.columns)
torch.testing.assert_close(found.covariance.variances, expected.covariance.variances)
for one, other in zip(gradients(found), gradients(expected), strict=True):
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)
