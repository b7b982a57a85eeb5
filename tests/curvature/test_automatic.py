from dataclasses import replace

import pytest
import torch
from torch import nn

from bayes_influence.curvature.errors import IndefiniteCurvatureError, NotConvergedError, NotConvergedWarning
from bayes_influence.curvature.operators.base import DenseOperator, LinearOperator
from bayes_influence.curvature.operators.ekfac import EKFACOperator
from bayes_influence.curvature.operators.gauss_newton import GaussNewtonOperator
from bayes_influence.curvature.operators.hessian import HessianOperator
from bayes_influence.curvature.solvers import automatic
from bayes_influence.curvature.solvers.automatic import Auto
from bayes_influence.curvature.solvers.conjugate_gradients import ConjugateGradients
from bayes_influence.curvature.solvers.preconditioners import nystrom_preconditioner
from bayes_influence.curvature.solvers.registry import solve
from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.likelihoods import CrossEntropy
from bayes_influence.objectives.objective import Objective
from bayes_influence.objectives.regularisers import WeightDecay


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
    solution = solve(operator, rhs, Auto(tolerance=1e-9))
    assert solution.note == "auto chose conjugate gradients: P = 3000 > 2000"
    torch.testing.assert_close(solution.value, rhs / operator.entries.unsqueeze(1), rtol=1e-7, atol=1e-7)


@pytest.fixture(scope="module")
def large_system() -> tuple[Objective, Dataset]:
    """2 223 parameters, 700 examples whose features decay, as the principal components of images do."""
    generator = torch.Generator().manual_seed(9)
    scales = 10 / torch.arange(1, 71, dtype=torch.float64)
    inputs = scales * torch.randn(700, 70, dtype=torch.float64, generator=generator)
    torch.manual_seed(9)
    network = nn.Sequential(nn.Linear(70, 30), nn.Tanh(), nn.Linear(30, 3)).double()
    data = Dataset(inputs, torch.randint(3, (700,), generator=generator), torch.arange(700))
    return Objective(network, CrossEntropy(), WeightDecay(1e-3)), data


def test_a_system_that_needs_many_steps_is_preconditioned_by_a_part_of_the_data(large_system) -> None:
    objective, data = large_system
    operator = GaussNewtonOperator(objective, data) + 0.001
    prepared = Auto(tolerance=1e-6).prepare(operator)
    rhs = torch.randn(operator.size, dtype=torch.float64)
    plain = solve(operator, rhs, ConjugateGradients(tolerance=1e-6))
    first, second = prepared(rhs), prepared(rhs)
    assert "after 25 plain steps preconditioned by a Nystrom approximation of rank 100" in first.note
    assert "plain steps" not in second.note
    assert 25 < first.iterations < plain.iterations
    # One vector a step, beside those that look at the true residual.
    assert first.iterations < first.products < first.iterations + 10
    assert second.iterations < plain.iterations / 1.5
    for solution in (first, second):
        torch.testing.assert_close(solution.value, plain.value, rtol=1e-3, atol=1e-3)


def test_a_system_that_needs_few_steps_is_not(large_system) -> None:
    objective, data = large_system
    operator = GaussNewtonOperator(objective, data) + 1.0
    solution = solve(operator, torch.randn(operator.size, dtype=torch.float64))
    assert solution.iterations < 25
    assert "preconditioned" not in solution.note


def test_the_callers_preconditioner_is_taken(large_system) -> None:
    objective, data = large_system
    curvature = GaussNewtonOperator(objective, data)
    preconditioner = nystrom_preconditioner(curvature, 0.1, rank=30)
    rhs = torch.randn(curvature.size, dtype=torch.float64)
    solution = solve(curvature + 0.1, rhs, ConjugateGradients(preconditioner=preconditioner))
    assert solution.note == "preconditioned by a Nystrom approximation of rank 30"


def test_stopping_early_is_said(large_system) -> None:
    objective, data = large_system
    operator = GaussNewtonOperator(objective, data) + 0.001
    rhs = torch.randn(operator.size, dtype=torch.float64)
    with pytest.warns(NotConvergedWarning, match="above the tolerance 1e-06, after 5 iterations"):
        solve(operator, rhs, Auto(tolerance=1e-6, max_iterations=5))
    with pytest.raises(NotConvergedError, match="above the tolerance 1e-12, after 30 iterations"):
        solve(operator, rhs, Auto(tolerance=1e-12, max_iterations=30, on_failure="raise"))


def test_no_preconditioner_where_the_likelihood_is_not_convex(large_system, monkeypatch) -> None:
    monkeypatch.setattr(automatic, "PLAIN_STEPS", 5)
    objective, data = large_system

    def saturating(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.tanh(CrossEntropy()(outputs, targets))

    operator = HessianOperator(replace(objective, likelihood=saturating), data) + 1.5
    solution = solve(operator, torch.randn(operator.size, dtype=torch.float64), Auto(tolerance=1e-10))
    assert solution.converged
    assert solution.iterations > 5
    assert "preconditioned" not in solution.note


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
    solution = solve(Diagonal(entries), rhs, Auto(on_indefinite=way, tolerance=1e-6))
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
    prepared = Auto().prepare(DenseOperator(matrix))
    for _ in range(2):
        rhs = torch.randn(5, dtype=torch.float64)
        torch.testing.assert_close(matrix @ prepared(rhs).value, rhs)


@pytest.mark.usefixtures("as_installed")
def test_unknown_names() -> None:
    with pytest.raises(ValueError, match="unknown solver 'cg'; known: auto, cholesky"):
        solve(torch.eye(2), torch.ones(2), "cg")
    with pytest.raises(ValueError, match="on_indefinite must be one of raise, minres, absolute, got 'ignore'"):
        solve(torch.eye(2), torch.ones(2), Auto(on_indefinite="ignore"))


def test_a_sketch_needs_data_and_a_damping_that_is_positive_everywhere(
    make_objective, classification, monkeypatch
) -> None:
    monkeypatch.setattr(automatic, "SKETCH_RANK", 10)
    curvature = GaussNewtonOperator(make_objective(), classification)
    even, uneven = torch.full((2, 43), 0.1, dtype=torch.float64)
    uneven[7] = 0.0
    assert automatic._sketched_preconditioner(curvature + even) is not None
    assert automatic._sketched_preconditioner(curvature + uneven) is None
    assert automatic._sketched_preconditioner(curvature) is None
    assert automatic._sketched_preconditioner(DenseOperator(torch.eye(43).double()) + even) is None
