import pytest
import torch
from torch.nn import functional

from bayes_influence.moments import Approximation, Moments
from bayes_influence.moments.linear import gaussian_weights

DOUBLE = torch.float64
N = 100_000


@pytest.fixture
def weights():
    return Moments(torch.randn(3, 4, dtype=DOUBLE), torch.rand(3, 4, dtype=DOUBLE)), Moments(
        torch.randn(3, dtype=DOUBLE), torch.rand(3, dtype=DOUBLE)
    )


@pytest.mark.parametrize("random_input", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_gaussian_weights_against_samples(weights, random_input, with_bias, draw, assert_match):
    weight, bias = weights
    x = Moments(torch.randn(2, 4, dtype=DOUBLE), torch.rand(2, 4, dtype=DOUBLE))
    result = gaussian_weights(
        functional.linear,
        x if random_input else x.mean,
        weight.mean,
        bias.mean if with_bias else None,
        weight.variance,
        bias.variance if with_bias else None,
        Approximation("exact"),
    )
    inputs = draw(x, N) if random_input else x.mean.expand(N, 2, 4)
    samples = inputs @ draw(weight, N).mT
    assert_match(result, samples + draw(bias, N)[:, None] if with_bias else samples)
    assert result.approximation == Approximation("exact")


def test_fixed_weights_against_samples(weights, draw, assert_match):
    weight, bias = (part.mean for part in weights)
    x = Moments(torch.randn(2, 4, dtype=DOUBLE), torch.rand(2, 4, dtype=DOUBLE))
    assert_match(functional.linear(x, weight, bias), functional.linear(draw(x, N), weight, bias))


def test_products_of_matrices_against_samples(draw, assert_match):
    left = Moments(torch.randn(2, 3, dtype=DOUBLE), torch.rand(2, 3, dtype=DOUBLE))
    right = Moments(torch.randn(3, 2, dtype=DOUBLE), torch.rand(3, 2, dtype=DOUBLE))
    assert_match(left @ right, draw(left, N) @ draw(right, N))
    assert_match(left.mean @ right, left.mean @ draw(right, N))
    assert_match(torch.matmul(left, right.mean), draw(left, N) @ right.mean)
