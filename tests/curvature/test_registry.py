"""What stands for a solver."""

import pytest
import torch

from bayes_influence.curvature.operators.base import DenseOperator
from bayes_influence.curvature.operators.ekfac import EKFACOperator
from bayes_influence.curvature.solvers.conjugate_gradients import ConjugateGradients
from bayes_influence.curvature.solvers.lissa import LiSSA
from bayes_influence.curvature.solvers.registry import SOLVERS, as_solver, solve
from bayes_influence.curvature.solvers.solution import Solution


@pytest.mark.parametrize("name", SOLVERS)
def test_object_class_and_name_mean_the_same(name):
    assert as_solver(name) == as_solver(SOLVERS[name]) == as_solver(SOLVERS[name]()) == SOLVERS[name]()


@pytest.mark.parametrize("name", SOLVERS)
def test_every_name_works_with_its_defaults(name, make_objective, classification, random_matrix):
    if name == "ekfac":
        operator = EKFACOperator(make_objective(), classification) + 0.5
    else:
        operator = DenseOperator(random_matrix(torch.linspace(0, 3, 20))) + 0.5
    rhs = torch.randn(operator.size, 2, dtype=torch.float64)
    solution = solve(operator, rhs, name)
    assert solution.converged
    torch.testing.assert_close(solution.value, torch.linalg.solve(operator.dense(), rhs), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("name", SOLVERS)
def test_only_factors_ask_for_the_dense_matrix(name):
    small, large = DenseOperator(torch.eye(2)), DenseOperator(torch.eye(2001))
    expected = {"auto": (True, False), "cholesky": (True, True), "eigendecomposition": (True, True)}
    assert (as_solver(name).factors(small), as_solver(name).factors(large)) == expected.get(name, (False, False))


def test_a_function_is_taken():
    def mine(operator, rhs):
        return Solution(rhs, torch.zeros(rhs.shape[1:]), True, 0, "mine", 1.0)

    solver = as_solver(mine)
    assert repr(solver) == "mine"
    assert solve(torch.eye(2), torch.ones(2), mine).method == "mine"


def test_a_range_of_the_spectrum_serves_many_right_hand_sides(random_matrix):
    matrix = random_matrix(torch.linspace(1, 2, 8))
    prepared = LiSSA(tolerance=1e-10).prepare(DenseOperator(matrix))
    for _ in range(2):
        rhs = torch.randn(8, dtype=torch.float64)
        torch.testing.assert_close(matrix @ prepared(rhs).value, rhs)


@pytest.mark.usefixtures("as_installed")
def test_what_is_no_solver_is_refused():
    with pytest.raises(ValueError, match="unknown solver 'cg'; known: auto, cholesky"):
        as_solver("cg")
    with pytest.raises(TypeError, match=r"a solver is an object such as ConjugateGradients.* got float"):
        as_solver(0.5)
    with pytest.raises(ValueError, match=r"the tolerance of a solver must be positive, got 0"):
        ConjugateGradients(tolerance=0)
