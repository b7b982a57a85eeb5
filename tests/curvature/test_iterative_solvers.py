"""What every solver of a positive definite system promises, against the dense inverse."""

from collections.abc import Callable

import pytest
import torch

from bayes_influence.curvature.errors import IndefiniteCurvatureError, NotConvergedError, NotConvergedWarning
from bayes_influence.curvature.operators.base import DenseOperator
from bayes_influence.curvature.operators.ekfac import EKFACOperator
from bayes_influence.curvature.operators.gauss_newton import EmpiricalFisherOperator, GaussNewtonOperator
from bayes_influence.curvature.operators.hessian import HessianOperator
from bayes_influence.curvature.operators.last_layer import LastLayerOperator
from bayes_influence.curvature.solvers.conjugate_gradients import ConjugateGradients, run_conjugate_gradients
from bayes_influence.curvature.solvers.krylov_functions import Absolute, LowRank
from bayes_influence.curvature.solvers.lissa import LiSSA
from bayes_influence.curvature.solvers.minres import MINRES
from bayes_influence.curvature.solvers.preconditioners import NystromPreconditioner, nystrom_preconditioner
from bayes_influence.curvature.solvers.registry import SOLVERS, solve

EXACT = {
    "cholesky": {},
    "eigendecomposition": {},
    "conjugate-gradients": {"tolerance": 1e-11},
    "minres": {"tolerance": 1e-11},
    "lissa": {"tolerance": 1e-11},
    "absolute": {"tolerance": 1e-8},
    "auto": {},
}

OPERATORS: dict[str, tuple[Callable, str]] = {
    "last layer": (LastLayerOperator, "last-layer"),
    "Hessian": (HessianOperator, "last-layer"),
    "Gauss-Newton": (GaussNewtonOperator, "all"),
    "empirical Fisher": (EmpiricalFisherOperator, "all"),
    "EK-FAC": (EKFACOperator, "all"),
}


@pytest.fixture(scope="module", params=OPERATORS)
def system(request):
    """A damped operator and its dense inverse."""
    make, selection = OPERATORS[request.param]
    objective = request.getfixturevalue("make_objective")(selection)
    operator = make(objective, request.getfixturevalue("classification")) + 0.5
    return operator, torch.linalg.inv(operator.dense())


@pytest.mark.parametrize("method", EXACT)
@pytest.mark.parametrize("columns", [(), (18,)])
def test_every_operator_with_every_solver_equals_the_dense_inverse(system, method, columns) -> None:
    operator, inverse = system
    rhs = torch.randn(operator.size, *columns, dtype=torch.float64)
    solution = solve(operator, rhs, SOLVERS[method](**EXACT[method]))
    assert solution.converged
    assert solution.value.shape == rhs.shape
    assert solution.residual.shape == columns
    error = (solution.value - inverse @ rhs).norm() / (inverse @ rhs).norm()
    assert error < 1e-8


ITERATIVE = {
    "conjugate gradients": (ConjugateGradients, {"max_iterations": 2}),
    "MINRES": (MINRES, {"max_iterations": 2}),
    "LiSSA": (LiSSA, {"steps": 2}),
    "absolute": (Absolute, {"steps": 2}),
    "low rank": (LowRank, {"rank": 1, "steps": 2}),
}


@pytest.mark.parametrize("name", ITERATIVE)
def test_stopping_early_is_said_with_the_true_residual(random_matrix, name) -> None:
    solver, options = ITERATIVE[name]
    matrix = random_matrix(torch.linspace(0.1, 3, 30))
    operator = DenseOperator(matrix) + 0.01
    rhs = torch.randn(30, 2, dtype=torch.float64)
    with pytest.warns(NotConvergedWarning, match=r"stopped at relative residual \d.* above the tolerance"):
        solution = solve(operator, rhs, solver(**options))
    residual = (rhs - operator @ solution.value).norm(dim=0) / rhs.norm(dim=0)
    torch.testing.assert_close(solution.residual, residual)
    assert not solution.converged
    with pytest.raises(NotConvergedError, match="stopped at relative residual"):
        solve(operator, rhs, solver(**options, on_failure="raise"))


@pytest.mark.parametrize("solver", [ConjugateGradients, MINRES, Absolute])
def test_zero_and_repeated_right_hand_sides(random_matrix, solver) -> None:
    """Residuals that are linearly dependent from the start, and one that is 0."""
    matrix = random_matrix(torch.linspace(1, 3, 20))
    v = torch.randn(20, dtype=torch.float64)
    rhs = torch.stack([v, torch.zeros_like(v), v, 2 * v], dim=1)
    solution = solve(matrix, rhs, solver(tolerance=1e-10))
    torch.testing.assert_close(solution.value, torch.linalg.solve(matrix, rhs), rtol=1e-8, atol=1e-8)
    assert solution.residual[1] == 0


