import pytest
import torch

from bayes_influence.curvature.errors import IndefiniteCurvatureError, NotConvergedError, NotConvergedWarning
from bayes_influence.curvature.operators.base import DenseOperator
from bayes_influence.curvature.operators.hessian import HessianOperator
from bayes_influence.curvature.solvers.dense import Cholesky, Eigendecomposition
from bayes_influence.curvature.solvers.registry import solve
from bayes_influence.objectives.derivatives import dense_hessian


@pytest.mark.parametrize("solver", [Cholesky, Eigendecomposition])
@pytest.mark.parametrize("shape", [(12,), (12, 1), (12, 4)])
def test_inverts_a_definite_matrix(random_matrix, solver, shape) -> None:
    matrix = random_matrix(torch.logspace(-3, 1, 12, dtype=torch.float64))
    rhs = torch.randn(shape, dtype=torch.float64)
    solution = solve(matrix, rhs, solver)
    torch.testing.assert_close(solution.value, torch.linalg.inv(matrix) @ rhs, rtol=1e-9, atol=1e-9)
    assert solution.converged
    assert solution.iterations == 0
    assert solution.residual.shape == shape[1:]
    assert (solution.residual < 1e-12).all()
    assert solution.smallest_eigenvalue == pytest.approx(1e-3, rel=1e-9)
    assert solution.largest_eigenvalue == pytest.approx(10, rel=1e-9)
    assert solution.condition_number == pytest.approx(1e4, rel=1e-9)


def test_inverts_a_damped_hessian(make_objective, classification) -> None:
    objective = make_objective("last-layer")
    rhs = torch.randn(18, 3, dtype=torch.float64)
    reference = dense_hessian(objective, classification.batch()) + 0.01 * torch.eye(18, dtype=torch.float64)
    solution = solve(HessianOperator(objective, classification, batch_size=6) + 0.01, rhs, Cholesky())
    torch.testing.assert_close(solution.value, torch.linalg.solve(reference, rhs), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("solver", [Cholesky, Eigendecomposition])
def test_keeps_the_dtype_of_the_right_hand_side(random_matrix, solver) -> None:
    matrix = random_matrix(torch.linspace(1, 2, 6)).float()
    solution = solve(matrix, torch.ones(6), solver)
    assert solution.value.dtype == torch.float32
    assert solution.residual < 1e-12


@pytest.mark.parametrize("solver", [Cholesky, Eigendecomposition])
def test_names_negative_curvature_and_what_to_do(random_matrix, solver) -> None:
    matrix = random_matrix(torch.tensor([-0.2, 0.5, 1.0, 3.0]))
    with pytest.raises(IndefiniteCurvatureError, match=r"smallest eigenvalue is -0\.2.*Gauss-Newton.*MINRES") as caught:
        solve(matrix, torch.ones(4, dtype=torch.float64), solver)
    assert caught.value.smallest_eigenvalue == pytest.approx(-0.2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("solver", [Cholesky, Eigendecomposition])
def test_refuses_the_singular_hessian_of_a_softmax_layer(classification, make_objective, solver, dtype) -> None:
    """Without a regulariser, adding a constant to all logits changes nothing."""
    operator = HessianOperator(make_objective("last-layer", decay=0.0, dtype=dtype), classification.to(dtype=dtype))
    with pytest.raises(IndefiniteCurvatureError, match="smallest eigenvalue is"):
        solve(operator, torch.ones(18, dtype=dtype), solver)


def test_solves_an_indefinite_matrix_when_told_to(random_matrix) -> None:
    eigenvalues = torch.tensor([-0.2, 0.5, 1.0, 3.0], dtype=torch.float64)
    matrix, magnitude = random_matrix(eigenvalues), random_matrix(eigenvalues.abs())
    rhs = torch.randn(4, 2, dtype=torch.float64)
    solved = solve(matrix, rhs, Eigendecomposition(on_indefinite="solve"))
    absolute = solve(matrix, rhs, Eigendecomposition(on_indefinite="absolute"))
    torch.testing.assert_close(solved.value, torch.linalg.solve(matrix, rhs))
    torch.testing.assert_close(absolute.value, torch.linalg.solve(magnitude, rhs))
    assert "heuristic" in absolute.method
    assert absolute.smallest_eigenvalue == pytest.approx(0.2)
    assert solved.smallest_eigenvalue == pytest.approx(-0.2)


def test_solving_as_it_stands_still_refuses_a_singular_matrix(random_matrix) -> None:
    operator = DenseOperator(random_matrix(torch.tensor([-1.0, 0.0, 1.0])))
    with pytest.raises(IndefiniteCurvatureError, match="singular to working precision"):
        Eigendecomposition(on_indefinite="solve").prepare(operator)


@pytest.mark.parametrize("solver", [Cholesky, Eigendecomposition])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_what_is_singular_does_not_depend_on_units(random_matrix, solver, scale) -> None:
    rhs = torch.ones(3, dtype=torch.float64)
    matrix = scale * random_matrix(torch.tensor([1e-6, 0.5, 1.0], dtype=torch.float64))
    solution = solve(matrix, rhs, solver)
    assert solution.condition_number == pytest.approx(1e6, rel=1e-3)
    with pytest.raises(IndefiniteCurvatureError, match="singular to working precision"):
        solve(scale * random_matrix(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)), rhs, solver)


@pytest.mark.usefixtures("as_installed")
def test_unknown_choice_for_indefinite_matrices() -> None:
    with pytest.raises(ValueError, match="on_indefinite must be 'raise', 'solve' or 'absolute', got 'ignore'"):
        Eigendecomposition(on_indefinite="ignore")


@pytest.mark.parametrize("factor", [Cholesky, Eigendecomposition])
def test_one_factor_serves_many_right_hand_sides(random_matrix, factor) -> None:
    matrix = random_matrix(torch.linspace(1, 5, 7))
    kept = factor().prepare(DenseOperator(matrix))
    for _ in range(3):
        rhs = torch.randn(7, dtype=torch.float64)
        torch.testing.assert_close(matrix @ kept(rhs).value, rhs)


def test_a_residual_above_the_tolerance_is_said_or_raised(random_matrix) -> None:
    matrix = random_matrix(torch.logspace(-12, 0, 30))
    rhs = torch.randn(30, dtype=torch.float64)
    with pytest.warns(NotConvergedWarning, match="cholesky stopped at relative residual .* above the tolerance 1e-30"):
        assert not solve(matrix, rhs, Cholesky(tolerance=1e-30)).converged
    with pytest.raises(NotConvergedError, match="above the tolerance 1e-30"):
        solve(matrix, rhs, Cholesky(tolerance=1e-30, on_failure="raise"))


@pytest.mark.usefixtures("as_installed")
def test_unknown_failure_action() -> None:
    with pytest.raises(ValueError, match="on_failure must be 'warn' or 'raise', got 'shrug'"):
        Cholesky(on_failure="shrug")


def test_zero_right_hand_side() -> None:
    solution = solve(torch.eye(3), torch.zeros(3, 2), Cholesky())
    assert not solution.value.any()
    assert not solution.residual.any()


def test_non_finite_curvature_is_refused() -> None:
    class Broken(DenseOperator):
        def dense(self) -> torch.Tensor:
            return torch.full((2, 2), torch.nan)

    with pytest.raises(ValueError, match="holds NaN or infinity"):
        solve(Broken(torch.eye(2)), torch.ones(2), Cholesky())
