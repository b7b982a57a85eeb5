import pytest
import torch

from bayes_influence.curvature.operators.base import DenseOperator
from bayes_influence.curvature.spectrum.trace import hutch_plus_plus, hutchinson, xtrace

ESTIMATORS = [hutchinson, hutch_plus_plus, xtrace]


@pytest.fixture(scope="module")
def decaying(random_matrix) -> torch.Tensor:
    """Eigenvalues 1/j^2 with both signs."""
    return random_matrix((-1.0) ** torch.arange(200) / torch.arange(1, 201, dtype=torch.float64) ** 2)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_within_the_standard_error(decaying, estimator) -> None:
    exact = float(decaying.trace())
    estimates = [estimator(decaying, products=60, seed=seed) for seed in range(50)]
    errors = torch.tensor([estimate.value - exact for estimate in estimates])
    stated = torch.tensor([estimate.standard_error for estimate in estimates])
    # Unbiased: the mean error vanishes within its own standard error. Calibrated: errors are as large as stated.
    assert abs(float(errors.mean())) < 4 * float(errors.std()) / 50**0.5
    assert 0.6 < float(errors.square().mean().sqrt() / stated.square().mean().sqrt()) < 1.7


def test_sketches_beat_hutchinson_on_a_decaying_spectrum(decaying) -> None:
    plain, plus, cross = (estimator(decaying, products=60).standard_error for estimator in ESTIMATORS)
    assert plus < plain / 3
    assert cross < plus / 2


@pytest.mark.parametrize("estimator", [hutch_plus_plus, xtrace])
def test_a_matrix_of_low_rank_is_exact(random_matrix, estimator) -> None:
    matrix = random_matrix(torch.cat([torch.zeros(90), torch.tensor([-2.0, 1.0, 5.0, 7.0])]))
    estimate = estimator(matrix, products=24)
    assert estimate.value == pytest.approx(11.0, rel=1e-6)
    assert estimate.standard_error < 1e-5


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_units_do_not_count(random_matrix, estimator, scale) -> None:
    matrix = random_matrix(torch.cat([torch.zeros(90), torch.tensor([-2.0, 1.0, 5.0, 7.0])]))
    estimate, scaled = estimator(matrix, products=24), estimator(scale * matrix, products=24)
    assert scaled.value == pytest.approx(scale * estimate.value, rel=1e-6)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_matrix_of_zeros(estimator) -> None:
    estimate = estimator(torch.zeros(60, 60, dtype=torch.float64), products=30)
    assert (estimate.value, estimate.standard_error) == (0.0, 0.0)


@pytest.mark.parametrize("estimator", [hutchinson, xtrace])
def test_the_length_of_a_probe_does_not_count(estimator) -> None:
    estimate = estimator(torch.eye(60, dtype=torch.float64), products=30)
    assert estimate.value == pytest.approx(60, abs=1e-9)
    assert estimate.standard_error < 1e-9


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_diagonal_matrix(estimator) -> None:
    """Random signs give a diagonal's trace exactly; the others at least within their error."""
    diagonal = torch.diag(torch.linspace(-1, 4, 60, dtype=torch.float64))
    estimate = estimator(diagonal, products=30)
    assert abs(estimate.value - 90.0) <= 4 * estimate.standard_error + 1e-9


@pytest.mark.parametrize("estimator", [hutch_plus_plus, xtrace])
def test_more_products_than_parameters_give_the_exact_trace(random_matrix, estimator) -> None:
    matrix = random_matrix(torch.linspace(-1, 3, 9))
    estimate = estimator(matrix, products=60)
    assert estimate.value == pytest.approx(9.0)
    assert (estimate.standard_error, estimate.products) == (0, 9)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_seed_decides(decaying, estimator) -> None:
    assert estimator(decaying, 30, seed=1).value == estimator(decaying, 30, seed=1).value
    assert estimator(decaying, 30, seed=1).value != estimator(decaying, 30, seed=2).value


@pytest.mark.parametrize(("estimator", "least"), [(hutchinson, 2), (hutch_plus_plus, 6), (xtrace, 4)])
def test_too_few_products(estimator, least) -> None:
    with pytest.raises(ValueError, match=f"needs at least {least} products, got {least - 1}"):
        estimator(DenseOperator(torch.eye(3)), least - 1)