class TestConjugateGradients:
    def test_finite_termination(self, random_matrix) -> None:
        """As many steps as there are distinct eigenvalues."""
        matrix = random_matrix(torch.tensor([1.0] * 10 + [2.0] * 10 + [5.0] * 10))
        assert solve(matrix, torch.randn(30, dtype=torch.float64), ConjugateGradients(tolerance=1e-10)).iterations == 3

    def test_a_block_needs_fewer_steps_than_its_columns(self, random_matrix) -> None:
        matrix = random_matrix(torch.logspace(-3, 0, 120))
        rhs = torch.randn(120, 12, dtype=torch.float64)
        together = solve(matrix, rhs, ConjugateGradients(tolerance=1e-8)).iterations
        alone = solve(matrix, rhs[:, 0], ConjugateGradients(tolerance=1e-8)).iterations
        assert together <= 15
        assert alone > 3 * together

    def test_what_is_solved_exactly_has_no_residual(self) -> None:
        solution = solve(2 * torch.eye(4).double(), torch.eye(4).double(), ConjugateGradients(tolerance=1e-12))
        assert torch.equal(solution.value, 0.5 * torch.eye(4).double())
        assert not solution.residual.any()

    def test_more_right_hand_sides_than_a_block_holds(self, random_matrix) -> None:
        matrix = random_matrix(torch.linspace(1, 3, 40))
        rhs = torch.randn(40, 100, dtype=torch.float64)
        torch.testing.assert_close(
            solve(matrix, rhs, ConjugateGradients(tolerance=1e-12)).value, torch.linalg.solve(matrix, rhs)
        )

    def test_a_good_start_is_kept(self, random_matrix) -> None:
        matrix = random_matrix(torch.linspace(1, 3, 20))
        rhs = torch.randn(20, dtype=torch.float64)
        exact = torch.linalg.solve(matrix, rhs)
        solution = run_conjugate_gradients(DenseOperator(matrix), rhs, 1e-5, 500, start=exact)
        assert solution.iterations == 0
        torch.testing.assert_close(solution.value, exact)

    def test_single_precision_reaches_what_it_can(self, random_matrix) -> None:
        matrix = random_matrix(torch.logspace(-2, 0, 60)).float()
        rhs = torch.randn(60, 4)
        solution = solve(matrix, rhs, ConjugateGradients(tolerance=2e-6))
        assert solution.converged
        assert solution.value.dtype == torch.float32

    def test_names_negative_curvature(self, random_matrix) -> None:
        matrix = random_matrix(torch.cat([torch.tensor([-0.3]), torch.linspace(0.5, 3, 29)]))
        with pytest.raises(
            IndefiniteCurvatureError, match="conjugate gradients: the curvature is indefinite"
        ) as caught:
            solve(matrix, torch.randn(30, dtype=torch.float64), ConjugateGradients())
        assert -0.3 - 1e-6 < caught.value.smallest_eigenvalue < 0

    def test_names_negative_curvature_behind_a_preconditioner(self, random_matrix) -> None:
        eigenvalues = torch.cat([torch.tensor([-0.3]), torch.linspace(0.5, 3, 29)])
        definite = nystrom_preconditioner(DenseOperator(random_matrix(eigenvalues.abs())), 0.1, rank=10)
        with pytest.raises(IndefiniteCurvatureError, match="is indefinite") as caught:
            solve(random_matrix(eigenvalues), torch.randn(30).double(), ConjugateGradients(preconditioner=definite))
        assert -0.3 - 1e-6 < caught.value.smallest_eigenvalue < 0


class Counting(DenseOperator):
    """Counts the vectors that it is multiplied with."""

    def __init__(self, matrix) -> None:
        super().__init__(matrix)
        self.count = 0

    def _product(self, vectors):
        self.count += vectors.shape[1]
        return super()._product(vectors)


def test_conjugate_gradients_count_their_products(random_matrix) -> None:
    operator = Counting(random_matrix(torch.linspace(0.1, 3, 90)))
    solution = solve(operator, torch.randn(90, 70, dtype=torch.float64), ConjugateGradients(tolerance=1e-8))
    assert solution.products == operator.count > 70


