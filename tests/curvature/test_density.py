import math

import pytest
import torch

from bayes_influence.curvature.operators.base import DenseOperator
from bayes_influence.curvature.operators.hessian import HessianOperator
from bayes_influence.curvature.spectrum.density import effective_dimension, spectral_density


@pytest.fixture(scope="module")
def spectrum() -> torch.Tensor:
    """A bulk near 0, a negative tail and a few outliers, as a network's Hessian has."""
    generator = torch.Generator().manual_seed(8)
    bulk = 0.1 * torch.randn(280, dtype=torch.float64, generator=generator).abs()
    return torch.cat(
        [bulk, torch.linspace(-0.3, 0, 12, dtype=torch.float64), torch.tensor([1.0, 2.0, 3.0, 5.0, 8.0, 20.0])]
    )


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_moments_within_their_monte_carlo_error(random_matrix, spectrum, order) -> None:
    estimate = spectral_density(random_matrix(spectrum), probes=16, steps=40).moment(order)
    exact = float((spectrum**order).mean())
    assert abs(estimate.value - exact) <= 4 * estimate.standard_error + 1e-12
    assert estimate.standard_error < abs(exact)


def test_the_standard_error_is_that_of_the_probes(random_matrix, spectrum) -> None:
    """Over many seeds the estimates scatter as they say."""
    matrix = random_matrix(spectrum)
    estimates = [spectral_density(matrix, probes=8, steps=10, seed=seed).moment(1) for seed in range(40)]
    scatter = torch.tensor([estimate.value for estimate in estimates]).std()
    stated = torch.tensor([estimate.standard_error for estimate in estimates]).square().mean().sqrt()
    assert 0.6 < float(scatter / stated) < 1.6


def test_smoothed_density_against_the_dense_one(random_matrix, spectrum) -> None:
    grid, width = torch.linspace(-2, 22, 400, dtype=torch.float64), 0.3
    density = spectral_density(random_matrix(spectrum), probes=16, steps=80)
    smoothed = density.smoothed(grid, width)
    normal = torch.distributions.Normal(spectrum, width)
    exact = normal.log_prob(grid.unsqueeze(1)).exp().mean(dim=1)
    assert float(torch.trapezoid(smoothed, grid)) == pytest.approx(1, abs=1e-3)
    assert float(torch.trapezoid((smoothed - exact).abs(), grid)) < 0.02


def test_weights_sum_to_one_and_nodes_stay_inside(random_matrix, spectrum) -> None:
    density = spectral_density(random_matrix(spectrum), probes=6, steps=30)
    torch.testing.assert_close(density.weights.sum(dim=1), torch.ones(6, dtype=torch.float64))
    assert float(density.nodes.max()) <= 20 + 1e-9
    assert float(density.nodes.min()) >= -0.3 - 1e-9


def test_one_probe_has_no_standard_error(random_matrix, spectrum) -> None:
    assert spectral_density(random_matrix(spectrum), probes=1, steps=5).moment(1).standard_error == math.inf


@pytest.mark.parametrize("delta", [0.5, 3.0])
def test_effective_dimension(random_matrix, spectrum, delta) -> None:
    matrix = random_matrix(spectrum)
    identity = torch.eye(len(matrix), dtype=torch.float64)
    exact = float((matrix @ torch.linalg.inv(matrix + delta * identity)).trace())
    assert effective_dimension(matrix, delta) == pytest.approx(exact, rel=1e-9)
    estimate = spectral_density(matrix, probes=16, steps=80).effective_dimension(delta)
    assert abs(estimate.value - exact) <= 4 * estimate.standard_error
    assert estimate.products == 16 * 80


def test_effective_dimension_of_a_multiple_of_the_identity() -> None:
    """All Krylov spaces are exhausted after one step."""
    matrix = 3.0 * torch.eye(50, dtype=torch.float64)
    assert effective_dimension(matrix, 1.0) == pytest.approx(37.5)
    estimate = spectral_density(matrix, probes=5, steps=10).effective_dimension(1.0)
    assert estimate.value == pytest.approx(37.5)
    assert estimate.standard_error == pytest.approx(0, abs=1e-9)


def test_a_hessian_by_products(make_objective, classification) -> None:
    operator = HessianOperator(make_objective(), classification)
    exact = float(operator.dense().trace()) / 43
    estimate = spectral_density(operator, probes=16, steps=4).moment(1)
    assert abs(estimate.value - exact) <= 4 * estimate.standard_error


@pytest.mark.parametrize("delta", [0.0, -1.0, 0.2])
def test_effective_dimension_needs_enough_damping(random_matrix, spectrum, delta) -> None:
    matrix = random_matrix(spectrum)
    with pytest.raises(ValueError, match=r"needs a positive delta above -lambda_min = 0\.3"):
        effective_dimension(matrix, delta)
    with pytest.raises(ValueError, match="needs a positive delta above -lambda_min"):
        spectral_density(matrix, probes=2, steps=60).effective_dimension(delta)


def test_no_probe_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 probe, got 0"):
        spectral_density(DenseOperator(torch.eye(3)), probes=0)
