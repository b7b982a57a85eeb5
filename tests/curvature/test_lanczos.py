import pytest
import torch

from bayes_influence.curvature.operators.base import DenseOperator
from bayes_influence.curvature.operators.hessian import HessianOperator
from bayes_influence.curvature.spectrum.extremes import extreme_eigenvalues
from bayes_influence.curvature.spectrum.lanczos import LanczosProcess, gaussian_vectors, lanczos


def test_the_three_term_recurrence(random_matrix) -> None:
    """A Q_k' = Q_k' T_k + beta q e_m', with orthonormal rows of Q."""
    matrix = random_matrix(torch.linspace(-2, 5, 40))
    found = lanczos(DenseOperator(matrix), gaussian_vectors(DenseOperator(matrix), 3, seed=0), steps=12)
    for basis, small, off in zip(found.bases, found.matrices(), found.off_diagonals, strict=True):
        torch.testing.assert_close(basis @ basis.T, torch.eye(12, dtype=torch.float64))
        remainder = matrix @ basis.T - basis.T @ small
        torch.testing.assert_close(remainder[:, :-1], torch.zeros(40, 11, dtype=torch.float64), rtol=0, atol=1e-12)
        torch.testing.assert_close(remainder[:, -1].norm(), off[-1])


def test_all_steps_give_all_eigenvalues(random_matrix) -> None:
    eigenvalues = torch.linspace(-2, 5, 20, dtype=torch.float64)
    operator = DenseOperator(random_matrix(eigenvalues))
    values, _ = lanczos(operator, gaussian_vectors(operator, 1, seed=0), steps=100).eigensystems()
    torch.testing.assert_close(values[0], eigenvalues)


def test_no_copies_of_converged_eigenvalues(random_matrix) -> None:
    """Without reorthogonalisation an outlying eigenvalue would be found again and again."""
    operator = DenseOperator(random_matrix(torch.cat([torch.linspace(0, 1, 199), torch.tensor([100.0])])))
    values, _ = lanczos(operator, gaussian_vectors(operator, 1, seed=0), steps=120).eigensystems()
    assert (values > 50).sum() == 1


def test_an_exhausted_krylov_space_is_left_empty(random_matrix) -> None:
    """One start in an invariant subspace of dimension 2, beside one that explores everything."""
    matrix = random_matrix(torch.linspace(1, 10, 10))
    _, vectors = torch.linalg.eigh(matrix)
    starts = torch.stack([vectors[:, 2] + vectors[:, 5], vectors.sum(dim=1)], dim=1)
    found = lanczos(DenseOperator(matrix), starts, steps=10)
    assert not found.off_diagonals[0, 1:].any()
    assert not found.bases[0, 2:].any()
    torch.testing.assert_close(found.eigensystems()[0][0, -2:], torch.tensor([3.0, 6.0]).double())
    torch.testing.assert_close(found.eigensystems()[0][1], torch.linspace(1, 10, 10).double())


def test_bad_starts_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        lanczos(DenseOperator(torch.eye(3)), torch.ones(3, 1), steps=0)
    with pytest.raises(ValueError, match="starting vector of the Lanczos process is 0"):
        lanczos(DenseOperator(torch.eye(3)), torch.zeros(3, 1), steps=2)


class TestExtremeEigenvalues:
    def test_both_ends_within_the_estimated_error(self, random_matrix) -> None:
        eigenvalues = torch.cat([torch.linspace(-1, 0, 50), torch.linspace(0, 1, 240), torch.tensor([3.0, 20.0])])
        found = extreme_eigenvalues(DenseOperator(random_matrix(eigenvalues)), dense_size=0, tolerance=1e-4)
        assert found.converged
        assert 20 <= found.products < 60
        # A Ritz value never lies beyond the spectrum.
        assert 0 <= 20.0 - found.largest + 1e-6 <= found.largest_error + 2e-6
        assert 0 <= found.smallest + 1.0 + 1e-6 <= found.smallest_error + 2e-6
        assert max(found.largest_error, found.smallest_error) <= 1e-4 * 20

    def test_a_weak_negative_end_is_not_missed(self, random_matrix) -> None:
        """As in a trained network: strong outliers above, a bulk at 0, and little negative curvature."""
        eigenvalues = torch.cat([torch.tensor([-0.1, -0.05]), 1e-4 * torch.rand(490), torch.logspace(-2, 1, 8)])
        for seed in range(5):
            found = extreme_eigenvalues(random_matrix(eigenvalues), dense_size=0, seed=seed)
            assert found.converged
            assert found.products <= 40
            assert found.smallest == pytest.approx(-0.1, abs=0.01)
            assert found.largest == pytest.approx(10.0, rel=1e-3)

    def test_an_exhausted_krylov_space_is_exact(self) -> None:
        found = extreme_eigenvalues(torch.diag(torch.tensor([-1.0, 2.0] * 10).double()), dense_size=0)
        assert (found.largest, found.smallest) == pytest.approx((2.0, -1.0))
        assert found.products == 2
        assert found.converged

    def test_tight_tolerance_equals_the_dense_eigenvalues(self, make_objective, classification) -> None:
        operator = HessianOperator(make_objective(), classification)
        dense = torch.linalg.eigvalsh(operator.dense())
        found = extreme_eigenvalues(operator, dense_size=0, tolerance=1e-12)
        assert found.largest == pytest.approx(float(dense[-1]), rel=1e-8)
        assert found.smallest == pytest.approx(float(dense[0]), rel=1e-8)

    def test_stopping_early_is_said(self, random_matrix) -> None:
        found = extreme_eigenvalues(
            random_matrix(torch.linspace(-1, 1, 200)), dense_size=0, tolerance=1e-10, max_products=5
        )
        assert not found.converged
        assert found.products == 5
        assert found.largest < 1.0
        assert found.smallest > -1.0

    def test_dense_is_exact(self, random_matrix) -> None:
        found = extreme_eigenvalues(random_matrix(torch.tensor([-5.0, 0.0, 2.0])))
        assert (found.largest, found.smallest) == pytest.approx((2.0, -5.0))
        assert (found.largest_error, found.smallest_error, found.products) == (0, 0, 0)

    def test_the_tolerance_must_be_positive(self) -> None:
        with pytest.raises(ValueError, match="tolerance must be positive, got 0"):
            extreme_eigenvalues(torch.eye(2), tolerance=0.0)


def test_a_process_starts_with_nothing_and_may_end_after_one_step(random_matrix) -> None:
    operator = DenseOperator(random_matrix(torch.linspace(1, 3, 6)))
    start = gaussian_vectors(operator, 2, seed=0)
    assert LanczosProcess(operator, start, 4).state().diagonals.shape == (2, 0)
    found = lanczos(operator, start, steps=1)
    units = start / start.norm(dim=0)
    torch.testing.assert_close(found.diagonals[:, 0], (units * (operator @ units)).sum(0))
    torch.testing.assert_close(found.bases[:, 0], units.T)
