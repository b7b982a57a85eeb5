"""EK-FAC's own inverse against the dense matrix, and what it says where the damping varies within a layer."""

import pytest
import torch

from bayes_influence.curvature.errors import NotConvergedError, NotConvergedWarning
from bayes_influence.curvature.operators.ekfac import EKFACOperator
from bayes_influence.curvature.solvers.kronecker_inverse import KroneckerInverse
from bayes_influence.curvature.solvers.registry import solve


@pytest.fixture
def operator(make_objective, classification):
    return EKFACOperator(make_objective(), classification)


def test_the_inverse_is_that_of_the_dense_matrix(operator) -> None:
    rhs = torch.randn(43, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    damped = operator + torch.full((43,), 0.1, dtype=torch.float64)
    solution = solve(damped, rhs, KroneckerInverse())
    torch.testing.assert_close(solution.value, torch.linalg.solve(damped.dense(), rhs))
    assert solution.converged
    assert float(solution.residual.max()) < 1e-10


def test_an_uneven_damping_leaves_a_residual_and_the_tolerance_judges_it(operator) -> None:
    damped = operator + torch.linspace(0.1, 0.3, 43, dtype=torch.float64)
    rhs = torch.ones(43, dtype=torch.float64)
    solution = solve(damped, rhs, KroneckerInverse(tolerance=0.5))
    left = float((rhs - damped.dense() @ solution.value).norm() / rhs.norm())
    assert 1e-6 < left < 0.5
    assert float(solution.residual) == pytest.approx(left)
    assert solution.converged
    assert solution.iterations == 0
    assert solve(damped, rhs, KroneckerInverse(tolerance=float(solution.residual))).converged
    with pytest.warns(NotConvergedWarning, match="the damping varies within a layer: use conjugate gradients"):
        assert not solve(damped, rhs, KroneckerInverse(tolerance=0.5 * left)).converged
    with pytest.raises(NotConvergedError, match="the damping varies within a layer"):
        solve(damped, rhs, KroneckerInverse(tolerance=0.5 * left, on_failure="raise"))


def test_other_operators_are_refused() -> None:
    with pytest.raises(TypeError, match="the solver 'ekfac' needs the curvature 'ekfac', got a DenseOperator"):
        solve(torch.eye(2), torch.ones(2), "ekfac")
