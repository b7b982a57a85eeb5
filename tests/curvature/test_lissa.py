import math

import pytest
import torch

from bayes_influence.curvature.errors import NotConvergedWarning
from bayes_influence.curvature.operators.base import DenseOperator
from bayes_influence.curvature.operators.gauss_newton import GaussNewtonOperator
from bayes_influence.curvature.operators.last_layer import LastLayerOperator
from bayes_influence.curvature.solvers.lissa import LiSSA
from bayes_influence.curvature.solvers.registry import solve
from bayes_influence.data.dataset import Dataset
from bayes_influence.objectives.likelihoods import GaussianNoise
from bayes_influence.objectives.objective import Objective


def test_scale_and_shrinkage_are_a_damping(random_matrix) -> None:
    """Scale 10 and shrinkage .01 solve with a damping of 0.1."""
    matrix = random_matrix(torch.linspace(0.01, 3, 20))
    rhs = torch.randn(20, 2, dtype=torch.float64)
    solution = solve(matrix, rhs, LiSSA(scale=10.0, shrinkage=0.01, tolerance=1e-10))
    identity = torch.eye(20, dtype=torch.float64)
    torch.testing.assert_close(solution.value, torch.linalg.solve(matrix + 0.1 * identity, rhs))
    assert "damping 0.1" in solution.note
    assert solution.smallest_eigenvalue == pytest.approx(0.11)


def test_the_recursion_step_by_step(random_matrix) -> None:
    matrix = random_matrix(torch.linspace(0.5, 3, 8))
    v = torch.randn(8, dtype=torch.float64)
    h = v
    for _ in range(3):
        h = v + (1 - 0.2) * h - matrix @ h / 5.0
    solution = solve(matrix, v, LiSSA(scale=5.0, shrinkage=0.2, steps=3, tolerance=10.0))
    torch.testing.assert_close(solution.value, h / 5.0)


def test_scale_and_length_are_chosen_from_the_spectrum(random_matrix) -> None:
    solution = solve(random_matrix(torch.linspace(0.5, 3, 20)), torch.ones(20).double(), LiSSA(tolerance=1e-4))
    assert solution.scale == pytest.approx(3.3)
    assert solution.iterations == math.ceil(3.3 / 0.5 * math.log(1e4))
    assert solution.converged


def test_a_negative_eigenvalue_inside_the_range_converges(random_matrix) -> None:
    """-s d < lambda_min: s d = 0.4 is above 0.3."""
    matrix = random_matrix(torch.linspace(-0.3, 3, 12))
    rhs = torch.randn(12, dtype=torch.float64)
    solution = solve(matrix, rhs, LiSSA(scale=4.0, shrinkage=0.1, tolerance=1e-9))
    torch.testing.assert_close(solution.value, torch.linalg.solve(matrix + 0.4 * torch.eye(12).double(), rhs))


def test_eigenvalues_up_to_twice_the_scale_converge(random_matrix) -> None:
    matrix = random_matrix(torch.linspace(0.5, 3, 12))
    rhs = torch.randn(12, dtype=torch.float64)
    solution = solve(matrix, rhs, LiSSA(scale=1.6, steps=400, tolerance=1e-8))
    torch.testing.assert_close(solution.value, torch.linalg.solve(matrix, rhs))


def test_too_small_a_scale_is_refused_before_the_run(random_matrix) -> None:
    with pytest.raises(ValueError, match=r"lambda_max = 3 is not below s \(2 - d\) = 2.*take a scale of 3.3"):
        solve(random_matrix(torch.linspace(0.5, 3, 12)), torch.ones(12).double(), LiSSA(scale=1.0))


def test_negative_curvature_is_refused_before_the_run(random_matrix) -> None:
    matrix, v = random_matrix(torch.linspace(-0.3, 3, 12)), torch.ones(12).double()
    with pytest.raises(ValueError, match=r"lambda_min = -0.3 is not above.*add damping of 0.33 \(with shrinkage 0 no"):
        solve(matrix, v, LiSSA())
    with pytest.raises(ValueError, match=r"is not above -s d = -0.1; .*\(take a scale of 33\)"):
        solve(matrix, v, LiSSA(scale=10.0, shrinkage=0.01))


@pytest.mark.parametrize(("scale", "shrinkage"), [(-1.0, 0.1), (1.0, 1.0), (1.0, -0.1)])
def test_impossible_scale_or_shrinkage(random_matrix, scale, shrinkage) -> None:
    with pytest.raises(ValueError, match="needs a scale > 0 and a shrinkage in"):
        solve(random_matrix(torch.linspace(1, 2, 4)), torch.ones(4).double(), LiSSA(scale=scale, shrinkage=shrinkage))


@pytest.mark.parametrize("kind", [GaussNewtonOperator, LastLayerOperator])
def test_minibatches_agree_with_all_data_within_their_standard_error(make_objective, classification, kind) -> None:
    operator = kind(make_objective("last-layer"), classification) + 0.2
    rhs = torch.randn(18, dtype=torch.float64)
    exact = torch.linalg.solve(operator.dense(), rhs)
    solution = solve(operator, rhs, LiSSA(minibatch=12, scale=4.0, steps=80, repeats=8, tolerance=0.5, seed=3))
    score, probe = solution.repeats @ rhs, rhs
    deviation = abs(float(probe @ (solution.value - exact)))
    assert deviation < 4 * float(score.std()) / 8**0.5
    assert float((solution.value - exact).norm() / exact.norm()) < 0.1
    assert solution.standard_error().shape == (18,)
    assert solution.iterations == 640