class TestPreconditioners:
    @pytest.mark.parametrize("damping", [0.01, "diagonal"])
    def test_nystrom_of_full_rank_is_the_matrix(self, random_matrix, damping) -> None:
        matrix = random_matrix(torch.linspace(0.5, 3, 15))
        if damping == "diagonal":
            damping = torch.linspace(0.1, 1, 15, dtype=torch.float64)
        preconditioner = nystrom_preconditioner(DenseOperator(matrix), damping, rank=15)
        self.check_factors(preconditioner, (DenseOperator(matrix) + damping).dense())

    @pytest.mark.parametrize("rank", [1, 5])
    def test_nystrom_of_less_rank_takes_the_last_eigenvalue_for_the_rest(self, random_matrix, rank) -> None:
        """M = D^(1/2) [U diag(lambda + 1) U' + (lambda_r + 1)(I - U U')] D^(1/2)."""
        damping = torch.linspace(0.1, 1, 15, dtype=torch.float64)
        found = nystrom_preconditioner(DenseOperator(random_matrix(torch.linspace(0.5, 3, 15))), damping, rank)
        directions, identity = found.eigenvectors, torch.eye(15, dtype=torch.float64)
        torch.testing.assert_close(directions.T @ directions, identity[:rank, :rank])
        inside = directions @ torch.diag(found.eigenvalues + 1) @ directions.T
        rest = (found.eigenvalues.min() + 1) * (identity - directions @ directions.T)
        self.check_factors(found, damping.sqrt().unsqueeze(1) * (inside + rest) * damping.sqrt())

    @staticmethod
    def check_factors(preconditioner, matrix) -> None:
        """L L' = M, L^{-1} L = I, and L^{-T} is the transpose of L^{-1}."""
        identity = torch.eye(len(matrix), dtype=matrix.dtype)
        factor = preconditioner.unwhiten(identity)
        torch.testing.assert_close(factor @ factor.T, matrix, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(preconditioner.whiten(factor), identity, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(preconditioner.whiten_transposed(identity), preconditioner.whiten(identity).T)

    def test_nystrom_removes_the_outlying_eigenvalues(self, random_matrix) -> None:
        eigenvalues = torch.cat([torch.linspace(100, 1000, 10), torch.linspace(0, 0.01, 90)])
        operator = DenseOperator(random_matrix(eigenvalues))
        rhs = torch.randn(100, dtype=torch.float64)
        preconditioner = nystrom_preconditioner(operator, 0.01, rank=12)
        plain = solve(operator + 0.01, rhs, ConjugateGradients(tolerance=1e-10))
        faster = solve(operator + 0.01, rhs, ConjugateGradients(tolerance=1e-10, preconditioner=preconditioner))
        torch.testing.assert_close(faster.value, plain.value, rtol=1e-6, atol=1e-6)
        assert faster.iterations < plain.iterations / 1.5
        assert "Nystrom approximation of rank 12" in faster.note

    def test_nystrom_of_a_singular_curvature(self, random_matrix) -> None:
        operator = DenseOperator(random_matrix(torch.tensor([0.0] * 20 + [1.0, 2.0])))
        preconditioner = nystrom_preconditioner(operator, 0.1, rank=5)
        assert isinstance(preconditioner, NystromPreconditioner)
        torch.testing.assert_close(
            preconditioner.eigenvalues[:3], torch.tensor([20.0, 10.0, 0.0]).double(), rtol=1e-6, atol=1e-6
        )

    def test_nystrom_refuses_negative_curvature(self, random_matrix) -> None:
        operator = DenseOperator(random_matrix(torch.linspace(-2, 1, 20)))
        with pytest.raises(IndefiniteCurvatureError, match="Nystrom preconditioner: the curvature is indefinite"):
            nystrom_preconditioner(operator, 0.1, rank=10)
        with pytest.raises(IndefiniteCurvatureError) as caught:
            nystrom_preconditioner(operator, 0.1, rank=20)
        assert caught.value.smallest_eigenvalue == pytest.approx(-2)  # of all directions, those of the matrix

    @pytest.mark.parametrize("rank", [0, 6])
    def test_nystrom_refuses_an_impossible_rank(self, rank) -> None:
        with pytest.raises(ValueError, match=f"rank must be between 1 and P = 5, got {rank}"):
            nystrom_preconditioner(DenseOperator(torch.eye(5)), 0.1, rank)

    def test_nystrom_needs_damping(self) -> None:
        with pytest.raises(ValueError, match="needs positive damping, got 0"):
            nystrom_preconditioner(DenseOperator(torch.eye(5)), 0.0, 2)


class TestMinres:
    def test_solves_an_indefinite_system(self, random_matrix) -> None:
        matrix = random_matrix(torch.cat([torch.linspace(-2, -0.5, 10), torch.linspace(0.5, 3, 20)]))
        rhs = torch.randn(30, 3, dtype=torch.float64)
        solution = solve(matrix, rhs, MINRES(tolerance=1e-10))
        torch.testing.assert_close(solution.value, torch.linalg.solve(matrix, rhs), rtol=1e-7, atol=1e-7)

    def test_minimises_the_residual_over_the_krylov_space(self, random_matrix) -> None:
        matrix = random_matrix(torch.linspace(-1, 2, 20))
        v = torch.randn(20, dtype=torch.float64)
        krylov = torch.stack([v, matrix @ v, matrix @ (matrix @ v)], dim=1)
        best = torch.linalg.lstsq(matrix @ krylov, v.unsqueeze(1)).solution
        with pytest.warns(NotConvergedWarning):
            solution = solve(matrix, v, MINRES(max_iterations=3))
        torch.testing.assert_close(solution.value, (krylov @ best).squeeze(1))


class TestLowRank:
    def test_replaces_the_curvature_by_its_largest_eigenvalues(self, random_matrix) -> None:
        eigenvalues = torch.cat([torch.linspace(0, 0.01, 20), torch.tensor([-0.05, 1.0, 2.0, 4.0])])
        kept = torch.where(eigenvalues.abs() > 0.02, eigenvalues, 0.0)
        rhs = torch.randn(24, 2, dtype=torch.float64)
        identity = torch.eye(24, dtype=torch.float64)
        solution = solve(DenseOperator(random_matrix(eigenvalues)) + 0.1, rhs, LowRank(rank=4, steps=24, tolerance=0.2))
        torch.testing.assert_close(solution.value, torch.linalg.solve(random_matrix(kept) + 0.1 * identity, rhs))

    def test_is_exact_at_full_rank_with_any_damping(self, random_matrix) -> None:
        damping = torch.linspace(0.1, 2, 12, dtype=torch.float64)
        operator = DenseOperator(random_matrix(torch.linspace(0, 3, 12))) + damping
        rhs = torch.randn(12, dtype=torch.float64)
        solution = solve(operator, rhs, LowRank(rank=12, tolerance=1e-9))
        torch.testing.assert_close(solution.value, torch.linalg.solve(operator.dense(), rhs))

    def test_needs_damping(self) -> None:
        with pytest.raises(ValueError, match="needs damping everywhere"):
            solve(DenseOperator(torch.eye(3)) + 0.0, torch.ones(3), LowRank(rank=1))

    def test_refuses_more_rank_than_steps(self) -> None:
        with pytest.raises(ValueError, match="rank must be between 1 and the 3 Lanczos steps, got 4"):
            LowRank(rank=4, steps=3)

    def test_takes_all_of_a_matrix_that_is_smaller_than_the_rank(self, random_matrix) -> None:
        operator = DenseOperator(random_matrix(torch.linspace(0, 3, 12))) + 0.1
        rhs = torch.randn(12, 2, dtype=torch.float64)
        solution = solve(operator, rhs, "low-rank")
        torch.testing.assert_close(solution.value, torch.linalg.solve(operator.dense(), rhs))
        assert solution.method == "low rank (12) with a damped tail"

    def test_refuses_negative_curvature_beyond_the_damping(self, random_matrix) -> None:
        operator = DenseOperator(random_matrix(torch.tensor([-1.0, 1.0, 2.0]))) + 0.5
        with pytest.raises(ValueError, match="an eigenvalue -2 times the damping"):
            solve(operator, torch.ones(3, dtype=torch.float64), LowRank(rank=3))


class TestAbsoluteInverse:
    def test_turns_negative_curvature_round(self, random_matrix) -> None:
        eigenvalues = torch.cat([torch.linspace(-2, -0.5, 10), torch.linspace(0.5, 3, 15)])
        rhs = torch.randn(25, 18, dtype=torch.float64)
        solution = solve(random_matrix(eigenvalues), rhs, Absolute(tolerance=1e-9))
        torch.testing.assert_close(solution.value, torch.linalg.solve(random_matrix(eigenvalues.abs()), rhs))
        assert "heuristic" in solution.method

    def test_a_right_hand_side_in_an_invariant_subspace(self, random_matrix) -> None:
        matrix = random_matrix(torch.linspace(-1, 2, 10))
        _, vectors = torch.linalg.eigh(matrix)
        solution = solve(matrix, vectors[:, 0], Absolute(tolerance=1e-10))
        torch.testing.assert_close(solution.value, vectors[:, 0])
