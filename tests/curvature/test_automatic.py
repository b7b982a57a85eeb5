import pytest
import torch

from bayes_influence.curvature.errors import IndefiniteCurvatureError
from bayes_influence.curvature.operators.base import LinearOperator
from bayes_influence.curvature.operators.ekfac import EKFACOperator
from bayes_influence.curvature.solvers.automatic import prepare, solve
from bayes_influence.curvature.solvers.kronecker_inverse import ekfac_inverse


class Diagonal(LinearOperator):
    """A large matrix with known eigenvalues."""

    def __init__(self, entries: torch.Tensor) -> None:
        super().__init__(len(entries), entries.dtype, entries.device)
        self.entries = entries

    def _product(self, vectors: torch.Tensor) -> torch.Tensor:
        return self.entries.unsqueeze(1) * vectors


def test_small_and_definite_is_factored(random_matrix) -> None:
    solution = solve(random_matrix(torch.linspace(1, 2, 5)), torch.ones(5).double())
    assert solution.method == "cholesky"
    assert solution.note == "auto chose cholesky: P = 5 <= 2000"


def test_large_is_solved_by_products() -> None:
    operator = Diagonal(torch.linspace(1, 2, 3000, dtype=torch.float64))
    rhs = torch.randn(3000, 2, dtype=torch.float64)
    solution = solve(operator, rhs, tolerance=1e-9)
    assert solution.note == "auto chose conjugate gradients: P = 3000 > 2000"
    torch.testing.assert_close(solution.value, rhs / operator.entries.unsqueeze(1), rtol=1e-7, atol=1e-7)


def test_ekfac_is_inverted_in_its_basis(make_objective, classification) -> None:
    operator = EKFACOperator(make_objective(), classification) + 0.1
    solution = solve(operator, torch.ones(43).double())
    assert solution.method == "EK-FAC inverse"
    assert solution.residual < 1e-12
    assert "diagonal in its own basis" in solution.note


@pytest.mark.parametrize("size", [20, 2500])
@pytest.mark.parametrize("way", ["minres", "absolute"])
def test_indefinite_curvature_is_handled_in_the_chosen_way(size, way) -> None:
    entries = torch.cat([torch.linspace(-2, -1, size // 4), torch.linspace(1, 2, size - size // 4)]).double()
    rhs = torch.randn(size, dtype=torch.float64)
    solution = solve(Diagonal(entries), rhs, on_indefinite=way, tolerance=1e-6)
    expected = rhs / (entries if way == "minres" else entries.abs())
    torch.testing.assert_close(solution.value, expected, rtol=1e-4, atol=1e-4)
    assert ("lambda_min = -2" if size == 20 else "met the curvature -") in solution.note


@pytest.mark.parametrize("size", [20, 2500])
def test_indefinite_curvature_is_an_error_by_default(size) -> None:
    entries = torch.linspace(-1, 2, size, dtype=torch.float64)
    with pytest.raises(IndefiniteCurvatureError, match="the curvature is indefinite"):
        solve(Diagonal(entries), torch.ones(size, dtype=torch.float64))


def test_one_preparation_serves_many_right_hand_sides(random_matrix) -> None:
    matrix = random_matrix(torch.linspace(1, 2, 5))
    prepared = prepare(matrix)
    for _ in range(2):
        rhs = torch.randn(5, dtype=torch.float64)
        torch.testing.assert_close(matrix @ prepared(rhs).value, rhs)


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match="unknown solver 'cg'; known: auto, cholesky"):
        solve(torch.eye(2), torch.ones(2), "cg")
    with pytest.raises(ValueError, match="on_indefinite must be one of raise, minres, absolute, got 'ignore'"):
        solve(torch.eye(2), torch.ones(2), on_indefinite="ignore")


def test_ekfac_inverse_says_what_an_uneven_damping_leaves(make_objective, classification) -> None:
    operator = EKFACOperator(make_objective(), classification) + torch.linspace(0.1, 0.3, 43, dtype=torch.float64)
    solution = ekfac_inverse(operator, torch.ones(43, dtype=torch.float64), tolerance=0.5)
    assert 1e-6 < solution.residual < 0.5


def test_ekfac_inverse_refuses_other_operators() -> None:
    with pytest.raises(TypeError, match="needs an EKFACOperator, with or without damping, got DenseOperator"):
        solve(torch.eye(2), torch.ones(2), "ekfac")