def test_the_seed_decides_the_minibatches(make_objective, classification) -> None:
    operator = GaussNewtonOperator(make_objective("last-layer"), classification) + 0.2
    rhs = torch.randn(18, dtype=torch.float64)

    def run(seed: int) -> torch.Tensor:
        return solve(operator, rhs, LiSSA(minibatch=5, scale=8.0, steps=20, tolerance=10.0, seed=seed)).value

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))


def test_a_minibatch_beyond_the_scale_is_said(classification) -> None:
    """One large example: alone it has n times the curvature that it adds to the mean."""
    inputs = classification.inputs.clone()
    inputs[0] *= 100
    data = Dataset(inputs, torch.randn(24, 1, dtype=torch.float64), classification.ids)
    operator = GaussNewtonOperator(Objective(torch.nn.Linear(4, 1).double(), GaussianNoise()), data) + 1.0
    with pytest.raises(ValueError, match="eigenvalues of a minibatch exceed the scale"):
        solve(operator, torch.ones(5).double(), LiSSA(minibatch=1, steps=2000))


def test_minibatches_need_data() -> None:
    with pytest.raises(ValueError, match="need the operator of an objective on a dataset, got DenseOperator"):
        solve(DenseOperator(torch.eye(3)), torch.ones(3), LiSSA(minibatch=2))


def test_minibatches_larger_than_the_data_are_refused(make_objective, classification) -> None:
    operator = GaussNewtonOperator(make_objective("last-layer"), classification)
    with pytest.raises(ValueError, match="between 1 and n = 24 examples, got 25"):
        solve(operator, torch.ones(18).double(), LiSSA(minibatch=25))


@pytest.mark.parametrize("repeats", [2, 5])
def test_the_standard_error_is_that_of_the_mean_over_the_repeats(make_objective, classification, repeats) -> None:
    operator, rhs = LastLayerOperator(make_objective("last-layer"), classification) + 0.2, torch.ones(18).double()
    solution = solve(operator, rhs, LiSSA(minibatch=5, scale=8.0, steps=20, tolerance=10.0, repeats=repeats))
    centred = solution.repeats - solution.repeats.mean(dim=0)
    expected = (centred.square().sum(dim=0) / (repeats - 1) / repeats).sqrt()
    torch.testing.assert_close(solution.standard_error(), expected)
    torch.testing.assert_close(solution.value, solution.repeats.mean(dim=0))


def test_a_standard_error_needs_repeats() -> None:
    with pytest.raises(ValueError, match="at least 2 repeats"):
        solve(DenseOperator(torch.eye(3)), torch.ones(3), LiSSA()).standard_error()


def test_the_ends_of_the_ranges_of_scale_and_shrinkage(random_matrix) -> None:
    matrix, rhs = random_matrix(torch.linspace(0.5, 3, 6)), torch.ones(6, dtype=torch.float64)
    for options in ({"scale": 0.0}, {"shrinkage": 1.0}, {"shrinkage": -0.1}):
        with pytest.raises(ValueError, match=r"needs a scale > 0 and a shrinkage in \[0, 1\)"):
            solve(matrix, rhs, LiSSA(**options))
    assert solve(matrix, rhs, LiSSA(shrinkage=0.0)).converged


def test_a_recursion_that_is_too_short_says_so() -> None:
    """At the scale 1 a mode keeps (1 - lambda)^(steps + 1) of its error: .75^3 where lambda is 1/4."""
    matrix, rhs = torch.diag(torch.tensor([1.0, 0.25], dtype=torch.float64)), torch.tensor([0.0, 1.0]).double()
    with pytest.warns(NotConvergedWarning):
        short = solve(matrix, rhs, LiSSA(scale=1.0, steps=2, tolerance=1e-3))
    assert not short.converged
    left = float(short.residual)
    assert left == pytest.approx(float((rhs - matrix @ short.value).norm()))
    assert left == pytest.approx(0.75**3)
    assert solve(matrix, rhs, LiSSA(scale=1.0, steps=2, tolerance=1.01 * left)).converged


def test_the_range_of_convergence_ends_at_the_scale_times_two_less_the_shrinkage(random_matrix) -> None:
    rhs = torch.ones(2, dtype=torch.float64)
    for largest, options in ((2.0, {"scale": 1.0}), (1.8, {"scale": 1.0, "shrinkage": 0.5})):
        with pytest.raises(ValueError, match=r"is not below s \(2 - d\)"):
            solve(torch.diag(torch.tensor([0.5, largest]).double()), rhs, LiSSA(**options))
    matrix = random_matrix(torch.linspace(0.5, 1.4, 6))
    found = solve(matrix, torch.ones(6).double(), LiSSA(scale=1.0, shrinkage=0.5, steps=400, tolerance=1e-9))
    expected = torch.linalg.solve(matrix + 0.5 * torch.eye(6).double(), torch.ones(6).double())
    torch.testing.assert_close(found.value, expected)


@pytest.mark.parametrize("size", [1e-9, 1e9])
def test_a_right_hand_side_may_be_of_any_size(random_matrix, size) -> None:
    matrix, rhs = random_matrix(torch.linspace(0.5, 3, 6)), torch.linspace(-1, 2, 6, dtype=torch.float64)
    torch.testing.assert_close(solve(matrix, size * rhs, LiSSA()).value / size, solve(matrix, rhs, LiSSA()).value)


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("name", ["steps", "minibatch", "repeats", "max_steps"])
def test_counts_are_whole_numbers_from_one_on(name) -> None:
    for wrong, error in ((0, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match=f"{name} must be"):
            LiSSA(**{name: wrong})
