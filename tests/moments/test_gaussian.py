import pytest
import torch
from scipy.special import ndtr
from torch.func import jacrev, vmap

from bayes_influence.moments import Moments
from bayes_influence.moments.gaussian import (
    GAUSS_HERMITE_NODES,
    gauss_hermite,
    gauss_hermite_derivatives,
    normal_density,
    normal_distribution,
    rectified_moments,
)

DOUBLE = torch.float64


def test_density_and_distribution_agree_with_scipy():
    a = torch.linspace(-8, 8, 33, dtype=DOUBLE)
    normal = torch.distributions.Normal(torch.zeros((), dtype=DOUBLE), 1.0)
    assert torch.allclose(normal_density(a), normal.log_prob(a).exp(), rtol=1e-13)
    assert torch.allclose(normal_distribution(a), torch.from_numpy(ndtr(a.numpy())), rtol=1e-12, atol=0)


def test_quadrature_is_exact_for_polynomials():
    mean, variance = torch.randn(5, dtype=DOUBLE), torch.rand(5, dtype=DOUBLE) + 0.1
    for degree, expectation in [
        (2, mean**2 + variance),
        (4, mean**4 + 6 * mean**2 * variance + 3 * variance**2),
    ]:
        assert torch.allclose(gauss_hermite(lambda x, d=degree: x**d, mean, variance)[0], expectation, rtol=1e-12)
    assert torch.allclose(
        gauss_hermite(torch.square, mean, variance)[1], 2 * variance**2 + 4 * mean**2 * variance, rtol=1e-12
    )


@pytest.mark.parametrize("variance", [0.01, 1.0, 4.0])
def test_quadrature_of_tanh_against_a_fine_grid(variance):
    mean = torch.linspace(-3, 3, 13, dtype=DOUBLE)
    z = torch.linspace(-10, 10, 20_001, dtype=DOUBLE)
    weights = normal_density(z) * (z[1] - z[0])
    values = torch.tanh(mean[:, None] + variance**0.5 * z)
    expectation = (weights * values).sum(1)
    spread = (weights * (values - expectation[:, None]).square()).sum(1)
    found = gauss_hermite(torch.tanh, mean, torch.full_like(mean, variance))
    assert ((found[0] - expectation).abs() < 0.007 * spread.sqrt()).all()
    assert ((found[1] / spread - 1).abs() < 0.045).all()


def test_quadrature_has_the_stated_number_of_nodes():
    seen = []
    gauss_hermite(lambda x: seen.append(x.shape) or x, torch.zeros(3), torch.ones(3))
    assert seen == [(GAUSS_HERMITE_NODES, 3)]
    assert GAUSS_HERMITE_NODES >= 8


def test_rectified_moments_against_samples(draw, assert_match):
    x = Moments(torch.tensor([-2.0, -0.3, 0.0, 0.5, 3.0], dtype=DOUBLE), torch.tensor(5 * [0.8], dtype=DOUBLE))
    samples = draw(x, 400_000)
    mean, variance, covariance = rectified_moments(x.expectation, x.variance)
    assert_match(Moments(mean, variance), samples.relu())
    products = (samples - x.expectation) * samples.relu()
    error = products.std(0) / len(samples) ** 0.5
    assert ((products.mean(0) - covariance).abs() < 5 * error).all()


def test_rectified_variance_is_stable_in_single_precision():
    mean = torch.tensor([300.0, -4.0, 0.0, 2.0, -5.0])
    variance = torch.tensor([1e-4, 1.0, 1e-8, 0.3, 2.0])
    reference = rectified_moments(mean.double(), variance.double())
    for single, double in zip(rectified_moments(mean, variance), reference, strict=True):
        assert torch.allclose(single.double(), double, rtol=1e-4, atol=1e-9)


def test_rectified_moments_without_variance_are_the_function_itself():
    mean = torch.tensor([-1.0, 0.0, 2.0], dtype=DOUBLE)
    expectation, variance, covariance = rectified_moments(mean, torch.zeros_like(mean))
    # The floor leaves a standard deviation of 1e-6, whose half-normal mean is below 4e-7.
    assert torch.allclose(expectation, mean.relu(), atol=4e-7, rtol=0)
    assert torch.equal(variance, torch.zeros_like(mean))
    assert torch.equal(covariance, torch.zeros_like(mean))


def test_derivatives_of_the_quadrature_are_those_of_its_formula():
    m = torch.linspace(-3, 3, 13, dtype=torch.float64)
    v = torch.linspace(0.05, 3, 13, dtype=torch.float64)
    mine = gauss_hermite_derivatives(torch.tanh, lambda value: 1 - value.square(), m, v)
    by_mean, by_variance = vmap(jacrev(lambda m, v: torch.stack(gauss_hermite(torch.tanh, m, v)), (0, 1)))(m, v)
    expected = (by_mean[:, 0], by_variance[:, 0], by_mean[:, 1], by_variance[:, 1])
    for ours, autograds in zip(mine, expected, strict=True):
        assert torch.allclose(ours, autograds, rtol=1e-12, atol=1e-14)
    certain = gauss_hermite_derivatives(torch.tanh, lambda value: 1 - value.square(), m, torch.zeros_like(v))
    assert torch.equal(certain[1], torch.zeros_like(m))
